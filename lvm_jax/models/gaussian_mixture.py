"""The Gaussian mixture as a latent-variable model with discrete z and exact inference."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax.distributions import Categorical, FullRankNormal
from lvm_jax.models.base import Model
from lvm_jax.typing import Array, Distribution, Float, Int, Key, Scalar


class GaussianMixture(NamedTuple):
    """theta: a mixture of K full-covariance Gaussians in D dimensions."""

    log_weights: Float[Array, " K"]  # log pi
    means: Float[Array, "K D"]
    cholesky: Float[Array, "K D D"]  # lower L, Sigma = L L^T


def gaussian_mixture(num_components: int, dim: int) -> Model:
    """The model z ~ Categorical(pi), x | z=k ~ N(mu_k, L_k L_k^T), z in {0, ..., K - 1}.

    The posterior (the responsibilities) and log p(x) are exact, by enumeration of z. `init` draws
    means from N(0, I), with equal weights and unit covariances. `Mixture.as_theta` converts the
    result of `em.fit` to theta. Raises ValueError for num_components or dim < 1.
    """
    num_components = checks.integer(num_components, "num_components", 1)
    dim = checks.integer(dim, "dim", 1)

    def init(key: Key[Array, ""]) -> GaussianMixture:
        checks.key(key)
        weights = jnp.full(num_components, -jnp.log(num_components))
        means = jax.random.normal(key, (num_components, dim))
        return GaussianMixture(weights, means, jnp.tile(jnp.eye(dim), (num_components, 1, 1)))

    def prior(theta: GaussianMixture) -> Distribution:
        return Categorical(logits=theta.log_weights)

    def likelihood(theta: GaussianMixture, z: Int[Array, ""]) -> FullRankNormal:
        return FullRankNormal(theta.means[z], theta.cholesky[z])

    model = Model(init, prior, likelihood)

    def joints(theta: GaussianMixture, x: Float[Array, " D"]) -> Float[Array, " K"]:
        return jax.vmap(model(theta).log_joint(x))(jnp.arange(num_components))

    def posterior(theta: GaussianMixture, x: Float[Array, " D"]) -> Distribution:
        return Categorical(logits=joints(theta, x))

    def log_evidence(theta: GaussianMixture, x: Float[Array, " D"]) -> Scalar:
        return jax.nn.logsumexp(joints(theta, x))

    return model._replace(posterior=posterior, log_evidence=log_evidence)
