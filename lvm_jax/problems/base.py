"""A model with a known truth and a guide that is off, and data drawn from it."""

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
    """A model whose log p(x) and p(z | x) are closed forms, and a q that is not the posterior.

    `p.log_evidence(x)` and `p.posterior(x)` are the truth. theta is in
    float64 on the host: JAX rounds it to float32 unless x64 is on.
    """

    name: str
    model: Model
    theta: Params
    guide: Guide
    phi: Params
    off: str  # how the guide differs from the posterior

    @property
    def p(self) -> Joint:
        """The model with its parameters, as JAX arrays."""
        return self.model(on_device(self.theta))

    @property
    def q(self) -> Conditional:
        """The guide with its parameters, as JAX arrays."""
        return self.guide(on_device(self.phi))


def host(values: Any) -> Any:
    """A part of theta: NumPy, in float64."""
    return np.asarray(values, np.float64)


def on_device(theta: Params) -> Params:
    """theta as JAX arrays in the default precision, so that no part is computed by NumPy."""
    return jax.tree.map(jnp.asarray, theta)


class Simulated(NamedTuple):
    """N data sets of one point each, drawn from the model."""

    x: Array  # [N, D]
    z: Latent  # the z that made them, which are exact draws of p(z | x); leaves [N, ...]
    log_evidence: Float[np.ndarray, " N"]  # log p(x), exact, in nats


def simulate(key: Key[Array, ""], problem: Problem, num_points: int) -> Simulated:
    """N pairs z ~ p(z), x ~ p(x | z), and the exact log p(x) of each in float64.

    Raises TypeError for a key that is no typed key, ValueError for num_points < 1.
    """
    checks.key(key)
    num_points = checks.integer(num_points, "num_points", 1)

    z, x = jax.jit(jax.vmap(lambda key: problem.p.sample(key)))(jax.random.split(key, num_points))
    return Simulated(x, z, log_evidence(problem, x))


def log_evidence(problem: Problem, x: Float[Array, "N D"]) -> Float[np.ndarray, " N"]:
    """log p(x_n; theta) of points, computed in float64 from theta as JAX holds it, in nats.

    With x64 off that is theta rounded to float32: the truth belongs to the model that is run.
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
    """p(z | x) with leaves of NumPy, and log p(x) in nats, of one x [D]; both in float64.

    Unlike `log_evidence` it takes theta as the problem has it, not rounded to float32. Raises
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

    `beside`, `widened` and `mean_field` are changes of a Gaussian posterior, `marginals` of a
    table; partial(widened, widen=2.0) is one too. Raises ValueError for a model without a
    closed-form posterior.
    """
    posterior = model.posterior
    if posterior is None:
        raise ValueError(
            "model: expected a model with a closed-form posterior, got one without; take a model "
            "of lvm_jax.problems"
        )
    return Guide(lambda key: (), lambda phi, x: change(posterior(on_device(theta), x)))
