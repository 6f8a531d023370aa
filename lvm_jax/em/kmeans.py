"""k-means by Lloyd's algorithm from k-means++ seeds, R restarts at a time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.em.statistics import Data, chunk, compensated_add, num_chunks
from lvm_jax.typing import Array, Float, Int, Key


class KMeans(NamedTuple):
    """Centres [R, K, D] (relative to the shift), inertia [R] (sum of squared distances)."""

    centres: Float[Array, "R K D"]
    inertia: Float[Array, " R"]
    num_steps: Int[Array, ""]


def draw(key: Key[Array, ""], mass: Float[Array, " N"], num: int) -> Int[Array, " num"]:
    """`num` indices with probability proportional to `mass`: a block first, then a row in it."""
    width = int(np.ceil(np.sqrt(mass.shape[0])))
    blocks = jnp.pad(mass, (0, width * width - mass.shape[0])).reshape(width, width)
    key_block, key_row = jax.random.split(key)

    def pick(key: Array, mass: Array) -> Array:
        cumulative = jnp.cumsum(mass, axis=-1)
        level = jax.random.uniform(key, (num, 1), mass.dtype) * cumulative[..., -1:]
        return jnp.sum(cumulative <= level, axis=-1).clip(max=width - 1)

    block = pick(key_block, jnp.broadcast_to(blocks.sum(1), (num, width)))
    row = pick(key_row, blocks[block])
    return jnp.minimum(block * width + row, mass.shape[0] - 1)


def seed(key: Key[Array, ""], data: Data, num_centres: int) -> Float[Array, "K D"]:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007): of 2 + log K candidates drawn with
    probability proportional to the squared distance, keep the one that lowers it most.
    """
    num_points = data.x.shape[0]
    trials = 2 + int(np.log(num_centres))
    weight = jnp.ones(num_points, data.x.dtype) if data.weight is None else data.weight

    def distance(rows: Int[Array, " T"]) -> Float[Array, "T N"]:
        return jax.vmap(lambda row: ((data.x - data.x[row][None]) ** 2).sum(1))(rows)

    def body(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        nearest, chosen = carry
        rows = draw(jax.random.fold_in(key, k), nearest * weight, trials)
        lowered = jnp.minimum(nearest[None], distance(rows))
        best = jnp.argmin(lowered @ weight)
        return lowered[best], chosen.at[k].set(rows[best])

    first = draw(jax.random.fold_in(key, 0), weight, 1)
    chosen = jnp.zeros(num_centres, first.dtype).at[0].set(first[0])
    _, chosen = jax.lax.fori_loop(1, num_centres, body, (distance(first)[0], chosen))
    return data.x[chosen] - data.shift[None]


def nearest(centres: Float[Array, "K D"], x: Float[Array, "n D"]) -> tuple[Array, Array]:
    """One-hot nearest centre [n, K] (ties share) and squared distance [n]."""
    scores = x @ centres.T - 0.5 * (centres * centres).sum(1)[None]
    top = scores.max(1)
    hot = (scores == top[:, None]).astype(x.dtype)
    return hot / hot.sum(1, keepdims=True), jnp.maximum((x * x).sum(1) - 2 * top, 0)


def lloyd(
    centres: Float[Array, "R K D"],
    data: Data,
    rows: int,
    max_steps: Int[Array, ""],
    tolerance: Float[Array, ""],
) -> KMeans:
    """Alternate assignment and means until no restart's centres move.

    Stops when the squared movement of the centres of every restart, summed, is at most
    `tolerance` times the mean variance of the columns, or after `max_steps`. A centre that
    loses all its points stays where it is.
    """

    def sweep(centres: Array) -> tuple[Array, Array, Array]:
        def body(index: Array, carry: tuple) -> tuple:
            x, weight, _ = chunk(data, index, rows)

            def one(c: Array) -> tuple[Array, Array, Array]:
                hot, squared = nearest(c, x)
                hot = hot * weight[:, None]
                return hot.sum(0), hot.T @ x, weight @ squared

            return compensated_add(carry, jax.vmap(one)(centres))

        zero = (
            jnp.zeros_like(centres[..., 0]),
            jnp.zeros_like(centres),
            jnp.zeros_like(centres[:, 0, 0]),
        )
        return jax.lax.fori_loop(0, num_chunks(data, rows), body, (zero, zero))[0]

    def body(state: tuple) -> tuple:
        centres, _, _, step = state
        counts, sums, inertia = sweep(centres)
        moved = jnp.where(
            counts[..., None] > 0, sums / jnp.maximum(counts, 1e-30)[..., None], centres
        )
        return moved, inertia, ((moved - centres) ** 2).sum((1, 2)).max(), step + 1

    def unfinished(state: tuple) -> Array:
        return (state[2] > tolerance) & (state[3] < max_steps)

    start = (centres, jnp.zeros_like(centres[:, 0, 0]), jnp.asarray(jnp.inf, centres.dtype), 0)
    centres, inertia, _, step = jax.lax.while_loop(unfinished, body, start)
    return KMeans(centres, inertia, jnp.asarray(step))
