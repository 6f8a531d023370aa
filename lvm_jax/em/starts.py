"""Where EM starts: k-means, k-means++, random data points, random responsibilities."""

from typing import Any

import jax
import jax.numpy as jnp

from lvm_jax.em import kmeans
from lvm_jax.em.compiling import over_data
from lvm_jax.em.families import Family, Settings
from lvm_jax.em.statistics import Data, Parameters, assigned_pass
from lvm_jax.typing import Array, Float, Key

STARTS = ("kmeans", "k-means++", "random", "random_from_data")
KMEANS_STEPS = 300
KMEANS_TOLERANCE = 1e-4


def maximize(family: Family, summary: Any, previous: Any, settings: Settings) -> Parameters:
    """The M-step of one mixture: the lecture's equations (1)-(3), or their MAP counterparts."""
    counts = family.counts(summary)
    if settings.concentration is not None:
        counts = counts + settings.concentration - 1
    components = family.maximize(summary, previous, settings)
    return Parameters(jnp.log(counts) - jnp.log(counts.sum()), components)


@over_data(2, 3, 4, 5)
def centres(
    key: Key[Array, ""],
    data: Data,
    name: str,
    num_components: int,
    num_restarts: int,
    rows: int,
) -> Float[Array, "R K D"]:
    """Where the R mixtures begin; no family is in it, so that all of them share one program.

    kmeans: the centres of Lloyd's algorithm from k-means++ seeds. k-means++ and
    random_from_data: the seeds, which are different data points. random: the data's mean.
    """
    if name == "random":
        return jnp.zeros((num_restarts, num_components, data.x.shape[1]), data.x.dtype)
    choose = _different_rows if name == "random_from_data" else kmeans.seed
    keys = jax.random.split(key, num_restarts)
    seeds = jax.lax.map(lambda k: choose(k, data, num_components), keys)
    if name != "kmeans":
        return seeds
    tolerance = KMEANS_TOLERANCE * (data.x.std(0) ** 2).mean()
    return kmeans.lloyd(seeds, data, rows, jnp.int32(KMEANS_STEPS), tolerance).centres


@over_data(3, 4, 5)
def start(
    key: Key[Array, ""],
    centres: Float[Array, "R K D"],
    data: Data,
    family: Family,
    name: str,
    rows: int,
    settings: Settings,
) -> Parameters:
    """Parameters of R mixtures, by one M-step from an assignment.

    Every point goes to the nearest centre, or with the name `random` to all of them, with uniform
    responsibilities, normalised.
    """
    num_restarts, num_components, _ = centres.shape
    keys = jax.random.split(key, num_restarts)

    def random(x: Array, begin: Array) -> tuple[Array, Array]:
        def one(key: Array) -> Array:
            shape = (x.shape[0], num_components)
            resp = jax.random.uniform(jax.random.fold_in(key, begin), shape, x.dtype, 1e-3)
            return resp / resp.sum(1, keepdims=True)

        resp = jax.vmap(one)(keys)
        return resp, jnp.zeros_like(resp[..., 0])

    def hard(x: Array, begin: Array) -> tuple[Array, Array]:
        return jax.vmap(lambda c: kmeans.nearest(c, x))(centres)

    summary, _ = assigned_pass(family, data, rows, random if name == "random" else hard)
    previous = jax.vmap(lambda c: family.start(c, data.x.std(0)))(centres)
    return jax.vmap(lambda s, p: maximize(family, s, p, settings))(summary, previous)


def _different_rows(key: Key[Array, ""], data: Data, num: int) -> Float[Array, "K D"]:
    """`num` rows without replacement, by weight if there is one; ties in value are avoided."""

    def body(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        mass, chosen = carry
        row = kmeans.draw(jax.random.fold_in(key, k), mass, 1)[0]
        mass = jnp.where((data.x == data.x[row][None]).all(1), 0, mass)
        return mass, chosen.at[k].set(row)

    mass = jnp.ones(data.x.shape[0], data.x.dtype) if data.weight is None else data.weight
    chosen = jnp.zeros(num, jnp.int32)
    return data.x[jax.lax.fori_loop(0, num, body, (mass, chosen))[1]] - data.shift[None]
