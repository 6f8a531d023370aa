"""Factor analysers as components: covariances of low rank plus noise, without [D, D] matrices.

    z | k ~ N(0, I_q),    x | z, k ~ N(mu_k + Lambda_k z, Psi_k),    Psi_k diagonal or isotropic

so that Cov[x | k] = Lambda_k Lambda_k^T + Psi_k (Ghahramani and Hinton 1996; with isotropic noise
Tipping and Bishop 1999). By Woodbury's identity, with M = I + Lambda^T Psi^-1 Lambda,

    E[z | x] = M^-1 Lambda^T Psi^-1 (x - mu),    Cov[z | x] = M^-1,    |Cov[x]| = |Psi| |M|

and with the residual e = x - mu - Lambda E[z | x]

    (x - mu)^T Cov[x]^-1 (x - mu) = e^T Psi^-1 e + |E[z | x]|^2

which has no cancellation. A step costs about 8 N K D q multiplications.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax.em.covariances import Diagonal, Spherical
from lvm_jax.em.factor_moments import FactorMoments, merge_one, quadratic, regress
from lvm_jax.em.families import ExponentialFamily, Settings, keep_empty, like
from lvm_jax.em.gaussian import Gaussian, Gaussians
from lvm_jax.em.pairs import move
from lvm_jax.em.priors import LOG_2PI
from lvm_jax.typing import Array, ArrayLike, Float, Key, Scalar


class Factors(NamedTuple):
    """K factor analysers: means with the noise Psi_k as Gaussians, and the loadings Lambda_k."""

    normal: Gaussians
    loadings: Float[Array, "K D q"]


class Posterior(NamedTuple):
    """The posterior of z of n rows for each component."""

    log_prob: Float[Array, "n K"]
    mean: Float[Array, "K n q"]  # E[z | x]


class Gain(NamedTuple):
    """Matrices of one component."""

    gain: Float[Array, "q D"]  # M^-1 Lambda^T Psi^-1
    covariance: Float[Array, "q q"]  # M^-1
    half_log_det: Scalar  # log |M| / 2


@dataclass(frozen=True)
class FactorAnalyzers(ExponentialFamily):
    """Factor analysers with `rank` factors; with isotropic noise, probabilistic PCA.

        log p(x | z=k) = log N(x; mu_k, Lambda_k Lambda_k^T + Psi_k)

    Attributes:
        rank: q, the number of factors, less than D.
        noise: diagonal (D variances a component) or isotropic (one).

    `components` are `Factors`. A component has D + D q - q (q - 1) / 2 + D or 1 parameters: Lambda
    is known up to a rotation. `regularization` is the floor of the noise variances. Where the
    likelihood would cross it (a Heywood case) they are at the floor, `Info.boundary` counts them,
    and `fit` warns. A step costs about 8 N K D q multiplications, and no [D, D] matrix is formed.
    Rows with NaN are refused.

    Raises ValueError or TypeError for other values, and for data of `rank` or fewer columns.

    Source: Ghahramani and Hinton (1996), equations 3 to 8; Tipping and Bishop (1999), section 3.
    """

    rank: int
    noise: str = "diagonal"
    translates: ClassVar[bool] = True
    has_fast_path: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.integer(self.rank, "rank", 1)
        checks.choice(self.noise, "noise", ("diagonal", "isotropic"))

    @property
    def normal(self) -> Gaussian:
        """The family of the noise."""
        return Diagonal() if self.noise == "diagonal" else Spherical()

    def check(self, x: ArrayLike) -> None:
        """Raise ValueError for data with too few columns."""
        if x.shape[1] <= self.rank:
            raise ValueError(
                f"rank: expected fewer factors than the {x.shape[1]} columns of x, got {self.rank}"
            )

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> Factors:
        """Means at the centres; half of the variance is noise, half of random factors."""
        size = spread / np.sqrt(2.0)
        directions = jnp.asarray(_directions(len(spread), self.rank), spread.dtype)
        loadings = size[:, None] * directions
        return Factors(
            self.normal.start(centres, jnp.where(size > 0, size, 1)),  # 0: a constant column
            jnp.broadcast_to(loadings[None], (len(centres), *loadings.shape)),
        )

    def translate(self, components: Factors, shift: Float[Array, "*R D"]) -> Factors:
        """The same components relative to the origin minus `shift`."""
        return components._replace(normal=self.normal.translate(components.normal, shift))

    def parts(self, components: Factors) -> tuple[Array, Array, Array, Array]:
        """Means, remainders, noise deviations [K, D] or [K, 1], and loadings."""
        mean, scale, low = self.normal.complete(components.normal)
        return mean, low, scale.reshape(len(mean), -1), components.loadings

    def expectation(self, components: Factors, x: Float[Array, "n D"]) -> Posterior:
        """log p(x | z=k) and E[z | x], from rows centred at each component."""
        dim = x.shape[1]

        def one(each: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
            mean, low, scale, loadings = each
            gain, _, half_log_det = invert(scale, loadings)
            centred = (x - mean[None]) - low[None]
            z = centred @ gain.T
            white = (centred - z @ loadings.T) / scale[None]
            distance = (white * white).sum(1) + (z * z).sum(1)
            log_det = jnp.broadcast_to(jnp.log(scale), (dim,)).sum() + half_log_det
            return -0.5 * (distance + dim * LOG_2PI) - log_det, z

        log_prob, z = jax.lax.map(one, self.parts(components))
        return Posterior(log_prob.T, z)

    def exact_log_prob(self, components: Factors, x: Float[Array, "n D"]) -> Array:
        """log p(x | z=k)."""
        return self.expectation(components, x).log_prob

    def summarize_expected(
        self, components: Factors, x: Float[Array, "n D"], expected: Posterior, resp: Array
    ) -> FactorMoments:
        """The regression of the rows on z, from the residuals of the current components."""

        def one(each: tuple[Any, Array, Array]) -> FactorMoments:
            (mean, low, scale, loadings), z, weight = each
            spread = invert(scale, loadings).covariance
            count = weight.sum()
            size = jnp.where(count > 0, count, 1)
            residual = (x - mean[None]) - low[None] - z @ loadings.T
            latents, offset = weight @ z / size, weight @ residual / size
            z, residual = z - latents[None], residual - offset[None]
            weighted = z * weight[:, None]
            inner, cross = weighted.T @ z, residual.T @ weighted
            second = inner + count * spread
            change = regress(cross - count * loadings @ spread, second, count)
            new = loadings + change
            scatter = weight @ (residual * residual) - 2 * (change * cross).sum(1)
            scatter = scatter + quadratic(change, inner) + count * quadratic(new, spread)
            mean, low = move(mean, low, loadings @ latents + offset)
            filled = count > 0
            mean, low = jnp.where(filled, mean, 0), jnp.where(filled, low, 0)
            return FactorMoments(count, mean, low, latents, second, new, scatter)

        return jax.lax.map(one, (self.parts(components), expected.mean, resp.T))

    def merge(self, a: FactorMoments, b: FactorMoments) -> FactorMoments:
        """The regression of the union of two blocks."""
        return jax.vmap(merge_one)(a, b)

    def reweight(self, summary: FactorMoments, factor: Scalar) -> FactorMoments:
        """The means and the loadings are not changed."""
        sums = ("counts", "second", "scatter")
        return summary._replace(**{name: factor * getattr(summary, name) for name in sums})

    def translate_summary(self, summary: Any, shift: Float[Array, "*R D"]) -> Any:
        """The summary of the rows x + shift; components without points keep mean zero."""
        shift = jnp.where(summary.counts[:, None] > 0, shift[None], 0)
        means, low = move(summary.means, summary.remainder, shift)
        return summary._replace(means=means, remainder=low)

    def maximize(self, summary: FactorMoments, previous: Factors, settings: Settings) -> Factors:
        """Loadings and means of the regression, and its mean squared residuals as the noise."""
        counts = summary.counts
        noise = summary.scatter / jnp.where(counts > 0, counts, 1)[:, None]
        if self.noise == "isotropic":
            noise = noise.mean(1)
        scale = self.normal.from_covariance(jnp.maximum(noise, settings.regularization))
        back = jnp.einsum("kdq,kq->kd", summary.loadings, summary.latents)
        mean, low = move(summary.means, summary.remainder, -back)
        old = previous._replace(normal=self.normal.complete(previous.normal))
        return keep_empty(counts, Factors(Gaussians(mean, scale, low), summary.loadings), old)

    def unconstrain(self, components: Factors, at: Factors, size: Array) -> Factors:
        """Those of the noise, and whitened loadings."""
        _, _, scale, _ = self.parts(at)
        white = components.loadings / scale[:, :, None] * like(size, components.loadings)
        return Factors(self.normal.unconstrain(components.normal, at.normal, size), white)

    def constrain(self, free: Factors, at: Factors, size: Array) -> Factors:
        """The inverse."""
        _, _, scale, _ = self.parts(at)
        loadings = free.loadings * scale[:, :, None] / like(size, free.loadings)
        return Factors(self.normal.constrain(free.normal, at.normal, size), loadings)

    def chart(self, at: Factors, size: Float[Array, " K"]) -> tuple[Any, Callable[[Any], Any]]:
        """Loadings L Q of a fixed rotation Q, with a lower triangle L: others are equivalent."""
        begin, move = self.normal.chart(at.normal, size)
        turns = jax.vmap(lambda top: jnp.linalg.qr(top.T)[0])(at.loadings[:, : self.rank])
        lower = jnp.tril(jnp.ones(at.loadings.shape[1:], at.loadings.dtype))[None]

        def moved(free: Factors) -> Factors:
            change = (free.loadings * lower) @ jnp.swapaxes(turns, 1, 2)
            return Factors(move(free.normal), at.loadings + change)

        return Factors(begin, jnp.zeros_like(at.loadings)), moved

    def within(self, components: Factors, settings: Settings) -> Factors:
        """Noise variances of at least the floor."""
        scale = jnp.maximum(components.normal.scale, jnp.sqrt(settings.regularization))
        return components._replace(normal=components.normal._replace(scale=scale))

    def num_component_parameters(self, num_components: int, dim: int) -> int:
        """K (D q - q (q - 1) / 2), and the means and the noise."""
        loadings = dim * self.rank - self.rank * (self.rank - 1) // 2
        return num_components * loadings + self.normal.num_component_parameters(num_components, dim)

    def floats_per_component(self, dim: int) -> int:
        """Responsibilities, E[z | x], and a share of the centred rows."""
        return 3 + 2 * self.rank + dim // 2

    def means(self, components: Factors) -> Float[Array, "K D"]:
        """mu_k, relative to the origin."""
        return components.normal.deviations

    @precision.full
    def covariances(self, components: Factors) -> Float[Array, "K D D"]:
        """Lambda_k Lambda_k^T + Psi_k."""
        outer = jnp.einsum("kiq,kjq->kij", components.loadings, components.loadings)
        return outer + self.normal.covariances(components.normal)

    def sample_one(self, key: Key[Array, ""], component: Factors) -> Array:
        """mu + Lambda z + noise, relative to the origin."""
        one, two = jax.random.split(key)
        z = jax.random.normal(one, component.loadings.shape[1:], component.loadings.dtype)
        return self.normal.sample_one(two, component.normal) + component.loadings @ z

    def boundary(self, components: Factors, settings: Settings) -> tuple[str, ...]:
        """The number of noise variances at their floor."""
        floor = float(settings.regularization)
        scale = np.asarray(components.normal.scale)
        at = (scale.reshape(len(scale), -1) ** 2 <= floor * (1 + 1e-5)).sum(1)
        if not at.any():
            return ()
        names = tuple(np.flatnonzero(at).tolist())
        return (
            f"{at.sum()} noise variances of components {names} are at their floor, regularization "
            f"= {floor:g} (a Heywood case)",
        )


def invert(scale: Float[Array, "..."], loadings: Float[Array, "D q"]) -> Gain:
    """M^-1 = (I + Lambda^T Psi^-1 Lambda)^-1 and its products."""
    white = loadings / scale[:, None]
    factor = jnp.linalg.cholesky(jnp.eye(white.shape[1], dtype=white.dtype) + white.T @ white)
    covariance = cho_solve((factor, True), jnp.eye(white.shape[1], dtype=white.dtype))
    gain = cho_solve((factor, True), white.T / scale[None])
    return Gain(gain, covariance, jnp.log(jnp.diagonal(factor)).sum())


@lru_cache
def _directions(dim: int, rank: int) -> np.ndarray:
    """Loadings [D, q] of a start, whose rows have mean square length 1."""
    return np.random.default_rng(0).normal(size=(dim, rank)) / np.sqrt(rank)
