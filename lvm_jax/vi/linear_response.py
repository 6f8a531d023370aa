"""Covariances of a mean-field fit by linear response."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax._core.recognition import bindable
from lvm_jax.compiling import bounded_jit
from lvm_jax.distributions import Independent, Normal, Unflattened
from lvm_jax.typing import Array, Float, Key, Latent
from lvm_jax.vi.density import LogDensity


def linear_response(
    key: Key[Array, ""], log_density: LogDensity, q: Unflattened, num_draws: int = 500
) -> Float[Array, "D D"]:
    """The posterior covariance of z by linear response, from the q of a mean-field fit, [D, D].

        Cov = dm / dt at t = 0, of the best m for log_density(z) + t^T z
            = the block of m in (-d^2 ELBO / d eta d eta^T)^-1,    eta = (m, log s), q = N(m, s^2)

    Rows and columns have the order of `jax.flatten_util.ravel_pytree(z)`, units that of z times z.
    The variances of mean-field q itself are too small for correlated posteriors; these are exact
    for a Gaussian log_density. The Hessian is a mean over `num_draws` draws of q in pairs, each of
    D + 1 evaluations. The result is NaN where this Hessian is not negative definite.

    Raises TypeError for a legacy key and for a q that is not that of `vi.fit` with mean_field
    and without `constrain`, ValueError for num_draws that is not an integer >= 2.

    Source: Giordano, Broderick and Jordan (2018), Covariances, robustness, and variational Bayes.
    """
    checks.key(key)
    flat = getattr(q, "flat", q)
    if not isinstance(flat, Independent) or not isinstance(flat.distribution, Normal):
        raise TypeError(
            "q: expected the q of a fit with family='mean_field' and without `constrain`, got a "
            f"{type(flat).__name__}"
        )
    num_pairs = (checks.integer(num_draws, "num_draws", 2) + 1) // 2
    mean, scale = q.origin + flat.distribution.loc, flat.distribution.scale
    return _covariance(key, q.sample(seed=key), mean, scale, bindable(log_density), num_pairs)


@bounded_jit(4, 5, lean=True)
@precision.full
def _covariance(
    key: Key[Array, ""],
    like: Latent,
    mean: Float[Array, " D"],
    scale: Float[Array, " D"],
    log_density: LogDensity,
    num_pairs: int,
) -> Float[Array, "D D"]:
    """The inverse of the Schur complement of the block of log s."""
    _, unravel = ravel_pytree(like)
    half = jax.random.normal(key, (num_pairs, mean.size), mean.dtype)

    def gradient(flat: Float[Array, " D"]) -> tuple[Array, Array]:
        found = jax.grad(lambda flat: log_density(unravel(flat)))(flat)
        return found, found

    def add(sums: tuple, noise: Float[Array, " D"]) -> tuple[tuple, None]:
        away = scale * noise
        hessian, slope = jax.jacfwd(gradient, has_aux=True)(mean + away)
        cross = hessian * away[None]
        terms = hessian, cross, away[:, None] * cross, slope * away
        return tuple(a + b for a, b in zip(sums, terms, strict=True)), None

    zeros = jnp.zeros((mean.size,) * 2, mean.dtype)
    start = (zeros, zeros, zeros, jnp.zeros_like(mean))
    sums, _ = jax.lax.scan(add, start, jnp.concatenate([half, -half]))
    own, cross, spread, slope = (-leaf / (2 * num_pairs) for leaf in sums)
    spread = spread + jnp.diag(slope)
    schur = own - cross @ jnp.linalg.solve(spread, cross.T)
    root = jnp.linalg.cholesky((schur + schur.T) / 2)
    return jax.scipy.linalg.cho_solve((root, True), jnp.eye(mean.size, dtype=mean.dtype))
