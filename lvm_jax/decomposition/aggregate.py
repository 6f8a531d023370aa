"""The aggregate posterior q(z) = (1/N) sum_n q(z | x_n), and the two parts of the KL to the prior.

    (1/N) sum_n KL(q(z | x_n) || p(z)) = I_q(n; z) + KL(q(z) || p(z))

The first part is the mutual information of z and the index n of a uniformly drawn data point. The
second is the mismatch of q(z) and the prior, which a better prior reduces.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp

from lvm_jax import distributions, weights
from lvm_jax._core import checks
from lvm_jax._core.batching import batch_size, map_first_points, num_rows, padded, rows_of
from lvm_jax._core.inputs import check_problem, check_rows
from lvm_jax._core.keys import split
from lvm_jax._core.moments import moments
from lvm_jax.compiling import bounded_jit
from lvm_jax.estimate import Estimate
from lvm_jax.evidence.importance import CHUNK_SIZE
from lvm_jax.typing import (
    Array,
    ConditionalDensity,
    Distribution,
    Float,
    Generative,
    Int,
    Key,
    Latent,
)

BLOCK = 100_000  # densities log q(z_r | x_n) in memory at once
PRIOR_DRAWS = 10_000  # for the moments of a prior that is not Gaussian


class Surgery(NamedTuple):
    """The mean KL to the prior of N points and its two parts, in nats; moments of q(z), p(z)."""

    kl: Estimate  # (1/N) sum_n KL(q(z | x_n) || p(z))
    mutual_information: Estimate  # I_q(n; z), between 0 and log N
    marginal_kl: Estimate  # KL(q(z) || p(z))
    log_num_points: float  # log N, the upper limit of the mutual information
    per_dimension: Estimate | None  # mean KL of each coordinate's marginal, [D]; see `surgery`
    mean: Estimate  # of q(z), a pytree as z
    variance: Estimate
    prior_mean: Estimate
    prior_variance: Estimate


def log_aggregate(q: ConditionalDensity, x: Any, z: Latent) -> Float[Array, " R"]:
    """log q(z_r) = log (1/N) sum_n q(z_r | x_n) of draws z, leaves [R, ...], in nats.

    The sum over the N points of x is exact and streamed: about 100,000 of the N R densities, or R,
    are in memory at once. q(z | x_n) is computed once for every n. Unjitted.
    """
    x = jax.tree.map(jnp.asarray, check_rows(x))
    return _log_aggregate(q, x, z, num_rows(x))


def _log_aggregate(
    q: ConditionalDensity, x: Any, z: Latent, num_points: int | Int[Array, ""]
) -> Float[Array, " R"]:
    """`log_aggregate` of the first `num_points` points of x."""
    rows = jax.tree.leaves(z)[0].shape[0]
    together = min(max(BLOCK // rows, 1), num_rows(x))

    @jax.jit  # traced once, for the dtype and for the loop
    def one(point: Any) -> Float[Array, " R"]:
        return jax.vmap(q(point).log_prob)(z)

    def step(index: Array, total: Float[Array, " R"]) -> Float[Array, " R"]:
        places = index * together + jnp.arange(together)
        log_q = jax.vmap(one)(rows_of(x, jnp.minimum(places, num_points - 1)))
        log_q = jnp.where((places < num_points)[:, None], log_q, -jnp.inf)
        return jnp.logaddexp(total, logsumexp(log_q, axis=0))

    start = jnp.full(rows, -jnp.inf, jax.eval_shape(one, rows_of(x, 0)).dtype)
    total = jax.lax.fori_loop(0, (num_points + together - 1) // together, step, start)
    return total - jnp.log(num_points).astype(total.dtype)


def surgery(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    x: Any,
    num_samples: int = 10,
    *,
    num_points: int | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Surgery:
    """Mean KL = mutual information + marginal KL for the N points of x [N, ...].

        I_q(n; z)       = (1/N) sum_n E_q(z|x_n)[log q(z | x_n) - log q(z)]
        KL(q(z) || p(z)) = (1/N) sum_n E_q(z|x_n)[log q(z) - log p(z)]

    Expectations use S = `num_samples` draws for every point, or for `num_points` of them chosen at
    random. q(z) is the mixture of all N in both cases, so the only errors come from the draws and
    the choice. All three share the draws: their estimates add up. The cost is N P S densities for P
    points, and one call of the guide for each of the N. A flow evaluates its density by its
    inverse.

    I_q is at most log N = `log_num_points`. If it is near this limit, the q(z | x_n) do not
    overlap, and I_q depends on N.

    `per_dimension` is the mean over n of KL(q(z_d | x_n) || p(z_d)), [D]: in closed form for
    Gaussians of any covariance, from the draws if q and the prior have independent coordinates
    (bits, labels), None for a flow or a hierarchy, whose marginal densities are not known. The sum
    over d is the mean KL if both factorise. `mean` and `variance` are those of q(z) by coordinate.

    Raises ValueError or TypeError for num_samples < 2, num_points outside 1, ..., N, and an x or a
    guide that does not fit the model.

    Source: Hoffman and Johnson (2016).
    """
    checks.host("decomposition.surgery", "decomposition.log_aggregate", key, p, q, x)
    checks.key(key)
    num_samples = checks.integer(num_samples, "num_samples", 2)
    x = check_problem(p, q, x)
    total = num_rows(x)
    chosen = checks.integer(total if num_points is None else num_points, "num_points", 1)
    if chosen > total:
        raise ValueError(f"num_points: expected at most the {total} points of x, got {chosen}")
    if 1 == chosen < total:
        raise ValueError("num_points: expected at least 2 of many points, for an error, got 1")
    key_choose, *keys = split(key, 3)
    places = np.arange(total)
    if chosen < total:
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key_choose)))
        places = rng.choice(total, chosen, replace=False)
    every, _, number = padded(x)
    places, size, few = padded(places)
    found = _surgery(
        *(tuple(keys), p, q, every, number, places, few, num_samples),
        batch_size(chunk_size, num_samples, size),
    )
    return found._replace(log_num_points=math.log(total))


class _Drawn(NamedTuple):
    """The draws of the chosen points."""

    z: Latent  # leaves [P, S, ...]
    log_q: Float[Array, "P S"]
    log_prior: Float[Array, "P S"]
    per_dimension: Array | None  # [P, S or 1, D]


@bounded_jit(7, 8)
def _surgery(
    keys: tuple[Key[Array, ""], Key[Array, ""]],
    p: Generative,
    q: ConditionalDensity,
    x: Any,
    total: int | Int[Array, ""],
    places: Int[Array, " P"],
    chosen: int | Int[Array, ""],
    num_samples: int,
    together: int,
) -> Surgery:
    """`surgery` with padded x and padded indices of the chosen points."""
    (key_draw, key_prior), prior = keys, p.prior(rows_of(x, 0))

    def one(place: Array) -> _Drawn:
        row = rows_of(x, place)
        return _draw(jax.random.fold_in(key_draw, place), q(row), p.prior(row), num_samples)

    drawn = map_first_points(one, places, together, chosen)
    rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), drawn.z)
    log_aggregated = _log_aggregate(q, x, rows, total).reshape(drawn.log_q.shape)
    measure = partial(of_points, num_points=total, chosen=chosen)
    mean, variance = _moments(drawn.z, measure)
    prior_mean, prior_variance = _prior_moments(key_prior, prior)
    return Surgery(
        measure(drawn.log_q - drawn.log_prior),
        measure(drawn.log_q - log_aggregated),
        measure(log_aggregated - drawn.log_prior),
        jnp.log(total),  # type: ignore[arg-type] # `surgery` replaces it by a float
        None if drawn.per_dimension is None else measure(drawn.per_dimension),
        mean,
        variance,
        prior_mean,
        prior_variance,
    )


def _draw(key: Key[Array, ""], q: Distribution, prior: Distribution, num_samples: int) -> _Drawn:
    z, log_q = draws_and_log_q(key, q, num_samples)
    return _Drawn(z, log_q, jax.vmap(prior.log_prob)(z), _per_dimension(q, prior, z))


def draws_and_log_q(key: Key[Array, ""], q: Distribution, num_samples: int) -> tuple[Latent, Array]:
    """S draws of q, leaves [S, ...], and their log q, [S]."""
    z, log_q = weights.sample_and_log_prob(key, q, num_samples)
    return z, jax.vmap(q.log_prob)(z) if log_q is None else log_q


def _per_dimension(q: Distribution, prior: Distribution, z: Latent) -> Array | None:
    """log q(z_d) - log p(z_d), [S, D]; for Gaussians its expectation twice, [2, D]; or None."""
    left, right = distributions.gaussian_parts(q), distributions.gaussian_parts(prior)
    if left is not None and right is not None:
        (mean, var), (prior_mean, prior_var) = ((m, (c**2).sum(1)) for m, c in (left, right))
        kl = (var + (mean - prior_mean) ** 2) / prior_var - 1 - jnp.log(var / prior_var)
        return jnp.stack([0.5 * kl, 0.5 * kl])
    log_q, log_prior = distributions.factors(q), distributions.factors(prior)
    if log_q is None or log_prior is None:
        return None
    return jax.vmap(lambda one: log_q(one) - log_prior(one))(z)


def of_points(
    values: Float[Array, "P S ..."],
    num_points: int | Int[Array, ""],
    chosen: int | Int[Array, ""] | None = None,
) -> Estimate:
    """The mean over N = `num_points` points from S >= 2 draws for each of P <= N of them.

    P is `chosen` if `values` is padded.

        error^2 = (1 - P/N) Var_p(mean_p) / P + (P/N) mean_p(Var_s) / (P S)

    the two-stage formula for P points drawn without replacement; for P = N the first term is 0.

    Source: Cochran (1977), chapter 10.
    """
    most, draws = values.shape[:2]
    chosen = most if chosen is None else chosen
    keep = jnp.arange(most) < chosen
    rows = moments(jnp.moveaxis(values, 1, 0))  # over the draws, [P, ...] each
    points, share = moments(rows.mean, keep), chosen / num_points
    within = share * moments(rows.variance, keep).mean / (chosen * draws)
    between = jnp.where(share < 1, (1 - share) * points.variance / chosen, 0.0)
    return Estimate(points.mean, jnp.sqrt(within + between))


def _moments(z: Latent, measure: Callable[[Array], Estimate]) -> tuple[Estimate, Estimate]:
    """Mean and variance by coordinate, each an Estimate of pytrees as z."""
    draws = jax.tree.map(lambda leaf: leaf.astype(jnp.result_type(float)), z)
    mean = _unzip(jax.tree.map(measure, draws))
    squares = jax.tree.map(
        lambda leaf, at: (leaf - at.reshape((1,) * (leaf.ndim - at.ndim) + at.shape)) ** 2,
        draws,
        mean.value,
    )
    return mean, _unzip(jax.tree.map(measure, squares))


def _unzip(tree: Latent) -> Estimate:
    """A pytree of Estimates as an Estimate of pytrees."""
    is_leaf = lambda node: isinstance(node, Estimate)  # noqa: E731
    return Estimate(
        jax.tree.map(lambda node: node.value, tree, is_leaf=is_leaf),
        jax.tree.map(lambda node: node.standard_error, tree, is_leaf=is_leaf),
    )


def _prior_moments(key: Key[Array, ""], prior: Distribution) -> tuple[Estimate, Estimate]:
    """Exact for a Gaussian prior, otherwise from 10,000 draws."""
    parts = distributions.gaussian_parts(prior)
    if parts is None:
        return _moments(weights.draw(key, prior, PRIOR_DRAWS), Estimate.of_draws)
    return Estimate.exact(parts[0]), Estimate.exact((parts[1] ** 2).sum(1))
