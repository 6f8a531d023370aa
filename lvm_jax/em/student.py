"""Student-t components: Gaussian scale mixtures, whose weights are latent in the E-step.

    x | u, z=k ~ N(mu_k, Sigma_k / u),    u | z=k ~ Gamma(nu_k / 2, nu_k / 2)

With the squared distance d = (x - mu)^T Sigma^-1 (x - mu),

    E[u | x] = (nu + D) / (nu + d),    E[log u | x] = log E[u | x] + psi(a) - log a

with a = (nu + D) / 2 (Peel and McLachlan 2000). In the M-step the scale of u is a parameter too
(PX-EM: Liu, Rubin and Wu 1998; Kent, Tyler and Vardi 1994): the scatter is divided by sum_n r u,
not by sum_n r. The optimum is the same, and fewer steps reach it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, polygamma

from lvm_jax._core import checks
from lvm_jax._core.saddlepoint import log_factorial_rest
from lvm_jax.em.covariances import GAUSSIANS
from lvm_jax.em.families import ExponentialFamily, Settings, keep_empty
from lvm_jax.em.gaussian import Gaussian, Gaussians
from lvm_jax.em.priors import LOG_2PI
from lvm_jax.typing import Array, Float, Key, Scalar

TYPES = ("full", "diag", "spherical")
START = 10.0  # degrees of freedom at the start of a fit
NEWTON_STEPS = 8


class Students(NamedTuple):
    """K Student-t laws: Gaussians (whose covariance is the scale matrix) and degrees of freedom."""

    normal: Gaussians
    degrees: Float[Array, " K"]


class StudentMoments(NamedTuple):
    """Counts, sums of E[log u], and moments of the rows with the weights w_n r_nk E[u]."""

    counts: Float[Array, " K"]
    logs: Float[Array, " K"]
    moments: Any


class Weights(NamedTuple):
    """The posterior of u of n rows for each component."""

    log_prob: Float[Array, "n K"]
    mean: Float[Array, "n K"]  # E[u | x]
    log_mean: Float[Array, "n K"]  # E[log u | x]


def weigh(
    degrees: Float[Array, " K"], distance: Float[Array, "n K"], dim: Any, log_det: Array
) -> Weights:
    """The posterior of u, from squared distances in D dimensions (or [n, 1]) and log |L|."""
    nu = degrees[None]
    half = (nu + dim) / 2
    log_prob = log_norm(nu, dim) - log_det - half * jnp.log1p(distance / nu)
    mean = 2 * half / (nu + distance)
    return Weights(log_prob, mean, jnp.log(mean) + digamma(half) - jnp.log(half))


def log_norm(degrees: Array, dim: Any) -> Array:
    """log Gamma((nu + D) / 2) - log Gamma(nu / 2) - D log(pi nu) / 2, without cancellation."""
    a, b = degrees / 2, dim / 2
    rest = log_factorial_rest(a + b) - log_factorial_rest(a)
    return rest + (a + b - 1) * jnp.log1p(b / a) - b * (1 + LOG_2PI)


def solve_degrees(excess: Float[Array, "..."], bounds: tuple[float, float]) -> Float[Array, "..."]:
    """nu in `bounds` with log(nu / 2) - psi(nu / 2) = excess, by Newton's method.

    The reciprocal of the left side is nearly linear in nu (2 a - 1 / 3 for large a = nu / 2).
    """
    low, high = bounds[0] / 2, bounds[1] / 2
    target = 1 / jnp.maximum(excess, 1e-3 / high)

    def newton(_: Any, a: Array) -> Array:
        gap = jnp.log(a) - digamma(a)
        slope = (polygamma(1, a) - 1 / a) / gap**2
        return jnp.clip(a - (1 / gap - target) / slope, low, high)

    start = jnp.clip((target + 1 / 3) / 2, low, high)
    return 2 * jax.lax.fori_loop(0, NEWTON_STEPS, newton, start)


@dataclass(frozen=True)
class Student(ExponentialFamily):
    """Multivariate Student-t components, for clusters with outliers.

        log p(x | z=k) = log Gamma((nu_k + D) / 2) - log Gamma(nu_k / 2) - D log(pi nu_k) / 2
                         - log |L_k| - (nu_k + D) / 2 log(1 + d_k(x) / nu_k),   Sigma_k = L_k L_k^T

    Attributes:
        covariance_type: of the scale matrices Sigma_k: full, diag or spherical.
        degrees: "free" (one nu_k for each component), "tied" (one for all), or a number.
        bounds: of free and tied degrees of freedom. Where the likelihood has its maximum outside,
            they are at the limit, `Info.boundary` names the components, and `fit` warns.

    `components` are `Students`. For nu > 1 the mean is mu, and for nu > 2 the covariance is
    nu / (nu - 2) Sigma; `scales` computes Sigma. `regularization` is added to its
    diagonal. A step costs N K D^2 multiplications (full) or N K D. Full scale matrices take NaN as
    entries missing at random; the others refuse it.

    Raises ValueError or TypeError for other values.

    Source: Peel and McLachlan (2000); for the M-step Liu, Rubin and Wu (1998), section 4.2.
    """

    covariance_type: str = "full"
    degrees: float | str = "free"
    bounds: tuple[float, float] = (0.5, 200.0)
    translates: ClassVar[bool] = True
    has_fast_path: ClassVar[bool] = False
    by_pattern: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.choice(self.covariance_type, "covariance_type", TYPES)
        if isinstance(self.degrees, str):
            checks.choice(self.degrees, "degrees", ("free", "tied"))
        elif not checks.number(self.degrees, "degrees") > 0:
            raise ValueError(f"degrees: expected a positive number, got {self.degrees}")
        if len(self.bounds) != 2 or not 0 < self.bounds[0] < self.bounds[1] < np.inf:
            raise ValueError(f"bounds: expected 0 < low < high, got {self.bounds}")

    @property
    def normal(self) -> Gaussian:
        """The family of Gaussians with the same scale matrices."""
        return GAUSSIANS[self.covariance_type]

    def incomplete(self, block: int) -> ExponentialFamily | None:
        """The family of rows with missing entries (NaN), for full scale matrices."""
        from lvm_jax.em.grouped_student import GroupedStudent  # a subclass

        if self.covariance_type != "full":
            return None
        return GroupedStudent(self.covariance_type, self.degrees, self.bounds, block)

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> Students:
        """Locations at the centres, with the standard deviations of the data."""
        degrees = self.degrees
        if isinstance(degrees, str):
            degrees = min(max(START, self.bounds[0]), self.bounds[1])
        full = jnp.full(centres.shape[:1], degrees, centres.dtype)
        spread = jnp.where(spread > 0, spread, 1)  # 0: a constant column
        return Students(self.normal.start(centres, spread), full)

    def translate(self, components: Students, shift: Float[Array, "*R D"]) -> Students:
        """The same components relative to the origin minus `shift`."""
        return components._replace(normal=self.normal.translate(components.normal, shift))

    def distances(self, normal: Gaussians, x: Float[Array, "n D"]) -> Float[Array, "n K"]:
        """d_k(x), from rows centred at each component."""
        mean, scale, low = self.normal.complete(normal)

        def one(each: tuple[Array, Array, Array]) -> Array:
            mean, low, scale = each
            y = self.normal.whiten_one(scale, (x - mean[None]) - low[None])
            return (y * y).sum(1)

        return jax.lax.map(one, (mean, low, scale)).T

    def expectation(self, components: Students, x: Float[Array, "n D"]) -> Weights:
        """log p(x | z=k), E[u | x] and E[log u | x]."""
        dim, distance = x.shape[1], self.distances(components.normal, x)
        log_det = jax.vmap(lambda scale: self.normal.log_det_one(scale, dim))
        return weigh(components.degrees, distance, dim, log_det(components.normal.scale)[None])

    def exact_log_prob(self, components: Students, x: Float[Array, "n D"]) -> Array:
        """log p(x | z=k)."""
        return self.expectation(components, x).log_prob

    def summarize_expected(
        self, components: Students, x: Float[Array, "n D"], expected: Weights, resp: Array
    ) -> StudentMoments:
        """Counts, sums of E[log u], and moments with the weights r_nk E[u]."""
        moments = self.normal.summarize_assigned(x, resp * expected.mean)
        return StudentMoments(resp.sum(0), (resp * expected.log_mean).sum(0), moments)

    def merge(self, a: StudentMoments, b: StudentMoments) -> StudentMoments:
        """The summary of the union of two blocks."""
        moments = self.normal.merge(a.moments, b.moments)
        return StudentMoments(a.counts + b.counts, a.logs + b.logs, moments)

    def reweight(self, summary: StudentMoments, factor: Scalar) -> StudentMoments:
        """The means are not changed."""
        moments = self.normal.reweight(summary.moments, factor)
        return StudentMoments(factor * summary.counts, factor * summary.logs, moments)

    def translate_summary(self, summary: StudentMoments, shift: Array) -> StudentMoments:
        """The summary of the rows x + shift."""
        return summary._replace(moments=self.normal.translate_summary(summary.moments, shift))

    def maximize(self, summary: StudentMoments, previous: Students, settings: Settings) -> Students:
        """Means and scale matrices of the weighted rows, and nu from its likelihood equation.

        log(nu / 2) - psi(nu / 2) = log mean_n E[u] - mean_n E[log u], which is positive.
        """
        counts, logs, moments = summary
        normal = self.normal.maximize(moments, previous.normal, settings)
        if not isinstance(self.degrees, str):
            return Students(normal, previous.degrees)
        size = jnp.where(counts > 0, counts, 1)
        weight = jnp.where(counts > 0, moments.counts, 1)
        excess = jnp.log(weight / size) - logs / size
        if self.degrees == "tied":
            total = (counts * excess).sum() / jnp.maximum(
                counts.sum(), jnp.finfo(counts.dtype).tiny
            )
            return Students(normal, jnp.full_like(excess, 1) * solve_degrees(total, self.bounds))
        degrees = solve_degrees(excess, self.bounds)
        return Students(normal, keep_empty(counts, degrees, previous.degrees))

    def unconstrain(self, components: Students, at: Students, size: Array) -> Students:
        """Those of the Gaussians, and log nu with the Fisher information of known u."""
        scale = _information(at.degrees) * size
        return Students(
            self.normal.unconstrain(components.normal, at.normal, size),
            scale * jnp.log(components.degrees),
        )

    def constrain(self, free: Students, at: Students, size: Array) -> Students:
        """The inverse; degrees of freedom within their bounds."""
        normal = self.normal.constrain(free.normal, at.normal, size)
        if not isinstance(self.degrees, str):
            return Students(normal, at.degrees)
        degrees = jnp.exp(free.degrees / (_information(at.degrees) * size))
        return Students(normal, jnp.clip(degrees, *self.bounds))

    def chart(self, at: Students, size: Float[Array, " K"]) -> tuple[Any, Callable[[Any], Any]]:
        """Tied degrees of freedom have one coordinate."""
        begin, move = super().chart(at, size)
        if self.degrees != "tied":
            return begin, move

        def tied(free: Students) -> Students:
            return move(begin._replace(normal=free.normal))._replace(
                degrees=jnp.clip(at.degrees * jnp.exp(free.degrees), *self.bounds)
            )

        return begin._replace(degrees=jnp.zeros(1, at.degrees.dtype)), tied

    def num_component_parameters(self, num_components: int, dim: int) -> int:
        """Those of the Gaussians, and K, 1 or 0 degrees of freedom."""
        free = {"free": num_components, "tied": 1}.get(str(self.degrees), 0)
        return self.normal.num_component_parameters(num_components, dim) + free

    def floats_per_component(self, dim: int) -> int:
        """Responsibilities, distances, and two expectations."""
        return 6

    def means(self, components: Students) -> Float[Array, "K D"]:
        """The locations, relative to the origin."""
        return components.normal.deviations

    def scales(self, components: Students) -> Float[Array, "K D D"]:
        """The scale matrices Sigma_k."""
        return self.normal.covariances(components.normal)

    def sample_one(self, key: Key[Array, ""], component: Students) -> Array:
        """mean + scale e / sqrt(u), relative to the origin."""
        one, two = jax.random.split(key)
        half = component.degrees / 2
        u = jax.random.gamma(one, half, dtype=half.dtype) / half
        centred = component.normal._replace(deviations=jnp.zeros_like(component.normal.deviations))
        return component.normal.deviations + self.normal.sample_one(two, centred) / jnp.sqrt(u)

    def boundary(self, components: Students, settings: Settings) -> tuple[str, ...]:
        """The components whose degrees of freedom are at a limit."""
        if not isinstance(self.degrees, str):
            return ()
        nu = np.asarray(components.degrees)
        found = []
        for limit, at in zip(
            self.bounds, (nu <= self.bounds[0], nu >= self.bounds[1]), strict=True
        ):
            if at.any():
                names = tuple(np.flatnonzero(at).tolist())
                found.append(
                    f"the degrees of freedom of components {names} are at their limit {limit:g}"
                )
        return tuple(found)


def _information(degrees: Float[Array, " K"]) -> Float[Array, " K"]:
    """The root of the Fisher information of log nu in u ~ Gamma(nu / 2, nu / 2)."""
    a = degrees / 2
    return jnp.sqrt(a * (a * polygamma(1, a) - 1))
