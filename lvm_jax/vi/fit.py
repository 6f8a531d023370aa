"""Fit q to a log-density by stochastic gradients on its ELBO, and measure how good q is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lvm_jax import guides, weights
from lvm_jax._core import checks
from lvm_jax.compiling import bounded_jit
from lvm_jax.distributions import Unflattened
from lvm_jax.estimate import Estimate
from lvm_jax.evidence import Evidence, Resampled, from_log_weights, resample
from lvm_jax.gradients.base import find_estimate
from lvm_jax.guides import Family
from lvm_jax.training import ascend
from lvm_jax.typing import Array, Distribution, Float, Key, Latent, Params, Scalar

FAMILIES: dict[str, Callable[[int], Family]] = {
    "mean_field": guides.mean_field,
    "full_rank": guides.full_rank,
    "flow": lambda dim: guides.flow_family("coupling", dim, 4, (32,)),
}
INSIDE = "training.ascend, then evidence.importance"
CHUNK = 1_000  # draws in one evaluation of the weights
LEARNING_RATES = {"mean_field": 0.05, "full_rank": 0.05}  # of Adam at the first step
SMALLER = 0.01  # of a flow, which diverges at a larger rate, and of a user's family
LARGEST_NORM = 10.0  # of a gradient: one draw in a steep tail would stop Adam for 1,000 steps


class VariationalFit(NamedTuple):
    """q, and the estimates of its ELBO and of log Z by importance sampling from q."""

    q: Unflattened
    elbo: Estimate  # E_q[log p(z) - log q(z)], nats
    log_evidence: Evidence  # log Z, the log of the integral of exp(log_density)
    eta: Params  # parameters of q in its family
    log_density: Callable[[Latent], Scalar]

    def __repr__(self) -> str:
        """The ELBO, and log Z with k-hat and verdict."""
        return f"VariationalFit(elbo={self.elbo!r}, log_evidence={self.log_evidence!r})"

    @property
    def k_hat(self) -> Scalar:
        """Pareto's k-hat of the weights p / q: above 0.7, distrust log Z and `resample`."""
        return self.log_evidence.k_hat

    @property
    def ess(self) -> Scalar:
        """The effective sample size of the draws of log Z."""
        return self.log_evidence.ess

    def resample(self, key: Key[Array, ""], num_draws: int) -> Resampled:
        """`num_draws` posterior draws by `evidence.resample`, from as many draws of q as log Z.

        `z` of the result has the structure of the start, leaves [num_draws, ...].
        """
        checks.key(key)
        num_draws = checks.integer(num_draws, "num_draws", 1)
        num_samples = max(int(self.log_evidence.num_samples), num_draws)
        return _resample(key, self.q, self.log_density, num_samples, num_draws)


def fit(
    key: Key[Array, ""],
    log_density: Callable[[Latent], Scalar],
    start: Latent,
    *,
    family: str | Family = "mean_field",
    estimate: Any = "sticking_the_landing",
    num_samples: int = 10,
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int = 2_000,
    num_draws: int = 10_000,
) -> VariationalFit:
    """Maximise the ELBO of q over the parameters of its family, for one unnormalised density.

        ELBO = E_q[log_density(z) - log q(z)] <= log Z,    Z the integral of exp(log_density)

    z is a pytree of real numbers with the structure of `start`; q begins at N(start, I). Z is the
    evidence p(x) where log_density is log p(x, z) with every constant, in unconstrained coordinates
    (with the Jacobian of a transformation). New draws after the fit measure ELBO and log Z.

    Args:
        key: a typed PRNG key.
        log_density: a function of one z to one number in nats.
        start: the initial mean of q, an array or a pytree of arrays of real numbers.
        family: a name of `vi.FAMILIES`, or a `guides` Family of D numbers, the size of `start`.
        estimate: a gradient estimator, its row or its name in `gradients.ESTIMATORS`, of the ELBO
            or of IWAE (doubly_reparameterized), whose q is wider, with lighter tails of p / q.
        num_samples: draws of z in each step.
        optimizer: an Optax optimiser; None is Adam on gradients clipped to a global norm of 10,
            with a cosine decay of the learning rate to 0, from 0.05 for mean_field and full_rank,
            and from 0.01 for other families.
        num_steps: steps of the optimiser.
        num_draws: draws for the ELBO and log Z, rounded up to a multiple of 1,000.

    Raises ValueError or TypeError naming the argument for a log_density that does not map `start`
    to one number, a start with integers or numbers that are not finite, an unknown family or one of
    another dimension, and under jit, grad or vmap; FloatingPointError if q is not finite.

    Source: Kucukelbir et al. (2017), ADVI; Yao et al. (2018) for k-hat.
    """
    checks.host("vi.fit", INSIDE, key, start)
    key_start, key_steps, key_draws = jax.random.split(checks.key(key), 3)
    start = _check_start(start)
    _check_log_density(log_density, start)
    rate = LEARNING_RATES.get(str(family), SMALLER)
    family = _as_family(family, sum(leaf.size for leaf in jax.tree.leaves(start)))
    surrogate = find_estimate(estimate)
    num_steps = checks.integer(num_steps, "num_steps", 0)
    num_chunks = -(-checks.integer(num_draws, "num_draws", 1) // CHUNK)
    if optimizer is None:
        schedule = optax.cosine_decay_schedule(rate, max(num_steps, 1))
        optimizer = optax.chain(optax.clip_by_global_norm(LARGEST_NORM), optax.adam(schedule))

    def build(eta: Params) -> Unflattened:
        return Unflattened.around(family.build(eta), start)

    def elbo(step: Array, eta: Params) -> Scalar:
        key_step = jax.random.fold_in(key_steps, step)
        return surrogate(key_step, log_density, build, eta, num_samples)

    eta = ascend(elbo, family.init(key_start), optimizer, num_steps)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(eta)):
        raise FloatingPointError(
            f"log_density: q is not finite after {num_steps} steps; start where the density is "
            "finite, or give an optimizer with a smaller learning rate"
        )
    q = build(eta)
    measured, evidence = _measure(key_draws, q, log_density, num_chunks)
    return VariationalFit(q, measured, evidence, eta, log_density)


@bounded_jit(2, 3)
def _measure(
    key: Key[Array, ""], q: Distribution, log_density: Callable, num_chunks: int
) -> tuple[Estimate, Evidence]:
    """The ELBO and log Z, from the same draws."""

    def chunk(key: Key[Array, ""]) -> Float[Array, " S"]:
        return weights.log_weights(key, log_density, q, CHUNK)

    log_w = jax.lax.map(chunk, jax.random.split(key, num_chunks)).ravel()
    return Estimate.of_draws(log_w), from_log_weights(log_w)


@bounded_jit(2, 3, 4)
def _resample(
    key: Key[Array, ""], q: Distribution, log_density: Callable, num_samples: int, num_draws: int
) -> Resampled:
    return resample(key, log_density, q, num_samples, num_draws)


def _check_start(start: Latent) -> Latent:
    """The start as arrays; refuses all but a pytree of finite real numbers."""
    leaves = jax.tree_util.tree_leaves_with_path(start)
    if not leaves:
        raise ValueError(f"start: expected at least one array of numbers, got {start!r}")
    for path, leaf in leaves:
        name = f"start{jax.tree_util.keystr(path)}"
        kind = checks.real_array(leaf, name).dtype
        if not jnp.issubdtype(kind, jnp.floating):
            raise TypeError(
                f"{name}: expected real numbers, got {kind}; write 0.0 for 0, and sum a discrete "
                "part of z out of log_density"
            )
        checks.finite(np.asarray(leaf), name)
    return jax.tree.map(jnp.asarray, start)


def _check_log_density(log_density: Callable[[Latent], Scalar], start: Latent) -> None:
    """Refuse a function that does not map the start to one number."""
    shapes = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", start)
    expected = f"log_density: expected a function of one z, {shapes}, to one real number"
    if not callable(log_density):
        raise TypeError(f"{expected}, got a {type(log_density).__name__}")
    try:
        value = jax.eval_shape(log_density, start)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{expected}, but it fails on the start ({type(error).__name__}: {error})"
        ) from error
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"{expected}, got {value}; sum over all that is not z")


def _as_family(family: str | Family, dim: int) -> Family:
    """A family of q in `dim` dimensions."""
    if isinstance(family, str):
        name = checks.choice(family, "family", tuple(FAMILIES))
        if name == "flow" and dim < 2:
            raise ValueError("family: expected mean_field for a start of one number, got 'flow'")
        return FAMILIES[name](dim)
    if not isinstance(family, Family):
        raise TypeError(
            f"family: expected one of {', '.join(FAMILIES)} or a Family of guides, such as "
            f"guides.low_rank({dim}, 1), got {type(family).__name__}"
        )
    eta = jax.eval_shape(family.init, jax.random.key(0))
    drawn = jax.eval_shape(lambda eta: family.build(eta).sample(seed=jax.random.key(0)), eta)
    if getattr(drawn, "shape", None) != (dim,):
        raise ValueError(
            f"family: expected one of [{dim}], as start has {dim} numbers, got {drawn}"
        )
    return family
