"""Gaussian components with a normal-Wishart posterior, as a family of `em`.

    mu_k | Lambda_k ~ N(m_k, (beta_k Lambda_k)^-1),    Lambda_k ~ W(nu_k, Psi_k^-1)

With C_k = E[Lambda_k]^-1 = Psi_k / nu_k, and Lambda_k of D dimensions,

    E[log N(x; mu_k, Lambda_k^-1)] = log N(x; m_k, C_k) - D / (2 beta_k)
                                     + (E[log |Lambda_k|] + log |C_k|) / 2

(Bishop 2006, 10.64 and 10.65). The E-step of coordinate ascent is therefore that of a Gaussian
mixture with means m_k and covariances C_k; the other terms, which do not depend on x, and
E[log pi_k] replace log pi_k. It holds for rows with missing entries too, which are latent.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, multigammaln

from lvm_jax.em.families import Settings
from lvm_jax.em.gaussian import BlockMoments, Gaussian, Gaussians
from lvm_jax.em.masked import MaskedMoments
from lvm_jax.em.mixing import Dirichlet, Sticks
from lvm_jax.em.plug_in import PlugIn, Posterior
from lvm_jax.em.priors import NormalInverseWishart
from lvm_jax.typing import Array, Bool, Float, Scalar

LOG_2 = float(np.log(2))


class VariationalPrior(NamedTuple):
    """The priors of the components and of the weights."""

    components: NormalInverseWishart
    concentration: Any  # [K]; 0 for padding


def log_det_bias(degrees: Scalar, size: int) -> Scalar:
    """E[log |Lambda|] - log |E[Lambda]| of a Wishart law in `size` dimensions."""
    return digamma((degrees - jnp.arange(size)) / 2).sum() + size * (LOG_2 - jnp.log(degrees))


def kl_degrees(degrees: Scalar, other: Scalar, size: int) -> Scalar:
    """KL of the Wishart law of these degrees from the law of the others with the same mean."""
    entropy = size * (degrees * jnp.log(degrees) - other * jnp.log(other))
    rise = (degrees - other) * (log_det_bias(degrees, size) - size * (1 + LOG_2))
    return (entropy + rise) / 2 + multigammaln(other / 2, size) - multigammaln(degrees / 2, size)


@dataclass(frozen=True)
class NormalWishart(PlugIn):
    """`gaussian` components with a normal-Wishart posterior, and the posterior of their weights.

    The precision of `full` and `tied` components is a Wishart matrix; each precision of `diag`
    ones, and the one of `spherical` ones, is gamma(nu/2, psi/2). With `restricted` all types
    have the model of `full`, and the type is that of the posterior's scale Psi_k (equal for all
    k if tied): the convention of scikit-learn.
    """

    gaussian: Gaussian
    weights: Dirichlet | Sticks
    restricted: bool = False

    @property
    def original(self) -> "NormalWishart":
        """The family of complete rows."""
        return self._with(self._complete)

    def incomplete(self, block: int) -> "NormalWishart":
        """The family of rows with missing entries, which are latent as in `em.fit`."""
        return self._with(self.gaussian.incomplete(block))

    @property
    def _complete(self) -> Gaussian:
        original: Any = self.gaussian.original
        return original

    def _with(self, gaussian: Any) -> "NormalWishart":
        return NormalWishart(gaussian, self.weights, self.restricted)

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> Posterior:
        """Components at the centres, before the first M-step."""
        ones = jnp.ones_like(centres[:, 0])
        blank = self.weights.blank(len(centres), centres.dtype)
        return Posterior(self.gaussian.start(centres, spread), ones, ones, blank)

    def law(self, dim: int) -> tuple[int, int, float]:
        """Dimensions of a Wishart law, laws in a component, precisions that share a law (1/D)."""
        if self.restricted or self.gaussian.covariance_type in ("full", "tied"):
            return dim, 1, 1.0
        return (1, dim, 1.0) if self.gaussian.covariance_type == "diag" else (1, 1, 1 / dim)

    def log_weights(
        self, counts: Float[Array, " K"], components: Posterior, settings: Settings
    ) -> Float[Array, " K"]:
        """E[log pi_k] and the terms of E[log N(x)] that do not depend on x."""
        dim = components.gaussians.deviations.shape[1]
        size = self.law(dim)[0]
        bias = jax.vmap(lambda degrees: log_det_bias(degrees, size))(components.degrees)
        bias = bias * (dim / size)
        log_pi = self.weights.expected_log(components.concentration, settings.prior.concentration)
        return log_pi + 0.5 * (bias - dim / components.strength)

    def maximize(self, summary: Any, previous: Posterior, settings: Settings) -> Posterior:
        """The conjugate update (Bishop 2006, 10.58 to 10.63).

        m_k and C_k are the means and covariances of the MAP M-step with another nu_0.
        """
        moments = self.completed(summary, previous.gaussians)
        prior, family = settings.prior, self._complete
        niw, (number, dim) = prior.components, moments.means.shape
        tied = self.gaussian.scale_axis is None
        rows = moments.counts.sum() if tied else moments.counts
        rows = rows * (dim if self.gaussian.covariance_type == "spherical" else 1)
        copies = self.copies(prior.concentration > 0, dim)
        amount = rows * settings.regularization
        regularize = family.regularize if tied else jax.vmap(family.regularize)
        moments = moments._replace(scatter=regularize(moments.scatter, amount))
        zero = jnp.zeros_like(niw.degrees)
        none = niw._replace(degrees=zero)
        more = dim + 1 + number if tied else family.degrees_one(zero, dim, none)
        shifted = niw._replace(degrees=copies * niw.degrees - more, scale=copies * niw.scale)
        gaussians = family.maximize(moments, previous.gaussians, Settings(zero, shifted))
        degrees = jnp.broadcast_to(niw.degrees + rows / copies, moments.counts.shape)
        concentration = self.weights.posterior(moments.counts, prior.concentration)
        return Posterior(gaussians, niw.strength + moments.counts, degrees, concentration)

    def completed(self, summary: Any, old: Gaussians) -> BlockMoments:
        """The moments with the expectations of missing entries, which are independent given z."""
        if not isinstance(summary, MaskedMoments):
            return summary
        counts, observed, mean, scatter, low = summary
        family: Any = self.gaussian
        mean_old, scale, low_old = family.complete(old)
        size = jnp.where(counts > 0, counts, 1)[:, None]
        share = (counts[:, None] - observed) / size
        d = (mean_old - mean) + (low_old - low)
        variance = jnp.broadcast_to(scale.reshape(len(counts), -1) ** 2, mean.shape)
        lost = (counts[:, None] - observed) * variance + observed * share * d * d
        scatter = scatter + family.collect(lost)
        return BlockMoments(counts, mean + share * d, scatter, low)

    def copies(self, live: Bool[Array, " K"], dim: int) -> Any:
        """Precisions of the model that share a restricted scale: D of spherical, K of tied."""
        shared = {"spherical": dim, "tied": live.sum()} if self.restricted else {}
        return shared.get(self.gaussian.covariance_type, 1)

    def prior_components(self, prior: VariationalPrior, counts: Array) -> Posterior:
        """The prior of K components, in the form of a posterior; counts are K zeros."""
        niw, family = prior.components, self._complete
        scale = family.from_covariance(niw.scale / niw.degrees)
        if family.scale_axis is not None:
            scale = jnp.broadcast_to(scale, (len(counts), *scale.shape))
        mean = jnp.broadcast_to(niw.mean, (len(counts), niw.mean.size))
        return Posterior(
            Gaussians(mean, scale, jnp.zeros_like(mean)),
            niw.strength + counts,
            niw.degrees + counts,
            self.weights.posterior(counts, prior.concentration),
        )

    def log_prior(self, components: Posterior, prior: VariationalPrior) -> Scalar:
        """-KL(q(pi, mu, Lambda) || p(pi, mu, Lambda)), in nats."""
        start = self.prior_components(prior, jnp.zeros_like(components.strength))
        return -self.kl(components, start, prior.concentration > 0)

    def gain(self, old: Posterior, new: Posterior, settings: Settings) -> Scalar:
        """The increase of the bound by an M-step: KL(old || new), for conjugate laws.

        With `regularization` the bound is that of the rows with noise of this variance.
        """
        prior = settings.prior
        dim, counts = old.gaussians.deviations.shape[1], new.strength - prior.components.strength
        identity = jnp.eye(dim, dtype=counts.dtype)

        def trace(scale: Array) -> Array:
            return (self.gaussian.whiten_one(scale, identity) ** 2).sum()

        axis = self.gaussian.scale_axis
        traces = jax.vmap(trace, in_axes=axis, axis_size=len(counts))(old.gaussians.scale)
        noise = 0.5 * settings.regularization * (counts * traces).sum()
        return self.kl(old, new, prior.concentration > 0) - noise

    def kl(self, q: Posterior, p: Posterior, live: Bool[Array, " K"]) -> Scalar:
        """KL(q || p) of two posteriors over the live components and the weights."""
        family, dim = self.gaussian, q.gaussians.deviations.shape[1]
        size, laws, share = self.law(dim)

        def one(q: tuple, p: tuple) -> tuple[Array, Array]:
            (mean, scale, low), strength, degrees = q
            (other_mean, other, other_low), other_strength, other_degrees = p
            ratio = other_strength / strength
            y = family.whiten_one(scale, ((mean - other_mean) + (low - other_low))[None])
            location = dim * (ratio - 1 - jnp.log(ratio)) + other_strength * (y * y).sum()
            white = family.whiten_one(scale, family.factor_one(other, dim).T)
            log_det = family.log_det_one(other, dim) - family.log_det_one(scale, dim)
            shape = 0.5 * share * other_degrees * ((white**2).sum() - dim - 2 * log_det)
            return 0.5 * location, shape + laws * kl_degrees(degrees, other_degrees, size)

        pair = tuple((family.complete(each.gaussians), *each[1:3]) for each in (q, p))
        zero: Any = 0
        axes: Any = (Gaussians(zero, family.scale_axis, 0), 0, 0)
        location, shape = jax.vmap(one, in_axes=(axes, axes))(*pair)
        total = jnp.where(live, location, 0).sum()
        if family.scale_axis is None:
            number = live.sum() if self.restricted else 1
            total = total + number * shape[0]
        else:
            total = total + jnp.where(live, shape, 0).sum()
        return total + self.weights.kl(q.concentration, p.concentration, live)
