"""Sufficient statistics: one pass over the data in chunks, for R mixtures at once.

    E-step:  log p(x, z=k) = log pi_k + <t(x), eta_k> + offset_k    one product  T(X) @ eta.T
    M-step:  sums_k = sum_n w_n r_nk t(x_n)                         one product  R.T @ T(X)

Both products of a chunk read the same features from cache. Memory does not grow with N.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax.em.families import ExponentialFamily, Sums
from lvm_jax.em.pairs import compensated_add
from lvm_jax.typing import Array, Float, Int, Params, Scalar

# Features and responsibilities of a chunk: the fastest of 3 to 48 MB on a CPU, where they should
# stay in cache, and of 12, 200 and 1,000 MB on an H200.
CHUNK_BYTES, ACCELERATOR_BYTES = 12_000_000, 1_000_000_000


class MixtureParameters(NamedTuple):
    """Parameters of a mixture; in the loop the leaves have a leading restart axis R."""

    log_weights: Float[Array, "*R K"]
    components: Params


class Data(NamedTuple):
    """Rows and their weights; a pass subtracts the shift per chunk, without a centred copy."""

    x: Float[Array, "N D"]
    weight: Float[Array, " N"] | None
    shift: Float[Array, " D"]
    size: Int[Array, ""] | None = None  # number of rows without padding; None: all rows
    fill: Float[Array, " D"] | None = None  # column means of rows with NaN; None: complete rows


class Evaluation(NamedTuple):
    """Weighted sums over the data, in nats."""

    log_likelihood: Scalar  # sum_n w_n log p(x_n)
    entropy: Scalar  # -sum_n w_n sum_k r_nk log r_nk
    classification: Scalar  # sum_n w_n log max_k r_nk


def chunk_rows(num_points: int, floats_per_row: int, itemsize: int, multiple: int = 64) -> int:
    """Rows per chunk, at least 128, from the working set that suits the device.

    Chunks of equal size cover the data. The size is reduced so that the last chunk is nearly full:
    otherwise data just larger than one chunk would cost nearly two.
    """
    on_cpu = jax.default_backend() == "cpu"
    most = (CHUNK_BYTES if on_cpu else ACCELERATOR_BYTES) // (floats_per_row * itemsize)
    most = max(128, most - most % 64)
    rows = -(-num_points // -(-num_points // most))
    return min(num_points, rows + -rows % multiple)


def mass(data: Data) -> Float[Array, " N"]:
    """The weight of each row: 1 without weights, 0 for padding."""
    live = jnp.ones(data.x.shape[0], data.x.dtype) if data.weight is None else data.weight
    return live if data.size is None else live * (jnp.arange(live.shape[0]) < data.size)


def chunk(data: Data, index: Int[Array, ""], rows: int) -> tuple[Array, Array, Array]:
    """Rows, weights and first row number of chunk `index`.

    The last chunk starts earlier, to stay inside the data. Rows of the previous chunk and padded
    rows get weight 0.
    """
    whole = data.x.shape[0] <= rows
    first = index * rows
    begin = index if whole else jnp.minimum(first, data.x.shape[0] - rows)

    def take(leaf: Array) -> Array:
        return leaf if whole else jax.lax.dynamic_slice_in_dim(leaf, begin, rows)

    x = take(data.x) - data.shift[None]
    number = begin + jnp.arange(rows)
    live = number >= first
    if data.size is not None:
        live = live & (number < data.size)
    live = live.astype(x.dtype)
    if data.weight is not None:
        live = live * take(data.weight)
    return x, live, begin


def unshifted(data: Data) -> Data:
    """The data with a zero shift."""
    return data._replace(shift=jnp.zeros_like(data.shift))


def over_chunks(data: Data, rows: int, body: Callable[[Array, Any], Any], start: Any) -> Any:
    """Apply body(index, carry) to each chunk that is not all padding; no loop for one chunk."""
    if data.x.shape[0] <= rows:
        return body(jnp.zeros((), jnp.int32), start)
    size = data.x.shape[0] if data.size is None else data.size
    return jax.lax.fori_loop(0, -(-size // rows), body, start)


def soften(
    logits: Float[Array, "n K"], weight: Float[Array, " n"]
) -> tuple[Float[Array, "n K"], Float[Array, " n"]]:
    """Weighted responsibilities w_n r_nk, and log sum_k exp(logits_nk)."""
    top = jax.lax.stop_gradient(logits.max(1))
    mass = jnp.exp(logits - top[:, None])
    total = mass.sum(1)
    return mass * (weight / total)[:, None], top + jnp.log(total)


def fast_pass(
    family: ExponentialFamily, parameters: MixtureParameters, data: Data, rows: int,
    combine: Callable[[Any], Any] = lambda sums: sums,
) -> tuple[Any, Float[Array, " R"]]:  # fmt: skip
    """Summaries and log-likelihoods of R mixtures; `combine` adds the sums of devices.

    Diagonal and spherical covariances (D < F <= 2 D) use a column of ones, with which the products
    add log pi_k + offset_k and compute the counts; a step takes 0.91 of the time. Full and tied
    covariances would be slower.
    """
    eta, offset = jax.vmap(family.natural)(parameters.components)
    bias = offset + parameters.log_weights
    few = data.x.shape[1] < eta.shape[-1] <= 2 * data.x.shape[1]
    if few:
        eta = jnp.concatenate([eta, bias[..., None]], -1)

    def body(index: Array, carry: Any) -> Any:
        x, weight, _ = chunk(data, index, rows)
        features = family.features(x)
        if few:
            features = jnp.concatenate([features, jnp.ones_like(x[:, :1])], 1)

        def one(eta: Array, bias: Array, components: Params) -> tuple[Any, Array, Array]:
            logits = features @ eta.T
            resp, log_p = soften(logits if few else logits + bias[None], weight)
            log_p = log_p + family.base(components, x)
            return () if few else resp.sum(0), resp.T @ features, weight @ log_p

        sums = jax.vmap(one)(eta, bias, parameters.components)
        return compensated_add(carry, (*sums, family.shared(x, weight)))

    shared = jax.eval_shape(family.shared, data.x[:1], data.x[:1, 0])
    shapes = (() if few else bias, eta, bias[:, 0], shared)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = over_chunks(data, rows, body, (zero, zero))
    counts, features, log_likelihood, shared = combine(total)
    if few:
        features, counts = features[..., :-1], features[..., -1]
    sums = jax.vmap(lambda n, s: family.summarize(Sums(n, s, shared)))(counts, features)
    return sums, log_likelihood


def assigned_pass(
    family: ExponentialFamily,
    data: Data,
    rows: int,
    assign: Callable[[Array, Array], tuple[Array, Array]],
) -> tuple[Any, Float[Array, " R"]]:
    """Summaries merged without cancellation, and the weighted sum of the values of `assign`.

    assign(x [n, D], first row) -> responsibilities [R, n, K] and values [R, n].
    """

    def block(x: Array, weight: Array, begin: Array) -> tuple[Any, Array]:
        resp, values = assign(x, begin)
        summarize = jax.vmap(lambda r: family.summarize_assigned(x, r * weight[:, None]))
        return summarize(resp), values @ weight

    return merged_pass(family, data, rows, block)


def merged_pass(
    family: ExponentialFamily, data: Data, rows: int, function: Callable[..., tuple[Any, Array]]
) -> tuple[Any, Float[Array, " R"]]:
    """Merge function(x, weight, first row) -> summaries and values of R mixtures over chunks."""

    def block(index: Array) -> tuple[Any, Array]:
        return function(*chunk(data, index, rows))

    def body(index: Array, carry: Any) -> Any:
        summary, value = block(index)
        merged = jax.vmap(family.merge)(carry[0], summary)
        return merged, compensated_add(carry[1], value)

    if data.x.shape[0] <= rows:  # nothing to merge
        return block(jnp.zeros((), jnp.int32))
    shapes = jax.eval_shape(block, jnp.zeros((), jnp.int32))
    summary, value = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    summary, (total, _) = over_chunks(data, rows, body, (summary, (value, value)))
    return summary, total


def exact_pass(
    family: ExponentialFamily,
    parameters: MixtureParameters,
    data: Data,
    rows: int,
    start: tuple[Array, Callable[[Array, Array], tuple[Array, Array]]] | None = None,
) -> tuple[Any, Float[Array, " R"]]:
    """`fast_pass` with each density centred at its component: slower, without cancellation.

    The rows are not shifted, because x - shift would round small x. `start` is a flag and an
    `assign` function of shifted rows, which replaces the posterior where the flag is True.
    """
    log_weights, components = parameters
    components = jax.vmap(lambda c: family.translate(c, data.shift))(components)

    def posterior(x: Array, begin: Array) -> tuple[Array, Array]:
        def one(log_weights: Array, components: Params) -> tuple[Array, Array]:
            logits = family.exact_log_prob(components, x) + log_weights[None]
            return soften(logits, jnp.ones_like(x[:, 0]))

        return jax.vmap(one)(log_weights, components)

    def assign(x: Array, begin: Array) -> tuple[Array, Array]:
        if start is None:
            return posterior(x, begin)
        flag, given = start
        return jax.lax.cond(
            flag, lambda x: given(x - data.shift[None], begin), lambda x: posterior(x, begin), x
        )

    summary, log_likelihood = assigned_pass(family, unshifted(data), rows, assign)
    return jax.vmap(lambda s: family.translate_summary(s, -data.shift))(summary), log_likelihood


def log_joint(
    family: ExponentialFamily,
    parameters: MixtureParameters,
    x: Float[Array, "n D"],
    shift: Float[Array, " D"],
) -> Array:
    """log p(x_n, z=k), [n, K], of unshifted rows, by the fast path where it is safe."""

    def fast() -> Array:
        eta, offset = family.natural(parameters.components)
        centred = x - shift[None]
        base = family.base(parameters.components, centred)
        return family.features(centred) @ eta.T + offset[None] + base[:, None]

    def exact() -> Array:
        return family.exact_log_prob(family.translate(parameters.components, shift), x)

    if not (family.has_exact_path and family.has_fast_path):
        return (fast if family.has_fast_path else exact)() + parameters.log_weights[None]
    safe = family.is_safe(parameters.components)
    return jax.lax.cond(safe, fast, exact) + parameters.log_weights[None]


def evaluate(
    family: ExponentialFamily,
    parameters: MixtureParameters,
    data: Data,
    rows: int,
    assign: bool = False,
) -> tuple[Evaluation, Int[Array, " N"] | None]:
    """`Evaluation` of ONE mixture, and with `assign` the most probable component of each row."""

    def body(index: Array, carry: Any) -> Any:
        sums, labels = carry
        x, weight, begin = chunk(unshifted(data), index, rows)
        logits = log_joint(family, parameters, x, data.shift)
        log_p = jax.nn.logsumexp(logits, axis=1)
        log_resp = logits - log_p[:, None]
        resp = jnp.exp(log_resp)
        entropy = -jnp.where(resp > 0, resp * log_resp, 0.0).sum(1)
        terms = Evaluation(weight @ log_p, weight @ entropy, weight @ log_resp.max(1))
        if assign:
            best = logits.argmax(1).astype(jnp.int32)
            labels = jax.lax.dynamic_update_slice_in_dim(labels, best, begin, 0)
        return compensated_add(sums, terms), labels

    zero = Evaluation(*(jnp.zeros((), data.x.dtype),) * 3)
    labels = jnp.zeros(data.x.shape[0], jnp.int32) if assign else None
    (total, _), labels = over_chunks(data, rows, body, ((zero, zero), labels))
    return total, labels


def map_rows(function: Callable[[Array, Array], Any], data: Data, rows: int) -> Any:
    """Apply function(x [n, D], first row) -> [n, ...] to all unshifted rows, chunk by chunk."""
    if data.x.shape[0] <= rows:
        return function(data.x, jnp.int32(0))
    size = data.x.shape[0]
    shapes = jax.eval_shape(function, data.x[:rows], jnp.int32(0))
    out = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape[1:]), leaf.dtype), shapes)

    def body(index: Array, out: Any) -> Any:
        x, _, begin = chunk(unshifted(data), index, rows)
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=begin, axis=0)
        return jax.tree.map(put, out, function(x, begin))

    return over_chunks(data, rows, body, out)
