"""Initialisation of EM: k-means, k-means++, random data points, random responsibilities."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lvm_jax.em import kmeans
from lvm_jax.em.compiling import over_data
from lvm_jax.em.families import ExponentialFamily, Settings
from lvm_jax.em.statistics import Data, MixtureParameters, mass
from lvm_jax.typing import Array, Float, Int, Key

STARTS = ("kmeans", "k-means++", "random", "random_from_data")
KMEANS_STEPS = 300
KMEANS_TOLERANCE = 1e-4
SHARE = 0.5  # of the assigned component in `softened`


def maximize(
    family: ExponentialFamily, summary: Any, previous: Any, settings: Settings
) -> MixtureParameters:
    """The M-step of one mixture; with a prior of the weights they are MAP."""
    counts = family.counts(summary)
    if settings.concentration is not None:
        counts = counts + settings.concentration - 1
    components = family.maximize(summary, previous, settings)
    return MixtureParameters(family.log_weights(counts, components, settings), components)


@over_data(3, 4, 5, 6)
def centres(
    key: Key[Array, ""],
    data: Data,
    num_live: Int[Array, ""],
    name: str,
    num_components: int,
    num_restarts: int,
    rows: int,
) -> Float[Array, "R K D"]:
    """Centres of the R starts; no family is an argument, so that all families share one program.

    kmeans runs Lloyd's algorithm from k-means++ seeds. k-means++ and random_from_data return
    their seeds, which are distinct data points.
    """
    choose = _different_rows if name == "random_from_data" else kmeans.seed
    keys = jax.random.split(key, num_restarts)
    seeds = jax.lax.map(lambda k: choose(k, data, num_components, num_live), keys)
    if name != "kmeans":
        return seeds
    tolerance = KMEANS_TOLERANCE * (spread(data) ** 2).mean()
    return kmeans.lloyd(seeds, data, rows, jnp.int32(KMEANS_STEPS), tolerance, num_live).centres


def spread(data: Data) -> Float[Array, " D"]:
    """The weighted standard deviations of the columns, without missing entries."""
    if data.fill is not None:
        return _observed_spread(data)
    weight = mass(data)
    size = weight.sum()
    mean = weight @ data.x / size
    return jnp.sqrt(weight @ (data.x - mean[None]) ** 2 / size)


def _observed_spread(data: Data) -> Float[Array, " D"]:
    live = (mass(data) > 0)[:, None] & ~jnp.isnan(data.x)
    size = live.sum(0, dtype=data.x.dtype)
    mean = jnp.where(live, data.x, 0).sum(0) / size
    return jnp.sqrt((jnp.where(live, data.x - mean[None], 0) ** 2).sum(0) / size)


def assignment(
    key: Key[Array, ""],
    centres: Float[Array, "R K D"],
    uniform: bool,
    num_live: Int[Array, ""],
    incomplete: bool = False,
) -> Callable[[Array, Array], tuple[Array, Array]]:
    """The responsibilities of the initial M-step, as the `assign` function of `assigned_pass`.

    Each point is assigned to its nearest centre; with `uniform` its responsibilities are uniform
    random numbers, normalised. Padded components (from `num_live` on) get 0.
    """
    num_restarts, num_components, _ = centres.shape
    keys = jax.random.split(key, num_restarts)
    live = jnp.arange(num_components) < num_live

    def random(x: Array, begin: Array) -> tuple[Array, Array]:
        def column(key: Array, k: Array) -> Array:  # one key per component: padding changes nothing
            key = jax.random.fold_in(jax.random.fold_in(key, begin), k)
            return jax.random.uniform(key, x.shape[:1], x.dtype, 1e-3)

        def one(key: Array) -> Array:
            columns = jax.vmap(lambda k: column(key, k))(jnp.arange(num_components))
            resp = jnp.where(live[:, None], columns, 0).T
            return resp / resp.sum(1, keepdims=True)

        resp = jax.vmap(one)(keys)
        return resp, jnp.zeros_like(resp[..., 0])

    def hard(x: Array, begin: Array) -> tuple[Array, Array]:
        return jax.vmap(lambda c: kmeans.nearest(c, x, num_live, incomplete))(centres)

    return random if uniform else hard


def softened(
    given: Callable[[Array, Array], tuple[Array, Array]], num_live: Int[Array, ""]
) -> Callable[[Array, Array], tuple[Array, Array]]:
    """`given` responsibilities mixed with equal ones, so that no probability begins at 0."""

    def soft(x: Array, begin: Array) -> tuple[Array, Array]:
        resp, values = given(x, begin)
        live = jnp.arange(resp.shape[-1]) < num_live
        equal = live.astype(resp.dtype) / num_live.astype(resp.dtype)
        return SHARE * resp + (1 - SHARE) * equal[None, None], values

    return soft


def _different_rows(
    key: Key[Array, ""], data: Data, num: int, num_live: Int[Array, ""]
) -> Float[Array, "K D"]:
    """Draw distinct rows without replacement, with probability proportional to their weights.

    Only the first `num_live` are drawn; the others are padding and equal the data's first row.
    """

    def body(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        left, chosen = carry
        row = kmeans.draw(jax.random.fold_in(key, k), left, 1)[0]
        left = jnp.where((x == x[row][None]).all(1), 0, left)
        return left, chosen.at[k].set(row)

    x, chosen = data.x, jnp.zeros(num, jnp.int32)
    if data.fill is not None:
        x = jnp.where(jnp.isnan(x), data.fill[None], x)
    return x[jax.lax.fori_loop(0, num_live, body, (mass(data), chosen))[1]] - data.shift[None]
