"""A noise component: a uniform density on the box of the data, beside the components of a family.

    p(x) = sum_{k < K} pi_k p(x | z=k) + pi_K / V

V is the volume of the box, a constant; rows outside the box have the density 1 / V too, so that the
density is improper there (Banfield and Raftery 1993; Fraley and Raftery 1998, section 4.3).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core import checks
from lvm_jax.em.families import ExponentialFamily, Settings, like
from lvm_jax.em.mixture import Mixture
from lvm_jax.typing import Array, ArrayLike, Bool, Float, Key, Scalar


class Noisy(NamedTuple):
    """Components of a family, some of which are noise: a uniform density on a box."""

    inner: Any  # of the family; unused where `width` is positive
    centre: Float[Array, "K D"]  # of the box, relative to the origin
    width: Float[Array, "K D"]  # of the box; 0 for the components of the family
    log_volume: Float[Array, " K"]


class NoisySummary(NamedTuple):
    """Counts of all components, and the summary of the family's."""

    counts: Float[Array, " K"]
    inner: Any


@dataclass(frozen=True)
class WithNoise(ExponentialFamily):
    """A family with a noise component; `with_noise` makes a mixture of it, the start of a fit.

    `components` are `Noisy`. A step takes the exact path of the family.
    """

    family: ExponentialFamily
    translates: ClassVar[bool] = True
    has_fast_path: ClassVar[bool] = False
    has_starts: ClassVar[bool] = False

    @property
    def normal(self) -> ExponentialFamily:
        """The family that has the variances of the columns."""
        return self.family.normal

    def check(self, x: ArrayLike) -> None:
        """Raise ValueError on the host for data outside the family's support."""
        self.family.check(x)

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> Noisy:
        """Components without noise: only shapes."""
        return Noisy(
            self.family.start(centres, spread),
            centres,
            jnp.zeros_like(centres),
            jnp.zeros_like(centres[:, 0]),
        )

    def translate(self, components: Noisy, shift: Float[Array, "*R D"]) -> Noisy:
        """The same components relative to the origin minus `shift`."""
        inner = self.family.translate(components.inner, shift)
        moved = components.centre + jnp.broadcast_to(shift, components.centre.shape)
        return components._replace(inner=inner, centre=moved)

    def is_noise(self, components: Noisy) -> Bool[Array, " K"]:
        """Which components are noise."""
        return components.width[:, 0] > 0

    def expectation(self, components: Noisy, x: Float[Array, "n D"]) -> Any:
        """The expectation of the family, with the density 1 / V of the noise."""
        found = self.family.expectation(components.inner, x)
        noise = jnp.broadcast_to(-components.log_volume[None], found.log_prob.shape)
        return found._replace(
            log_prob=jnp.where(self.is_noise(components)[None], noise, found.log_prob)
        )

    def exact_log_prob(self, components: Noisy, x: Float[Array, "n D"]) -> Array:
        """log p(x | z=k)."""
        return self.expectation(components, x).log_prob

    def summarize_expected(
        self, components: Noisy, x: Float[Array, "n D"], expected: Any, resp: Float[Array, "n K"]
    ) -> NoisySummary:
        """Counts, and the summary of the family without the rows of the noise."""
        used = jnp.where(self.is_noise(components)[None], 0, resp)
        inner = self.family.summarize_expected(components.inner, x, expected, used)
        return NoisySummary(resp.sum(0), inner)

    def merge(self, a: NoisySummary, b: NoisySummary) -> NoisySummary:
        """The summary of the union of two blocks."""
        return NoisySummary(a.counts + b.counts, self.family.merge(a.inner, b.inner))

    def reweight(self, summary: NoisySummary, factor: Scalar) -> NoisySummary:
        """The summary of the same rows with `factor` times their weights."""
        inner = self.family.reweight(summary.inner, factor)
        return NoisySummary(factor * summary.counts, inner)

    def translate_summary(self, summary: NoisySummary, shift: Array) -> NoisySummary:
        """The summary of the rows x + shift."""
        return summary._replace(inner=self.family.translate_summary(summary.inner, shift))

    def maximize(self, summary: NoisySummary, previous: Noisy, settings: Settings) -> Noisy:
        """The M-step of the family; the box stays."""
        return previous._replace(
            inner=self.family.maximize(summary.inner, previous.inner, settings)
        )

    def unconstrain(self, components: Noisy, at: Noisy, size: Float[Array, " K"]) -> Noisy:
        """The coordinates of the family."""
        inner = self.family.unconstrain(components.inner, at.inner, size)
        return at._replace(inner=inner)

    def constrain(self, free: Noisy, at: Noisy, size: Float[Array, " K"]) -> Noisy:
        """The inverse; the noise stays as it is."""
        inner = self.family.constrain(free.inner, at.inner, size)
        return at._replace(inner=inner)

    def chart(self, at: Noisy, size: Float[Array, " K"]) -> tuple[Any, Callable[[Any], Any]]:
        """The coordinates of the family; the noise has none."""
        begin, move = self.family.chart(at.inner, size)
        inner, width = move(begin), at.width[:, 0]
        one = self.family.select(inner, jnp.int32(0))

        def moved(free: Any) -> Noisy:
            def keep(new: Array, old: Array, single: Array) -> Array:
                if single.ndim == new.ndim:  # of all components
                    return new
                return jnp.where(like(width, new) > 0, old, new)

            return at._replace(inner=jax.tree.map(keep, move(free), inner, one))

        return begin, moved

    def within(self, components: Noisy, settings: Settings) -> Noisy:
        """Those of the family."""
        return components._replace(inner=self.family.within(components.inner, settings))

    def boundary(self, components: Noisy, settings: Settings) -> tuple[str, ...]:
        """Those of the family's components."""
        kept: Any = np.flatnonzero(np.asarray(components.width)[:, 0] == 0)
        return self.family.boundary(self.family.select(components.inner, kept), settings)

    def num_component_parameters(self, num_components: int, dim: int) -> int:
        """Those of K - 1 components of the family; V is given."""
        return self.family.num_component_parameters(num_components - 1, dim)

    def floats_per_component(self, dim: int) -> int:
        """Those of the family."""
        return self.family.floats_per_component(dim)

    def select(self, components: Noisy, k: Any) -> Noisy:
        """Component k."""
        rest = super().select(components._replace(inner=()), k)
        return rest._replace(inner=self.family.select(components.inner, k))

    def means(self, components: Noisy) -> Float[Array, "K D"]:
        """Means of the family, and the centre of the box."""
        noise = self.is_noise(components)[:, None]
        return jnp.where(noise, components.centre, self.family.means(components.inner))

    def sample_one(self, key: Key[Array, ""], component: Noisy) -> Array:
        """A draw of the family, or of the uniform distribution on the box."""
        one, two = jax.random.split(key)
        drawn = self.family.sample_one(one, component.inner)
        share = jax.random.uniform(two, drawn.shape, drawn.dtype, -0.5, 0.5)
        uniform = component.centre + component.width * share
        return jnp.where(component.width > 0, uniform, drawn)


def with_noise(
    mixture: Mixture, x: ArrayLike, share: float = 0.05, volume: float | None = None
) -> Mixture:
    """The mixture with a noise component of weight `share` after its K components.

    The result starts a fit, whose last component is the noise: `assign` returns K for its rows.

        clusters = em.initialize(key, x, 3)
        start = em.with_noise(clusters, x)
        fit = em.fit(key, x, 4, start.family, start=start)

    Args:
        mixture: K components of a family on all of R^D; leaves may have a leading restart axis.
        x: rows [N, D], or two corners of a box. The noise has their bounding box, from which it is
            sampled.
        share: the weight of the noise at the start.
        volume: V, the volume of another region, such as that of an oriented box; by default that
            of the bounding box. It counts as no parameter.

    Raises ValueError or TypeError for discrete components, constant columns, another width, a
    share outside (0, 1) and a volume that is not positive.

    Source: Banfield and Raftery (1993), section 6; Fraley and Raftery (1998), section 4.3.
    """
    family, rows = mixture.family, np.asarray(checks.points(x, "x"), np.float64)
    if not family.translates or isinstance(family, WithNoise):
        raise TypeError(
            f"mixture: expected continuous components without noise, got {type(family).__name__}"
        )
    if rows.shape[1] != mixture.origin.shape[-1]:
        raise ValueError(f"x: expected {mixture.origin.shape[-1]} columns, got {rows.shape[1]}")
    if not 0 < checks.number(share, "share") < 1:
        raise ValueError(f"share: expected a number between 0 and 1, got {share}")
    low, high = rows.min(0), rows.max(0)
    if (low == high).any():
        constant = np.flatnonzero(low == high).tolist()
        raise ValueError(f"x: expected columns that vary, got constant columns {constant}")
    log_volume = np.log(high - low).sum()
    if volume is not None:
        if not checks.number(volume, "volume") > 0:
            raise ValueError(f"volume: expected a positive number, got {volume}")
        log_volume = np.log(volume)
    log_weights = np.asarray(mixture.log_weights)
    noise = np.full((*log_weights.shape[:-1], 1), np.log(share), log_weights.dtype)
    weights: Any = np.concatenate([log_weights + np.log1p(-share).astype(noise.dtype), noise], -1)
    components = _boxed(mixture, low, high, float(log_volume))
    weights, components = jax.device_put((weights, components))
    return Mixture(weights, components, mixture.origin, WithNoise(family))


def _boxed(mixture: Mixture, low: np.ndarray, high: np.ndarray, log_volume: float) -> Noisy:
    """The components, and a copy of the first one as the noise, as NumPy arrays."""
    restarts, number = mixture.log_weights.shape[:-1], mixture.log_weights.shape[-1]
    places = np.r_[np.arange(number), 0]
    one = lambda part: mixture.family.select(part, places)  # noqa: E731
    host = jax.tree.map(np.asarray, mixture.components)
    origin = np.asarray(mixture.origin, np.float64)
    inner = one(host) if not restarts else jax.vmap(one)(host)
    shape = (*restarts, number + 1, len(low))
    dtype = mixture.log_weights.dtype
    width, volumes = np.zeros(shape, dtype), np.zeros(shape[:-1], dtype)
    width[..., -1, :], volumes[..., -1] = high - low, log_volume
    centre = np.broadcast_to(((low + high) / 2 - origin)[..., None, :], shape).astype(dtype)
    parts: Any = inner, centre, width, volumes
    return Noisy(*parts)
