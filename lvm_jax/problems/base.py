"""A model with closed forms and an inexact guide, and data drawn from the model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core import checks
from lvm_jax.guides.base import Conditional, Guide
from lvm_jax.models.base import Joint, Model
from lvm_jax.typing import Array, ArrayLike, Distribution, Float, Key, Latent, Params


class Problem(NamedTuple):
    """A model with closed forms of log p(x) and p(z | x), and a q that is not the posterior.

    `p.log_evidence(x)` and `p.posterior(x)` are exact. theta is float64 NumPy; JAX rounds it to
    float32 unless x64 is on.
    """

    name: str
    model: Model
    theta: Params
    guide: Guide
    phi: Params
    discrepancy: str  # how the guide differs from the posterior

    @property
    def p(self) -> Joint:
        """The model with its parameters, as JAX arrays."""
        return self.model(on_device(self.theta))

    @property
    def q(self) -> Conditional:
        """The guide with its parameters, as JAX arrays."""
        return self.guide(on_device(self.phi))


def host(values: Any) -> Any:
    """`values` as a NumPy array in float64."""
    return np.asarray(values, np.float64)


def on_device(theta: Params) -> Params:
    """theta as JAX arrays in JAX's default precision."""
    return jax.tree.map(jnp.asarray, theta)


class Simulated(NamedTuple):
    """N data sets of one point each, drawn from the model."""

    x: Array  # [N, D]
    z: Latent  # the generating z, exact draws of p(z | x); leaves [N, ...]
    log_evidence: Float[np.ndarray, " N"]  # log p(x), exact, in nats


def simulate(key: Key[Array, ""], problem: Problem, num_points: int) -> Simulated:
    """Draw N pairs z ~ p(z), x ~ p(x | z), and compute the exact log p(x) of each in float64.

    Raises TypeError for a key that is not a typed key, ValueError for num_points < 1.
    """
    checks.key(key)
    num_points = checks.integer(num_points, "num_points", 1)

    z, x = jax.jit(jax.vmap(lambda key: problem.p.sample(key)))(jax.random.split(key, num_points))
    return Simulated(x, z, log_evidence(problem, x))


def log_evidence(problem: Problem, x: Float[Array, "N D"]) -> Float[np.ndarray, " N"]:
    """log p(x_n; theta) of each point, in nats, computed in float64 from the theta of `problem.p`.

    With x64 off this theta is rounded to float32, so that the result is exact for `problem.p`.
    """
    exact = problem.model.log_evidence
    if exact is None:
        raise ValueError(
            f"problem: expected a model with a closed-form log_evidence, got {problem.name!r} "
            "without one; take a problem of lvm_jax.problems"
        )
    held = jax.tree.map(lambda leaf: np.asarray(jnp.asarray(leaf)), (problem.theta, x))
    with jax.enable_x64(True):
        theta, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), held)
        return np.asarray(jax.jit(jax.vmap(exact, (None, 0)))(theta, x))


def truth(problem: Problem, x: ArrayLike) -> tuple[Any, float]:
    """p(z | x) with NumPy leaves, and log p(x) in nats, of one x [D]; both in float64.

    Unlike `log_evidence` this uses theta in float64, without rounding to float32. Raises
    ValueError for a model without closed forms.
    """
    own, evidence = problem.model.posterior, problem.model.log_evidence
    if own is None or evidence is None:
        raise ValueError(f"problem: expected closed forms, got {problem.name!r} without")
    with jax.enable_x64(True):
        exact = jax.tree.map(jnp.asarray, (problem.theta, x))
        both = jax.jit(lambda *of: (own(*of), evidence(*of)))
        posterior, log_evidence = jax.tree.map(np.asarray, both(*exact))
    return posterior, float(log_evidence)


def changed(model: Model, theta: Params, change: Callable[[Any], Distribution]) -> Guide:
    """The guide q(z | x) = change(p(z | x; theta)), with phi = ().

    `shifted_marginals`, `widened` and `mean_field` change a Gaussian posterior, `marginals` a
    table; set their options by e.g. partial(widened, widen=2.0). Raises ValueError for a model
    without a closed-form posterior.
    """
    posterior = model.posterior
    if posterior is None:
        raise ValueError(
            "model: expected a model with a closed-form posterior, got one without; take a model "
            "of lvm_jax.problems"
        )
    return Guide(lambda key: (), lambda phi, x: change(posterior(on_device(theta), x)))
