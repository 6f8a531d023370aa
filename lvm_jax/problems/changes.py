"""Changes of an exact posterior into a q that is off by a stated amount."""

import jax
import jax.numpy as jnp

from lvm_jax import distributions, precision
from lvm_jax.distributions import FullRankNormal, Table
from lvm_jax.typing import Array, Distribution, Float

WIDEN, SHIFT = 1.2, 0.1  # standard deviations are multiplied by WIDEN, means move by SHIFT of them
DEFENSIVE = 0.1  # share of the uniform in a factor of `marginals`


def shifted_normal(
    mean: Float[Array, " D"],
    deviation: Float[Array, " D"],
    widen: float = WIDEN,
    shift: float = SHIFT,
) -> Distribution:
    """N(m + shift sd, diag((widen sd)^2)), D independent normals."""
    return distributions.normal(mean + shift * deviation, widen * deviation)


def beside(posterior: FullRankNormal, widen: float = WIDEN, shift: float = SHIFT) -> Distribution:
    """`shifted_normal` with the posterior's means and marginal deviations: no correlations.

    The weights have a finite variance for small correlations. It grows exponentially in D.
    """
    deviation = jnp.sqrt((posterior.cholesky**2).sum(1))
    return shifted_normal(posterior.mean, deviation, widen, shift)


def widened(
    posterior: FullRankNormal, widen: float = WIDEN, shift: float = SHIFT
) -> FullRankNormal:
    """N(m + shift L 1, widen^2 L L^T), where N(m, L L^T) is the posterior."""
    return FullRankNormal(
        posterior.mean + shift * posterior.cholesky.sum(1), widen * posterior.cholesky
    )


@precision.full
def mean_field(posterior: FullRankNormal) -> Distribution:
    """The best diagonal normal by the ELBO: the posterior's mean and its conditional variances.

    Its log-weights have no variance where 2 V^-1 - diag(V^-1) is not positive definite.
    """
    inverse = jnp.linalg.inv(posterior.cholesky)
    conditional = (inverse**2).sum(0)  # the diagonal of the precision L^-T L^-1
    return distributions.normal(posterior.mean, conditional**-0.5)


def marginals(posterior: Table, num_values: int, defensive: float = DEFENSIVE) -> Distribution:
    """Independent z_k with (1 - defensive) p(z_k | x) + defensive / L, of a table of rows [K]."""
    is_value = jax.nn.one_hot(posterior.values, num_values)
    exact = jnp.einsum("m,mkl->kl", jnp.exp(posterior.log_probs), is_value)
    return distributions.categorical(jnp.log((1 - defensive) * exact + defensive / num_values))
