"""The variational posterior of a Gaussian mixture: its laws, predictive density and samples."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import gammaln

from lvm_jax._core import checks
from lvm_jax.compiling import bucket
from lvm_jax.em.compiling import over_data
from lvm_jax.em.gaussian import Gaussians
from lvm_jax.em.mixing import Sticks
from lvm_jax.em.mixture import Mixture, read, rows_per_chunk
from lvm_jax.em.normal_wishart import NormalWishart, VariationalPrior
from lvm_jax.em.plug_in import Posterior
from lvm_jax.em.statistics import Data, map_rows
from lvm_jax.typing import Array, ArrayLike, Float, Int, Key


@partial(jax.tree_util.register_dataclass, data_fields=["mixture", "prior"], meta_fields=[])
@dataclass(frozen=True)
class VariationalMixture:
    """q(pi) prod_k q(mu_k, Lambda_k), from `em.variational`; a pytree.

    mu_k | Lambda_k ~ N(means_k, (strength_k Lambda_k)^-1) and Lambda_k ~ W(degrees_k, Psi_k^-1),
    where Psi_k = degrees_k covariances_k; each precision of a diagonal type, and the one of a
    spherical type, is gamma(degrees_k / 2, psi / 2).

    Attributes:
        mixture: the components and E[log pi], whose responsibilities are q(z).
        prior: the prior, relative to `mixture.origin`.
    """

    mixture: Mixture
    prior: VariationalPrior

    @property
    def components(self) -> Posterior:
        """The parameters, relative to the origin."""
        return self.mixture.components

    @property
    def family(self) -> NormalWishart:
        """The family of the components."""
        family: Any = self.mixture.family
        return family

    @property
    def concentration(self) -> Array:
        """Parameters of q(pi): of the Dirichlet, [K]; of the sticks' Beta laws, [K, 2]."""
        return self.components.concentration

    @property
    def strength(self) -> Float[Array, " K"]:
        """beta_k."""
        return self.components.strength

    @property
    def degrees(self) -> Float[Array, " K"]:
        """nu_k."""
        return self.components.degrees

    @property
    def means(self) -> Float[Array, "K D"]:
        """E[mu_k], in the data's coordinates."""
        return self.mixture.means

    @property
    def covariances(self) -> Float[Array, "K D D"]:
        """E[Lambda_k]^-1."""
        return self.family.gaussian.covariances(self.components.gaussians)

    @property
    def weights(self) -> Float[Array, " K"]:
        """E[pi_k]; of a Dirichlet process they add to less than 1."""
        return self.family.weights.mean(self.concentration)[: len(self.strength)]

    @property
    def counts(self) -> Float[Array, " K"]:
        """The expected number of rows of each component, in units of weight."""
        return self.strength - self.prior.components.strength

    @property
    def effective_components(self) -> float:
        """exp(-sum_k p_k log p_k) of p_k = counts_k / N; K for equal counts."""
        counts = np.maximum(np.asarray(self.counts, np.float64), 0)
        p = counts[counts > 0] / counts.sum()
        return float(np.exp(-(p * np.log(p)).sum()))

    def log_prob(self, x: ArrayLike) -> Float[Array, " N"]:
        """The log predictive density E_q[p(x_n | pi, mu, Lambda)] in nats, for rows x [N, D].

        A mixture of Student-t densities (Bishop 2006, 10.81). Of a Dirichlet process the weight
        of the components after K has the prior's predictive density.
        """
        rows = np.asarray(checks.points(x, "x"))
        origin = self.mixture.origin
        if rows.shape[1] != len(origin):
            raise ValueError(
                f"x: expected {len(origin)} columns as in the fit, got {rows.shape[1]}"
            )
        data = read(rows, None, origin)
        size = rows_per_chunk(self.family, len(self.strength) + 1, data)
        return jax.device_put(np.asarray(_log_prob(self, data, size))[: len(rows)])

    def responsibilities(self, x: ArrayLike) -> Float[Array, "N K"]:
        """q(z_n=k) for rows x [N, D]; NaN is a missing entry."""
        return self.mixture.responsibilities(x)

    def assign(self, x: ArrayLike) -> Int[Array, " N"]:
        """The component with the largest q(z_n=k)."""
        return self.mixture.assign(x)

    def sample(self, key: Key[Array, ""], num_samples: int) -> Mixture:
        """Mixtures drawn from the posterior, whose leaves have a leading axis `num_samples`.

        Of a Dirichlet process they have one more component, drawn from the prior, with the
        weight of the components after K.
        """
        checks.key(key)
        number = checks.integer(num_samples, "num_samples", 1)
        log_weights, gaussians = _sample(key, self, bucket(number))
        gaussians = jax.tree.map(lambda leaf: leaf[:number], gaussians)
        return Mixture(log_weights[:number], gaussians, self.mixture.origin, self.family.gaussian)


def with_rest(posterior: VariationalMixture) -> Posterior:
    """The components, and for a Dirichlet process the law of those after K."""
    components, family = posterior.components, posterior.family
    if not isinstance(family.weights, Sticks):
        return components
    zero = jnp.zeros_like(components.strength[:1])
    prior = posterior.prior._replace(concentration=posterior.prior.concentration[:1])
    rest = family.prior_components(prior, zero)
    gaussians, end = family.gaussian.complete(components.gaussians), rest.gaussians
    if family.gaussian.scale_axis is None:  # one precision matrix, whose law is the posterior
        gaussians = gaussians._replace(scale=())
        end, rest = end._replace(scale=()), rest._replace(degrees=components.degrees[:1])
    pair = (components._replace(gaussians=gaussians), rest._replace(gaussians=end))
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *pair)
    if family.gaussian.scale_axis is None:
        scale = components.gaussians.scale
        joined = joined._replace(gaussians=joined.gaussians._replace(scale=scale))
    return joined


@over_data(2)
def _log_prob(posterior: VariationalMixture, data: Data, rows: int) -> Float[Array, " N"]:
    """log sum_k E[pi_k] St(x_n)."""
    family, components = posterior.family, with_rest(posterior)
    log_pi = jnp.log(family.weights.mean(components.concentration[: len(posterior.strength)]))
    components = family.translate(components, data.shift)

    def one(x: Array, _: Array) -> Array:
        return jax.nn.logsumexp(student_log_prob(family, components, x) + log_pi[None], axis=1)

    return map_rows(one, data, rows)


def student_log_prob(
    family: NormalWishart, components: Posterior, x: Float[Array, "n D"]
) -> Float[Array, "n K"]:
    """log of the predictive density of each component (Bishop 2006, 10.81 and 10.82)."""
    gaussian, dim = family.gaussian, x.shape[1]
    size, laws, _ = family.law(dim)
    joint = dim // laws  # dimensions that share their precision
    degrees = components.degrees - size + 1
    stretch = (components.strength + 1) / components.strength * components.degrees / degrees

    def one(each: tuple[Array, ...], scale: Array) -> Array:
        mean, low, degrees, stretch = each
        y = gaussian.whiten_one(scale, (x - mean[None]) - low[None])
        squares = (y * y).reshape(len(x), laws, joint).sum(2) / (stretch * degrees)
        half = (degrees + joint) / 2
        norm = gammaln(half) - gammaln(degrees / 2) - joint / 2 * jnp.log(np.pi * degrees * stretch)
        log_det = gaussian.log_det_one(scale, dim)
        return laws * norm - log_det - half * jnp.log1p(squares).sum(1)

    mean, scale, low = gaussian.complete(components.gaussians)
    each = (mean, low, degrees, stretch)
    if gaussian.scale_axis is None:
        return jax.lax.map(lambda one_: one(one_, scale), each).T
    return jax.lax.map(lambda pair: one(*pair), (each, scale)).T


@over_data(2)
def _sample(
    key: Array, posterior: VariationalMixture, num_samples: int
) -> tuple[Float[Array, "S K"], Gaussians]:
    family, components = posterior.family, with_rest(posterior)
    gaussian = family.gaussian
    mean, scale, low = gaussian.complete(components.gaussians)

    def one(key: Array) -> tuple[Array, Gaussians]:
        keys = jax.random.split(key, 3)
        log_pi = family.weights.sample(keys[0], posterior.concentration)
        if gaussian.scale_axis is None:
            drawn = draw_scale(keys[1], scale, components.degrees[0])
        else:
            split = jax.random.split(keys[1], len(mean))
            drawn = jax.vmap(draw_scale)(split, scale, components.degrees)
        noise = jax.random.normal(keys[2], mean.shape, mean.dtype)
        noise = noise / jnp.sqrt(components.strength)[:, None]
        moved = jax.vmap(gaussian.colour_one, (gaussian.scale_axis, 0))(drawn, noise)
        return log_pi, Gaussians(mean + (low + moved), drawn)

    return jax.vmap(one)(jax.random.split(key, num_samples))


def draw_scale(key: Key[Array, ""], scale: Array, degrees: Array) -> Array:
    """The scale of a draw of the covariance, from that of E[Lambda]^-1.

    Bartlett's decomposition with an upper triangle U, Lambda = L^-T U U^T L^-1 of Psi = L L^T, so
    that L U^-T is the lower Cholesky factor of the covariance.
    """
    if scale.ndim < 2:
        gamma = jax.random.gamma(key, degrees / 2, scale.shape, scale.dtype)
        return scale * jnp.sqrt(degrees / (2 * gamma))
    dim = len(scale)
    key_diagonal, key_below = jax.random.split(key)
    halves = (degrees - jnp.arange(dim)[::-1]) / 2
    diagonal = jnp.sqrt(2 * jax.random.gamma(key_diagonal, halves, dtype=scale.dtype))
    below = jnp.tril(jax.random.normal(key_below, scale.shape, scale.dtype), -1)
    factor = below + jnp.diag(diagonal)  # U^T
    inverse = solve_triangular(factor, jnp.eye(dim, dtype=scale.dtype), lower=True)
    return jnp.sqrt(degrees) * scale @ inverse
