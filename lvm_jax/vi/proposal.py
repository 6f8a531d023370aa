"""A proposal with conditional scales, fitted to weighted draws: for funnels and curved shapes.

In an order of the standardised coordinates v, parents first,

    v_j = a_j . f + exp(b_j . f) t_j,    f = (1, v_1..v_(j-1), log cosh v_1..v_(j-1))

with independent Student's t_j. b . f is a piecewise linear log-scale, such as that of effects given
the logarithm of their scale in a hierarchical model. A density of a Gaussian q has no such scales.

Source: Oh and Berger (1992) for adaptive importance sampling; Harvey (1976) for the log-scales.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from lvm_jax import precision
from lvm_jax._core import keys
from lvm_jax.typing import Array, Distribution, Float, Int, Key, Scalar

DOF = 10  # of Student's t, even
RIDGE = 1.0  # of the regressions, in effective draws
SHARE, SIGNIFICANT = 0.01, 12.0  # least squared correlation of a parent, and times effective draws
MAX_PARENTS = 3
LARGEST = 100.0  # squared residual
MAX_ITERATIONS, CLOSE = 15, 0.02  # a change of the log-scales that ends the fit
MARGIN = 1.0  # of the range of the log-scales beyond that at the draws
MAX_PARTS = 6  # of a mixture


class ConditionalScales(NamedTuple):
    """The distribution of the formula above; a pytree of arrays."""

    order: Int[Array, " D"]  # the coordinates of z, parents first
    loc: Float[Array, " D"]  # of the standardisation, in this order
    scale: Float[Array, " D"]
    mean: Float[Array, "D F"]  # a, F = 2 D + 1, zero from feature j on
    log_scale: Float[Array, "D F"]  # b
    low: Float[Array, " D"]  # limits of b . f
    high: Float[Array, " D"]

    @precision.full
    def log_prob(self, value: Float[Array, " D"]) -> Scalar:
        """Log-density of one point, in nats."""
        v = (value[self.order] - self.loc) / self.scale
        features = _features(v)
        log_scale = jnp.clip(self.log_scale @ features, self.low, self.high)
        t = (v - self.mean @ features) * jnp.exp(-log_scale)
        return _log_t(t).sum() - log_scale.sum() - jnp.log(self.scale).sum()

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws, [*sample_shape, D]."""
        dim = self.loc.size
        noise = _draw_t(seed, (*sample_shape, dim), self.loc.dtype)
        return jax.vmap(self._place)(noise.reshape(-1, dim)).reshape(noise.shape)

    @precision.full
    def _place(self, noise: Float[Array, " D"]) -> Float[Array, " D"]:
        dim = noise.size

        def step(features: Array, now: tuple) -> tuple[Array, Array]:
            index, t, a, b, low, high = now
            v = a @ features + jnp.exp(jnp.clip(b @ features, low, high)) * t
            features = features.at[1 + index].set(v).at[1 + dim + index].set(_log_cosh(v))
            return features, v

        rows = (jnp.arange(dim), noise, self.mean, self.log_scale, self.low, self.high)
        first = _features(jnp.zeros_like(noise))
        v = jax.lax.scan(step, first, rows)[1]
        return jnp.zeros_like(noise).at[self.order].set(self.loc + self.scale * v)


class Defended(NamedTuple):
    """A mixture of q with at most `MAX_PARTS` parts: weights p / Defended are <= p / q / share."""

    parts: ConditionalScales  # leaves [K, ...]; unused ones have a share of 0
    log_shares: Float[Array, " K1"]  # of the parts, and of q
    q: Distribution

    @classmethod
    def of(cls, part: ConditionalScales, q: Distribution, share: float) -> "Defended":
        """One part, and q with this share."""
        parts = jax.tree.map(lambda leaf: np.stack([leaf] * MAX_PARTS), part)
        shares = np.full(MAX_PARTS + 1, -np.inf)
        shares[0], shares[-1] = np.log1p(-share), np.log(share)
        return cls(parts, jnp.asarray(shares, part.loc.dtype), q)

    def extended(self, part: ConditionalScales, share: float) -> "Defended":
        """With one more part of this share, in the first unused place or that of the least."""
        place = int(np.argmin(self.log_shares[:-1]))
        shares = np.array(self.log_shares, float)
        shares[place] = -np.inf
        shares += np.log1p(-share) - np.log(np.exp(shares).sum())
        shares[place] = np.log(share)

        def put(every: Array, one: Array) -> np.ndarray:
            changed = np.array(every)
            changed[place] = one
            return changed

        parts = jax.tree.map(put, self.parts, part)
        return self._replace(parts=parts, log_shares=jnp.asarray(shares, self.log_shares.dtype))

    def log_prob(self, value: Float[Array, " D"]) -> Scalar:
        """Log-density of one point, in nats."""
        parts = jax.vmap(lambda part: part.log_prob(value))(self.parts)
        every = jnp.append(parts, self.q.log_prob(value)) + self.log_shares
        return jax.nn.logsumexp(every)

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws, [*sample_shape, D]."""
        key_pick, key_parts, key_q = jax.random.split(seed, 3)
        number = self.log_shares.size - 1
        label = jax.random.categorical(key_pick, self.log_shares, shape=sample_shape)

        def put(z: Array, now: tuple) -> tuple[Array, None]:
            index, part, key = now

            def replaced(z: Array) -> Array:
                drawn = part.sample(seed=key, sample_shape=sample_shape)
                return jnp.where((label == index)[..., None], drawn, z)

            return jax.lax.cond((label == index).any(), replaced, lambda z: z, z), None

        first = self.q.sample(seed=key_q, sample_shape=sample_shape)
        rows = (jnp.arange(number), self.parts, jax.random.split(key_parts, number))
        return jax.lax.scan(put, first, rows)[0]


def fit_scales(z: Float[np.ndarray, "S D"], weights: Float[np.ndarray, " S"]) -> ConditionalScales:
    """The maximum-likelihood fit to weighted draws, normal for t, on the host in float64.

    Only parents, of which there are at most three, have a log cosh and a part in the log-scales.
    """
    dtype, z = z.dtype, np.asarray(z, float)
    p = np.asarray(weights, float) / np.sum(weights)
    loc = p @ z
    scale = np.maximum(np.sqrt(p @ (z - loc) ** 2), np.finfo(dtype).tiny)
    order, num_parents = _parents_first((z - loc) / scale, p)
    loc, scale = loc[order], scale[order]
    v = (z[:, order] - loc) / scale
    fits = [_fit_one(v, p, index, min(index, num_parents)) for index in range(v.shape[1])]
    mean, log_scale, low, high = (np.array(part, dtype) for part in zip(*fits, strict=True))
    arrays = (loc.astype(dtype), scale.astype(dtype), mean, log_scale, low, high)
    return ConditionalScales(jnp.asarray(order, jnp.int32), *map(jnp.asarray, arrays))


def _fit_one(
    v: Float[np.ndarray, "S D"],
    p: Float[np.ndarray, " S"],
    index: int,
    num_parents: int,
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """a, b and the limits of b . f for coordinate `index`, by alternating weighted regressions."""
    dim, chosen = v.shape[1], np.arange(num_parents)
    of_scale = np.r_[0, 1 + chosen, 1 + dim + chosen]
    of_mean = np.r_[0, 1 : index + 1, 1 + dim + chosen]
    every = np.concatenate([np.ones((len(v), 1)), v, _log_cosh(v, np)], 1)
    f, g, y = every[:, of_mean], every[:, of_scale], v[:, index]
    a, b = np.zeros(2 * dim + 1), np.zeros(2 * dim + 1)
    ridge = RIDGE * (p**2).sum()  # per effective draw
    for _ in range(MAX_ITERATIONS):
        log_scale = g @ b[of_scale]
        weighted = f * (p * np.exp(-2 * log_scale))[:, None]
        a[of_mean] = _solve(weighted.T @ f, weighted.T @ y, ridge)
        # Fisher scoring of b, whose information is 2 f f^T for each draw.
        excess = np.minimum(((y - f @ a[of_mean]) * np.exp(-log_scale)) ** 2, LARGEST) - 1
        prior = ridge * b[of_scale] * (of_scale > 0)
        weighted = g * p[:, None]
        step = _solve(2 * weighted.T @ g, weighted.T @ excess - prior, ridge)
        size = np.abs(g @ step).max()
        b[of_scale] += step / max(1.0, size)
        if size < CLOSE:
            break
    kept = (g @ b[of_scale])[p > 0.01 / len(p)]
    return a, b, kept.min() - MARGIN, kept.max() + MARGIN


def _solve(matrix: np.ndarray, right: np.ndarray, ridge: float) -> np.ndarray:
    return np.linalg.solve(matrix + ridge * np.eye(len(matrix)), right)


def _parents_first(v: Float[np.ndarray, "S D"], p: Float[np.ndarray, " S"]) -> tuple[list, int]:
    """An order of the coordinates, and the number of parents at its beginning.

    A parent has the largest correlations with the others' log squared residuals, of what earlier
    parents do not explain: two effects of one scale correlate through it alone.
    """
    dim, least = v.shape[1], max(SHARE, SIGNIFICANT * (p**2).sum())
    inverse = np.linalg.inv((v * p[:, None]).T @ v + 1e-6 * np.eye(dim))
    spread = np.log((v @ inverse / np.diagonal(inverse)) ** 2 + 1e-6)
    features = np.stack([v, _log_cosh(v, np)])
    parents: list[int] = []
    while len(parents) < min(MAX_PARENTS, dim - 1):
        known = np.concatenate([np.ones((len(v), 1)), *features[:, :, parents]], 1)
        weighted = known * p[:, None]
        spread = spread - known @ _solve(weighted.T @ known, weighted.T @ spread, 1e-9)
        unit = _standard(spread, p) * p[:, None]
        share = np.max([(_standard(one, p).T @ unit) ** 2 for one in features], 0)
        share *= (share > least) & ~np.eye(dim, dtype=bool)
        share[parents] = 0.0
        best = int(np.argmax(share.sum(1)))
        if share[best].sum() == 0:
            break
        parents.append(best)
    return [*parents, *(i for i in range(dim) if i not in parents)], len(parents)


def _standard(values: np.ndarray, p: np.ndarray) -> np.ndarray:
    away = values - p @ values
    return away / (np.sqrt(p @ away**2) + 1e-12)


def _log_cosh(v: Any, xp: Any = jnp) -> Any:
    return xp.logaddexp(v, -v) - np.log(2)


def _features(v: Float[Array, " D"]) -> Float[Array, " F"]:
    return jnp.concatenate([jnp.ones(1, v.dtype), v, _log_cosh(v)])


def _draw_t(key: Key[Array, ""], shape: tuple[int, ...], dtype: Any) -> Array:
    """Student's t; chi^2 of `DOF` is twice a sum of exponential draws, without rejections."""
    key_normal, key_scale = jax.random.split(keys.unrolled(key))
    half = jax.random.exponential(key_scale, (DOF // 2, *shape), dtype).sum(0)
    return jax.random.normal(key_normal, shape, dtype) * jnp.sqrt(DOF / 2 / half)


def _log_t(t: Array) -> Array:
    constant = gammaln((DOF + 1) / 2) - gammaln(DOF / 2) - 0.5 * np.log(DOF * np.pi)
    return constant - 0.5 * (DOF + 1) * jnp.log1p(t**2 / DOF)
