"""k-means by Lloyd's algorithm from k-means++ seeds, for R restarts at once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.em.pairs import compensated_add
from lvm_jax.em.statistics import Data, chunk, mass, over_chunks
from lvm_jax.typing import Array, Float, Int, Key

BLOCK = 256  # rows per block of `draw`


class KMeans(NamedTuple):
    """Centres (relative to the shift), inertia (sum of squared distances), number of steps."""

    centres: Float[Array, "R K D"]
    inertia: Float[Array, " R"]
    num_steps: Int[Array, ""]


def draw(key: Key[Array, ""], mass: Float[Array, " N"], num: int) -> Int[Array, " num"]:
    """Draw `num` indices with probability proportional to `mass`: a block, then a row in it.

    The block length is fixed, so that padding with rows of mass 0 does not change the draws.
    """
    blocks = jnp.pad(mass, (0, -mass.shape[0] % BLOCK)).reshape(-1, BLOCK)
    key_block, key_row = jax.random.split(key)

    def pick(key: Array, mass: Array) -> Array:
        cumulative = jnp.cumsum(mass, axis=-1)
        level = jax.random.uniform(key, (num, 1), mass.dtype) * cumulative[..., -1:]
        return jnp.sum(cumulative <= level, axis=-1).clip(max=mass.shape[-1] - 1)

    block = pick(key_block, jnp.broadcast_to(blocks.sum(1), (num, blocks.shape[0])))
    row = pick(key_row, blocks[block])
    return jnp.minimum(block * BLOCK + row, mass.shape[0] - 1).astype(jnp.int32)


def num_trials(num_centres: Any) -> Any:
    """Candidates for each seed, 2 + floor(log K)."""
    return 2 + jnp.floor(jnp.log(num_centres)).astype(jnp.int32)


def seed(
    key: Key[Array, ""], data: Data, num_centres: int, num_live: Int[Array, ""]
) -> Float[Array, "K D"]:
    """Greedy k-means++ seeds (Arthur and Vassilvitskii 2007).

    Each step draws 2 + floor(log K) candidates with probability proportional to the squared
    distance and keeps the one with the lowest inertia. Only the first `num_live` seeds are chosen;
    the others are padding and equal the data's first row.
    """
    weight = mass(data)
    trials = 2 + int(np.log(num_centres))

    def distance(rows: Int[Array, " T"]) -> Float[Array, "T N"]:
        return jax.vmap(lambda row: (observed(data, filled(data, row)) ** 2).sum(1))(rows)

    def body(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        nearest, chosen = carry
        rows = draw(jax.random.fold_in(key, k), nearest * weight, trials)
        lowered = jnp.minimum(nearest[None], distance(rows))
        left = jnp.where(jnp.arange(trials) < num_trials(num_live), lowered @ weight, jnp.inf)
        best = jnp.argmin(left)
        return lowered[best], chosen.at[k].set(rows[best])

    first = draw(jax.random.fold_in(key, 0), weight, 1)
    chosen = jnp.zeros(num_centres, first.dtype).at[0].set(first[0])
    _, chosen = jax.lax.fori_loop(1, num_live, body, (distance(first)[0], chosen))
    return filled(data, chosen) - data.shift[None]


def filled(data: Data, rows: Int[Array, "..."]) -> Float[Array, "... D"]:
    """Rows of the data, with the column means for missing entries."""
    x = data.x[rows]
    if data.fill is None:
        return x
    return jnp.where(jnp.isnan(x), jnp.broadcast_to(data.fill, x.shape), x)


def observed(data: Data, point: Float[Array, " D"]) -> Float[Array, "N D"]:
    """Differences of the rows from a point; 0 for missing entries."""
    difference = data.x - point[None]
    return difference if data.fill is None else jnp.where(jnp.isnan(data.x), 0, difference)


def nearest(
    centres: Float[Array, "K D"],
    x: Float[Array, "n D"],
    num_live: Int[Array, ""],
    incomplete: bool = False,
) -> tuple[Array, Array]:
    """The nearest of the first `num_live` centres, one-hot [n, K], and the squared distance [n].

    The distance of an `incomplete` row is that of its observed entries. Ties go to the first
    centre. argmax is used instead of a comparison with the largest score, because XLA may compute a
    score twice with different rounding, and then no score is equal.
    """
    lengths = (centres * centres).sum(1)[None]
    if incomplete:
        lengths = (~jnp.isnan(x)).astype(x.dtype) @ (centres * centres).T
        x = jnp.where(jnp.isnan(x), 0, x)
    scores = x @ centres.T - 0.5 * lengths
    live = jnp.arange(centres.shape[0]) < num_live
    scores = jnp.where(live[None], scores, -jnp.inf)
    hot = jax.nn.one_hot(scores.argmax(1), centres.shape[0], dtype=x.dtype)
    return hot, jnp.maximum((x * x).sum(1) - 2 * scores.max(1), 0)


def totals(
    hot: Float[Array, "n K"], x: Float[Array, "n D"], incomplete: bool
) -> tuple[Float[Array, "K E"], Float[Array, "K D"]]:
    """Counts of rows, E = 1, or of observed entries, E = D; and the sums of the rows.

    With missing entries the distances and the means are those of the observed ones, so that both
    steps of Lloyd's algorithm lower the same sum (Chi, Chi and Baraniuk 2016).
    """
    if not incomplete:
        return hot.sum(0)[:, None], hot.T @ x
    live = ~jnp.isnan(x)
    return hot.T @ live.astype(x.dtype), hot.T @ jnp.where(live, x, 0)


def lloyd(
    centres: Float[Array, "R K D"],
    data: Data,
    rows: int,
    max_steps: Int[Array, ""],
    tolerance: Float[Array, ""],
    num_live: Int[Array, ""],
) -> KMeans:
    """Alternate assignments and means until the centres of all restarts have converged.

    Stops when each restart's squared movement, summed over its centres, is at most `tolerance`
    (in squared units of the data), or after `max_steps`. A centre without points does not move.
    """
    incomplete = data.fill is not None

    def sweep(centres: Array) -> tuple[Array, Array, Array]:
        def body(index: Array, carry: tuple) -> tuple:
            x, weight, _ = chunk(data, index, rows)

            def one(c: Array) -> tuple[Array, Array, Array]:
                hot, squared = nearest(c, x, num_live, incomplete)
                return *totals(hot * weight[:, None], x, incomplete), weight @ squared

            return compensated_add(carry, jax.vmap(one)(centres))

        sizes = (centres if incomplete else centres[..., :1], centres, centres[:, 0, 0])
        zero = jax.tree.map(jnp.zeros_like, sizes)
        return over_chunks(data, rows, body, (zero, zero))[0]

    def body(state: tuple) -> tuple:
        centres, _, _, step = state
        counts, sums, inertia = sweep(centres)
        moved = jnp.where(counts > 0, sums / jnp.maximum(counts, 1e-30), centres)
        return moved, inertia, ((moved - centres) ** 2).sum((1, 2)).max(), step + 1

    start = (centres, jnp.zeros_like(centres[:, 0, 0]), jnp.asarray(jnp.inf, centres.dtype), 0)
    centres, inertia, _, num_steps = jax.lax.while_loop(
        lambda state: (state[2] > tolerance) & (state[3] < max_steps), body, start
    )
    return KMeans(centres, inertia, jnp.asarray(num_steps))
