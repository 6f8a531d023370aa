"""Likelihoods of grey levels: a discretised logistic (ordered) or a categorical (unordered)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax._core.support import Support, grey_levels, whole_numbers
from lvm_jax.distributions.chain import positive_scale
from lvm_jax.likelihoods.base import Likelihood, no_parameters, split_outputs
from lvm_jax.typing import Array, Distribution, Float, Key, Params, Scalar


def discretized_logistic(dim: int, num_levels: int = 256) -> Likelihood:
    """Levels k / (L - 1), k < L, of [0, 1], `DiscretizedLogistic`; outputs [2 D] are loc, then u.

    The scale is exp(8 tanh(u / 8)), which is 1 at u = 0 and at least 3e-4. Bytes divided by 255
    have 256 levels; scikit-learn's 8 x 8 digits divided by 16 have 17 levels.

    Raises ValueError for fewer than 2 levels.
    """
    dim = checks.integer(dim, "dim", 1)
    num_levels = checks.integer(num_levels, "num_levels", 2)
    levels = np.arange(num_levels) / (num_levels - 1)

    def build(params: Params, outputs: Float[Array, " O"]) -> Distribution:
        loc, free = split_outputs(outputs, 2, dim)
        return DiscretizedLogistic(loc, positive_scale(free), jnp.asarray(levels, loc.dtype))

    return Likelihood(2 * dim, no_parameters, build, grey_levels(num_levels))


def categorical(dim: int, num_levels: int = 256) -> Likelihood:
    """Levels in {0, ..., L - 1} with one logit each, `CategoricalLevels`.

    Outputs [L D] are the logits of level 0 for all dimensions, then those of level 1, and so on.
    Levels are unordered, and the last layer is L times as wide.

    Raises ValueError for fewer than 2 levels.
    """
    dim = checks.integer(dim, "dim", 1)
    num_levels = checks.integer(num_levels, "num_levels", 2)

    def build(params: Params, outputs: Float[Array, " O"]) -> Distribution:
        return CategoricalLevels(split_outputs(outputs, num_levels, dim))

    return Likelihood(num_levels * dim, no_parameters, build, whole_numbers(num_levels))


class DiscretizedLogistic(NamedTuple):
    """D independent levels: a logistic variable rounded to the nearest of L equidistant levels.

    p(x) = sigmoid((x + h - loc) / s) - sigmoid((x - h - loc) / s), where h is half a step. The
    interval of the lowest level extends to -infinity and that of the highest to infinity, so
    probabilities sum to one. An x between levels has the probability of the interval x +- h.

    Source: Salimans et al. (2017), equation 2 with one component; Kingma et al. (2016), appendix
    C.5, without the ends.
    """

    loc: Float[Array, " D"]
    scale: Float[Array, " D"]
    levels: Float[Array, " L"]  # ascending, equidistant

    @property
    def reparameterized(self) -> bool:
        """False: a rounded number has no derivative."""
        return False

    def log_prob(self, value: Float[Array, " D"]) -> Scalar:
        """sum_d log p(x_d), in nats: a probability.

        With u the upper and l the lower edge, in scales,

            log(sigmoid(u) - sigmoid(l)) = log sigmoid(u) + log sigmoid(-l) + log(1 - exp(l - u))

        where u - l is computed exactly as step / scale. The formula has no cancellation, so the
        tails need neither a minimum probability nor a density approximation.
        """
        checks.one_value(value, self.loc.shape, "loc")
        step = self.levels[1] - self.levels[0]
        width = step / self.scale
        middle = (value - self.loc) / self.scale
        low = value < self.levels[0] + step / 2
        high = value > self.levels[-1] - step / 2
        below = jnp.where(high, 0, -jax.nn.softplus(-(middle + width / 2)))
        above = jnp.where(low, 0, -jax.nn.softplus(middle - width / 2))
        between = jnp.where(low | high, 0, jnp.log(-jnp.expm1(-width)))
        return (below + above + between).sum()

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Levels, [*sample_shape, D]."""
        shape = (*sample_shape, *self.loc.shape)
        noise = jax.random.logistic(seed, shape, self.loc.dtype)
        loc, scale = (jnp.broadcast_to(v, shape) for v in (self.loc, self.scale))
        lowest, highest, last = self.levels[0], self.levels[-1], self.levels.shape[0] - 1
        position = (loc + scale * noise - lowest) * last / (highest - lowest)
        return lowest + jnp.clip(jnp.round(position), 0, last) * (highest - lowest) / last

    def mean(self) -> Float[Array, " D"]:
        """E[x_d] = lowest level + step * sum over edges e between levels of P(x_d > e)."""
        edges = (self.levels[1:] + self.levels[:-1]) / 2
        beyond = jax.nn.sigmoid((self.loc[None] - edges[:, None]) / self.scale[None])
        return self.levels[0] + (self.levels[1] - self.levels[0]) * beyond.sum(0)


class CategoricalLevels(NamedTuple):
    """D independent levels in {0, ..., L - 1}, as floats."""

    logits: Float[Array, "L D"]

    @property
    def reparameterized(self) -> bool:
        """False: levels have no derivative."""
        return False

    @property
    def support(self) -> Support:
        """0, ..., L - 1."""
        return whole_numbers(self.logits.shape[0])

    def log_prob(self, value: Float[Array, " D"]) -> Scalar:
        """sum_d l_{x_d, d} - log sum_k exp(l_kd), in nats: a probability; -inf if no level."""
        checks.one_value(value, self.logits.shape[1:], "logits of one level")
        chosen = value[None] == self._levels()[:, None]
        logits = jnp.where(chosen, self.logits, 0).sum(0)
        log_p = logits - jax.nn.logsumexp(self.logits, axis=0)
        return jnp.where(chosen.any(0), log_p, -jnp.inf).sum()

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Levels, [*sample_shape, D]."""
        shape = (*sample_shape, self.logits.shape[1])
        levels = jax.random.categorical(seed, self.logits, axis=0, shape=shape)
        return levels.astype(self.logits.dtype)

    @precision.full
    def mean(self) -> Float[Array, " D"]:
        """E[x_d] = sum_k k p_kd, between 0 and L - 1."""
        return self._levels() @ jax.nn.softmax(self.logits, axis=0)

    def _levels(self) -> Float[Array, " L"]:
        return jnp.arange(self.logits.shape[0], dtype=self.logits.dtype)
