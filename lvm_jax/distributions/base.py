"""Products of scalar families, tables, and closed forms: support, entropy, KL, expectations.

Type checks read `foreign.native(q)`, which converts distributions of distrax, NumPyro and TFP.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax._core.support import BITS, Support, Supports, whole_numbers
from lvm_jax.distributions.bits import Bernoulli
from lvm_jax.distributions.foreign import (
    bits_or_real,
    carries_gradients,
    innermost,
    native,
    package,
)
from lvm_jax.distributions.labels import Categorical, OneHotCategorical
from lvm_jax.distributions.normals import FullRankNormal, LowRankNormal, upper_factor
from lvm_jax.distributions.scalar import Independent, Normal, Uniform
from lvm_jax.typing import Array, Distribution, Float, Key, Latent, SampleAndLogProb, Scalar

MAX_SUPPORT = 2**22  # the most values of z to enumerate


def normal(loc: Float[Array, " D"], scale: Float[Array, " D"]) -> Distribution:
    """N(loc, diag(scale^2)), D independent normals (scale is a standard deviation)."""
    return Independent(Normal(loc, scale), 1)


def uniform(low: Float[Array, " D"], high: Float[Array, " D"]) -> Distribution:
    """The uniform distribution on a box in D dimensions."""
    return Independent(Uniform(low, high), 1)


def categorical(logits: Float[Array, "K L"]) -> Distribution:
    """K independent integers in {0, ..., L - 1}."""
    return Independent(Categorical(logits=logits), 1)


def one_hot(logits: Float[Array, "K L"]) -> Distribution:
    """K independent one-hot rows of L floats: `categorical` for relaxable densities."""
    return Independent(OneHotCategorical(logits=logits, dtype=logits.dtype), 1)


class Table(NamedTuple):
    """A distribution over the M rows of `values` (a pytree, leading axis M) with `log_probs`.

    It represents the exact posterior of an enumerable model, with all dependences.
    """

    log_probs: Float[Array, " M"]
    values: Latent

    def log_prob(self, value: Latent) -> Scalar:
        """log q(z); -inf for a z that is not in the table."""
        for rows, one in zip(jax.tree.leaves(self.values), jax.tree.leaves(value), strict=True):
            checks.one_value(one, rows.shape[1:], "rows of the table")
        same = [
            (rows == one[None]).reshape(rows.shape[0], -1).all(1)
            for rows, one in zip(jax.tree.leaves(self.values), jax.tree.leaves(value), strict=True)
        ]
        match = jnp.stack(same).all(0)
        return jax.nn.logsumexp(jnp.where(match, self.log_probs, -jnp.inf))

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Latent:
        """Rows, drawn with their probabilities."""
        rows = jax.random.categorical(seed, self.log_probs, shape=sample_shape)
        return jax.tree.map(lambda leaf: leaf[rows], self.values)

    def entropy(self) -> Scalar:
        """-sum_m p_m log p_m, in nats."""
        return -_sum(self.log_probs, self.log_probs)


def is_reparameterized(q: Distribution) -> bool:
    """Whether draws of q carry gradients to its parameters, read from its type on the host.

    A distribution with float draws but without gradients sets `reparameterized = False`.
    """
    inner = innermost(native(q))
    if isinstance(inner, Table | Bernoulli | OneHotCategorical):
        return False
    if not (getattr(q, "reparameterized", True) and carries_gradients(inner)):
        return False
    sample = jax.eval_shape(lambda key: q.sample(seed=key), jax.random.key(0))
    return all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(sample))


def is_discrete(q: Distribution) -> bool:
    """Whether q draws labels, bits, one-hot rows or table rows, by its type or by `q.discrete`."""
    inner = innermost(native(q))
    return isinstance(inner, Table | Bernoulli | Categorical) or getattr(q, "discrete", False)


def has_sample_and_log_prob(q: Distribution) -> TypeGuard[SampleAndLogProb]:
    """Whether `q.sample_and_log_prob` is cheaper or more accurate than `sample`, then `log_prob`.

    True for flows, whose `log_prob` inverts each draw, and for normals with a full or low-rank
    covariance, whose `log_prob` solves for the noise. False for distrax, where the method saves
    nothing and differs from `log_prob` in the last digits.
    """
    return hasattr(q, "sample_and_log_prob") and package(q) is None


def support(q: Distribution) -> Latent | None:
    """All values of z, stacked along a leading axis [M, ...], or None if q is not finite.

    Raises ValueError for more than MAX_SUPPORT values.
    """
    q = native(q)
    if isinstance(q, Table):
        return q.values
    if isinstance(q, Bernoulli):
        return jnp.asarray(digits(2, q.logits.shape[0]), q.logits.dtype)
    if isinstance(q, Categorical):
        return jnp.arange(q.num_categories)
    inner = q.distribution if isinstance(q, Independent) else None
    if isinstance(inner, OneHotCategorical):
        size = inner.num_categories
        return jax.nn.one_hot(digits(size, inner.batch_shape[0]), size, dtype=inner.logits.dtype)
    if isinstance(inner, Categorical):
        return jnp.asarray(digits(inner.num_categories, inner.batch_shape[0]))
    return None


def data_support(p: Distribution) -> Supports:
    """The possible values of each entry of x ~ p, by p's type or `p.support`; else real numbers."""
    inner = innermost(native(p))
    if isinstance(inner, OneHotCategorical):
        return BITS
    if isinstance(inner, Categorical):
        return whole_numbers(inner.num_categories)
    own = getattr(inner, "support", None)
    return own if isinstance(own, Support | tuple) else bits_or_real(inner)


def flatten(space: Distribution) -> Distribution:
    """The uniform distribution on the support of a finite or uniform distribution.

    Raises TypeError for a support without a finite size.
    """
    space = native(space)
    if isinstance(space, Table):
        num_values = space.log_probs.shape[0]
        return Table(jnp.full_like(space.log_probs, -math.log(num_values)), space.values)
    if isinstance(space, Bernoulli):
        return Bernoulli(jnp.zeros_like(space.logits))
    if isinstance(space, Categorical):
        return Categorical(logits=jnp.zeros_like(space.logits))
    inner = space.distribution if isinstance(space, Independent) else space
    if isinstance(inner, OneHotCategorical):
        return one_hot(jnp.zeros_like(inner.logits))
    if isinstance(inner, Categorical):
        return categorical(jnp.zeros_like(inner.logits))
    if isinstance(inner, Uniform):
        return space
    raise TypeError(
        f"space: expected a finite distribution or a uniform on a box, got {type(inner).__name__}, "
        "whose support has no finite size"
    )


def _log_probs(q: Distribution, values: Latent) -> Float[Array, " M"]:
    """log q of each value of the support, [M]."""
    return q.log_probs if isinstance(q, Table) else _log_probs_at(q, values)


def _sum(log_q: Float[Array, " M"], values: Float[Array, " M"]) -> Scalar:
    """sum q values, where values of probability 0 contribute 0."""
    mass = jnp.exp(log_q)
    return jnp.where(mass > 0, mass * values, 0.0).sum()


def _log_probs_at(q: Distribution, values: Latent) -> Float[Array, " M"]:
    """log q of M values, [M]; ValueError for a q with batched parameters."""
    log_q = jax.vmap(q.log_prob)(values)
    if log_q.ndim != 1:
        raise ValueError(
            f"q: expected one log-density for one z, got shape {log_q.shape[1:]}; map over data "
            "points with jax.vmap"
        )
    return log_q


def digits(base: int, length: int) -> np.ndarray:
    """The base^length numbers of `length` digits, [base^length, length], the last digit fastest."""
    if length * math.log2(base) > math.log2(MAX_SUPPORT):
        raise ValueError(
            f"z: expected at most {MAX_SUPPORT:,} values to enumerate, got {base}^{length}; use "
            "fewer latent variables, or an estimator or evidence method with samples"
        )
    rows = np.arange(base**length)
    return np.stack([rows // base**power % base for power in reversed(range(length))], axis=1)


@precision.full
def gaussian_parts(q: Distribution) -> tuple[Array, Array] | None:
    """Mean [D] and lower Cholesky factor [D, D] of any Gaussian; None for other distributions."""
    if isinstance(q, FullRankNormal):
        return q.mean, q.cholesky
    if isinstance(q, LowRankNormal):
        return q.mean, upper_factor(jnp.concatenate([q.factor.T, jnp.diag(q.scale)]))[1].T
    normals = independent_normals(q)
    if normals is None:
        return None
    return normals.loc, jnp.diag(normals.scale)


def independent_normals(q: Distribution) -> Normal | None:
    """The D independent normals whose product is q, from any supported package, or None."""
    q = native(q)
    inner = q.distribution if isinstance(q, Independent) else None
    return inner if isinstance(inner, Normal) and len(inner.batch_shape) == 1 else None


def entropy(q: Any) -> Scalar | None:
    """The closed-form entropy H(q) in nats, or None."""
    try:
        return q.entropy()
    except (AttributeError, NotImplementedError):
        return None


def kl_divergence(q: Distribution, p: Distribution) -> Scalar | None:
    """The closed-form KL(q || p) in nats (two Gaussians, or a finite q), or None."""
    left, right = gaussian_parts(q), gaussian_parts(p)
    if left is not None and right is not None:
        return _gaussian_kl(left, right)
    values = support(q)
    if values is not None:
        log_q, log_p = _log_probs(q, values), _log_probs_at(p, values)
        return _sum(log_q, log_q - log_p)
    return None


@precision.full
def _gaussian_kl(q: tuple[Array, Array], p: tuple[Array, Array]) -> Scalar:
    (mean_q, cholesky_q), (mean_p, cholesky_p) = q, p
    ratio = solve_triangular(cholesky_p, cholesky_q, lower=True)
    shift = solve_triangular(cholesky_p, mean_q - mean_p, lower=True)
    log_det = jnp.log(jnp.diagonal(cholesky_p)).sum() - jnp.log(jnp.diagonal(cholesky_q)).sum()
    return 0.5 * ((ratio**2).sum() + shift @ shift - mean_q.shape[0]) + log_det


def expectation(q: Distribution, function: Callable[[Latent], Scalar]) -> Scalar | None:
    """E_q[f(z)] by enumeration of a finite q; None for any other q."""
    values = support(q)
    if values is None:
        return None
    return _sum(_log_probs(q, values), jax.vmap(function)(values))


def cubature(q: Distribution, function: Callable[[Latent], Scalar]) -> Scalar:
    """E_q[f(z)] of a Gaussian q from the 2 D points m +- sqrt(D) L e_i.

    Exact for polynomials f of degree at most 3, such as the log-joint of a linear-Gaussian model;
    an approximation otherwise. Raises TypeError for other q.

    Source: McNamee and Stenger (1967).
    """
    parts = gaussian_parts(q)
    if parts is None:
        raise TypeError(f"q: expected a Gaussian, got {type(q).__name__}")
    mean, cholesky = parts
    offsets = math.sqrt(mean.shape[0]) * cholesky.T
    points = mean[None] + jnp.concatenate([offsets, -offsets])
    return jax.vmap(function)(points).mean()
