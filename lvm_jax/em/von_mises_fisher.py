"""Von Mises-Fisher components: directions in D dimensions."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.em import bessel
from lvm_jax.em.families import (
    ROUNDING_NATS,
    ExponentialFamily,
    Settings,
    Sums,
    divide,
    keep_empty,
    reweighted,
)
from lvm_jax.typing import Array, Bool, Float, Key, Params, Scalar

NEWTON_STEPS = 8
UNIT = 1e-3  # largest distance of a row's norm from 1


class Directions(NamedTuple):
    """Mean directions (unit vectors) and concentrations of K components."""

    directions: Float[Array, "K D"]
    concentrations: Float[Array, " K"]


class Spreads(NamedTuple):
    """Weights, mean vectors, and sum_n w_n |x_n - mean|^2."""

    counts: Float[Array, " K"]
    means: Float[Array, "K D"]
    scatter: Float[Array, " K"]


@dataclass(frozen=True)
class VonMisesFisher(ExponentialFamily):
    """Unit vectors; components are `Directions`: mean directions m [K, D], concentrations c [K].

        log p(x | z=k) = c_k m_k . x + log C_D(c_k),    C_D(c) = c^v / ((2 pi)^(D/2) I_v(c))

    with v = D / 2 - 1 (Banerjee et al. 2005). m_k is the direction of the mean vector, and c_k
    solves A_D(c) = R, the length of the mean vector, by Newton steps in log(A / (1 - A)) from the
    estimate R (D - R^2) / (1 - R^2) (Sra 2012). The variance 1 - R^2 is a sum of squares
    about the mean vector, so that it keeps its digits for narrow components.

    Args:
        largest_concentration: the estimate of equal rows, whose likelihood has no bound.

    Raises ValueError for rows whose norm is not 1 within 1e-3; NaN is refused.
    """

    largest_concentration: float = 1e6
    least_concentration: ClassVar[float] = 1e-6
    has_exact_path: ClassVar[bool] = True

    def check(self, x: Any) -> None:
        """Refuse rows that are not unit vectors."""
        if x.shape[1] < 2:
            raise ValueError(f"x: expected unit vectors in 2 or more dimensions, got {x.shape[1]}")
        norm = np.linalg.norm(np.asarray(x, np.float64), axis=1)
        bad = np.abs(norm - 1) > UNIT
        if bad.any():
            raise ValueError(
                f"x: expected unit vectors, got a row of norm {norm[bad][0]:g}; divide each row by "
                "its norm"
            )

    def natural(self, components: Directions) -> tuple[Array, Array]:
        """eta_k = c m, offset_k = log C_D(c)."""
        direction, c = components
        return c[:, None] * direction, bessel.log_normalizer(c, direction.shape[1]) - c

    def summarize(self, sums: Sums) -> Spreads:
        """Mean vectors, and the scatter n (1 - R^2) of unit vectors."""
        means = divide(sums.features, sums.counts)
        return Spreads(sums.counts, means, sums.counts * (1 - (means**2).sum(1)))

    def summarize_assigned(self, x: Float[Array, "n D"], resp: Float[Array, "n K"]) -> Spreads:
        """Mean vectors, and the scatter about them without cancellation."""
        counts = resp.sum(0)
        means = divide(resp.T @ x, counts)
        scatter = jax.lax.map(lambda each: each[1] @ squares(x, each[0]), (means, resp.T))
        return Spreads(counts, means, scatter)

    def merge(self, a: Spreads, b: Spreads) -> Spreads:
        """Mean vectors and scatter of the union of two blocks (Chan, Golub and LeVeque 1983)."""
        counts = a.counts + b.counts
        share = divide(b.counts[:, None], counts)
        change = b.means - a.means
        between = a.counts * share[:, 0] * (change**2).sum(1)
        return Spreads(counts, a.means + share * change, a.scatter + b.scatter + between)

    def reweight(self, summary: Any, factor: Scalar) -> Any:
        """The means are not changed."""
        return reweighted(summary, factor)

    def maximize(self, summary: Spreads, previous: Directions, settings: Settings) -> Directions:
        """The direction of the mean vector, and the concentration of its length."""
        counts, means, scatter = summary
        length = jnp.sqrt((means**2).sum(1))
        direction = unit(means, previous.directions)
        variance = jnp.maximum(divide(scatter[:, None], counts)[:, 0], 0)
        c = self.concentration(variance, length, means.shape[1])
        return keep_empty(counts, Directions(direction, c), previous)

    def concentration(self, variance: Array, length: Array, dim: int) -> Array:
        """The c with A_D(c) = R, from 1 - R^2 and R."""
        tiny = 0.1 * (dim - 1) / self.largest_concentration
        gap = jnp.maximum(variance, tiny) / (1 + length)  # 1 - R
        r = jnp.maximum(1 - gap, self.least_concentration / dim)
        target = jnp.log(r) - jnp.log(gap)
        guess = r * (dim - r**2) / (gap * (1 + r))

        def body(_: Any, log_c: Array) -> Array:
            def odds(t: Array) -> Array:
                left = bessel.shortfall(jnp.exp(t), dim)
                return jnp.log1p(-left) - jnp.log(left)

            value, slope = jax.jvp(odds, (log_c,), (jnp.ones_like(log_c),))
            return log_c - (value - target) / slope

        log_c = jax.lax.fori_loop(0, NEWTON_STEPS, body, jnp.log(guess))
        return jnp.clip(jnp.exp(log_c), self.least_concentration, self.largest_concentration)

    def is_safe(self, components: Directions) -> Bool[Array, ""]:
        """Whether c has a rounding error within ROUNDING_NATS."""
        c = components.concentrations
        return c.max() * jnp.finfo(c.dtype).eps / 2 <= ROUNDING_NATS[c.dtype.itemsize]

    def exact_log_prob(self, components: Directions, x: Float[Array, "n D"]) -> Array:
        """-c |x - m|^2 / 2 + log C_D(c) + c, for unit vectors."""

        def one(each: Directions) -> Array:
            return -0.5 * each.concentrations * squares(x, each.directions)

        rest = bessel.log_normalizer(components.concentrations, x.shape[1])
        return jax.lax.map(one, components).T + rest[None]

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> Directions:
        """The directions of the centres, with concentration D."""
        axis = jnp.zeros_like(centres).at[:, 0].set(1)
        return Directions(unit(centres, axis), jnp.full_like(centres[:, 0], centres.shape[1]))

    def boundary(self, components: Directions, settings: Settings) -> tuple[str, ...]:
        """The concentrations that are the largest."""
        full = np.asarray(components.concentrations) >= 0.999 * self.largest_concentration
        return tuple(f"the largest concentration in component {k}" for k in np.flatnonzero(full))

    def means(self, components: Directions) -> Float[Array, "K D"]:
        """A_D(c) m, the mean vectors."""
        direction, c = components
        return (1 - bessel.shortfall(c, direction.shape[1]))[:, None] * direction

    def num_component_parameters(self, num_components: int, dim: int) -> int:
        """D - 1 for the direction, and a concentration."""
        return num_components * dim

    def unconstrain(self, components: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """Directions of information c A, and log c of information about (D - 1) / 2."""
        wide, narrow = self.scales(at, size)
        log_c = jnp.log(components.concentrations) * narrow
        return Directions(components.directions * wide[:, None], log_c)

    def constrain(self, free: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """Unit vectors, and concentrations in their range."""
        wide, narrow = self.scales(at, size)
        vector = free.directions / wide[:, None]
        c = jnp.exp(free.concentrations / narrow)
        c = jnp.clip(c, self.least_concentration, self.largest_concentration)
        return Directions(vector / jnp.sqrt((vector**2).sum(1, keepdims=True)), c)

    def scales(self, at: Directions, size: Float[Array, " K"]) -> tuple[Array, Array]:
        """The scales of the directions and of log c, at components."""
        direction, c = at
        dim = direction.shape[1]
        length = 1 - bessel.shortfall(c, dim)
        information = jnp.minimum(0.5 * (dim - 1), c**2 / dim)
        return size * jnp.sqrt(c * length), size * jnp.sqrt(information)

    def sample_one(self, key: Key[Array, ""], component: Directions) -> Array:
        """A unit vector, by the rejection sampler of Wood (1994) for its part along m."""
        direction, c = component
        half = 0.5 * (direction.shape[0] - 1)
        # b = (sqrt(4 c^2 + (D - 1)^2) - 2 c) / (D - 1), without cancellation
        b = half / (c + jnp.sqrt(c**2 + half**2))
        mode = (1 - b) / (1 + b)
        bound = c * mode + 2 * half * jnp.log1p(-(mode**2))

        def rejected(state: tuple[Array, Array, Array]) -> Array:
            return ~state[2]

        def draw(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            key, key_z, key_u = jax.random.split(state[0], 3)
            z = jax.random.beta(key_z, half, half, dtype=c.dtype)
            w = (1 - (1 + b) * z) / (1 - (1 - b) * z)
            level = jnp.log(jax.random.uniform(key_u, (), c.dtype))
            return key, w, c * w + 2 * half * jnp.log1p(-mode * w) - bound >= level

        key_w, key_v = jax.random.split(key)
        _, w, _ = jax.lax.while_loop(rejected, draw, (key_w, jnp.ones_like(c), jnp.array(False)))
        noise = jax.random.normal(key_v, direction.shape, direction.dtype)
        across = noise - (noise @ direction) * direction
        across = across / jnp.sqrt((across**2).sum())
        return w * direction + jnp.sqrt(jnp.maximum(1 - w**2, 0)) * across


def unit(vectors: Float[Array, "K D"], otherwise: Float[Array, "K D"]) -> Float[Array, "K D"]:
    """Vectors divided by their norms; `otherwise` for those of norm 0."""
    length = jnp.sqrt((vectors**2).sum(1, keepdims=True))
    return jnp.where(length > 0, vectors / jnp.where(length > 0, length, 1), otherwise)


def squares(x: Float[Array, "n D"], point: Float[Array, " D"]) -> Float[Array, " n"]:
    """|x_n - point|^2."""
    return ((x - point[None]) ** 2).sum(1)
