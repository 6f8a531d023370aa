"""Changes of an exact posterior into a q with a stated error."""

import jax
import jax.numpy as jnp

from lvm_jax import distributions, precision
from lvm_jax.distributions import FullRankNormal, Table
from lvm_jax.typing import Array, Distribution, Float

WIDEN, SHIFT = 1.2, 0.1  # factor of the standard deviations; shift of the means, in deviations
DEFENSIVE = 0.1  # weight of the uniform component in `marginals`


def shifted_normal(
    mean: Float[Array, " D"],
    deviation: Float[Array, " D"],
    widen: float = WIDEN,
    shift: float = SHIFT,
) -> Distribution:
    """N(m + shift sd, diag((widen sd)^2)), D independent normals."""
    return distributions.normal(mean + shift * deviation, widen * deviation)


def shifted_marginals(
    posterior: FullRankNormal, widen: float = WIDEN, shift: float = SHIFT
) -> Distribution:
    """`shifted_normal` with the posterior's means and marginal deviations, without correlations.

    For small correlations the weights have a finite variance, which grows exponentially in D.
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
    """The diagonal normal with the highest ELBO: the posterior's mean and conditional variances.

    The weights have infinite variance unless 2 V^-1 - diag(V^-1) is positive definite.
    """
    inverse = jnp.linalg.inv(posterior.cholesky)
    conditional = (inverse**2).sum(0)  # the diagonal of the precision L^-T L^-1
    return distributions.normal(posterior.mean, conditional**-0.5)


def marginals(posterior: Table, num_values: int, defensive: float = DEFENSIVE) -> Distribution:
    """Independent z_k with probabilities (1 - defensive) p(z_k | x) + defensive / L."""
    is_value = jax.nn.one_hot(posterior.values, num_values)
    exact = jnp.einsum("m,mkl->kl", jnp.exp(posterior.log_probs), is_value)
    return distributions.categorical(jnp.log((1 - defensive) * exact + defensive / num_values))
