"""log p(x) of every point of a data set by importance sampling from a guide, and its summary."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import checks
from lvm_jax.batching import batch_size, for_each, plenty
from lvm_jax.evidence.importance import CHUNK_SIZE, importance
from lvm_jax.evidence.result import Evidence
from lvm_jax.guides.base import Guide
from lvm_jax.models.base import Model, log_joint
from lvm_jax.moments import moments
from lvm_jax.typing import Array, ArrayLike, Distribution, Int, Key, Latent, Params, Scalar

TRUSTED_K_HAT = 0.7


def evaluate(
    key: Key[Array, ""],
    model: Model,
    guide: Guide,
    theta: Params,
    phi: Params,
    x: ArrayLike,
    num_samples: int,
    *,
    phi_per_point: bool = False,
    index: ArrayLike | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Evidence:
    """`importance` for every point of x [N, ...] with q(z | x; phi): an Evidence of leaves [N].

    Compiled once per shape, `num_samples`, model and guide; the key, theta and phi may change.
    At most `chunk_size` rows (points times samples) are alive at a time, so that they stay in
    cache; on a GPU or a TPU 32 times as many, of more points, by the same draws: where its memory
    is short, a smaller `chunk_size` is the cure. Memory grows in neither N nor S, but for the
    result, and a chunk size below S makes other draws. Point i draws from fold_in(key, i), or
    fold_in(key, index[i]) with an `index` [N] of unsigned integers: its answer
    does not depend on the other points. With `phi_per_point` the leaves of phi are [N, ...], a phi
    for each point, as `guides.per_point` has them.

    Raises ValueError or TypeError for num_samples or chunk_size < 1, x with NaN or infinities or
    of a shape that the model does not draw, a q whose z is not of the model's shape, a phi that is
    not per point, and an index of another shape.
    """
    checks.key(key)
    num_samples = checks.integer(num_samples, "num_samples", 1)
    chunk_size = checks.integer(chunk_size, "chunk_size", 1)
    check_data(model, theta, x)
    own, common = (phi, None) if phi_per_point else (None, phi)
    check_guide(model, guide, theta, _first(own, x.shape[0]) if phi_per_point else phi, x)
    index = jnp.arange(x.shape[0]) if index is None else jnp.asarray(index)
    checks.shape(index, x.shape[:1], "index")
    points = (index, jnp.asarray(x), own)
    return _evaluate(key, theta, common, points, model, guide, num_samples, chunk_size)


@partial(jax.jit, static_argnums=(4, 5, 6, 7))
def _evaluate(
    key: Key[Array, ""],
    theta: Params,
    common: Params | None,
    points: tuple[Array, Array, Params | None],
    model: Model,
    guide: Guide,
    num_samples: int,
    chunk_size: int,
) -> Evidence:
    """`evaluate`, with a phi that is common to all points or, where it is None, one for each."""

    def one(point: tuple[Array, Array, Params | None]) -> Evidence:
        index, x, own = point
        joint, q = log_joint(model, theta, x), guide.posterior(common if own is None else own, x)
        key_point = jax.random.fold_in(key, index)
        return importance(key_point, joint, q, num_samples, chunk_size=chunk_size)

    alive = min(num_samples, chunk_size)  # rows of a point
    return for_each(one, points, batch_size(plenty(chunk_size), alive, points[0].shape[0]))


def check_data(model: Model, theta: Params, x: ArrayLike) -> None:
    """Refuse x unless it holds at least one finite point as the model draws them."""
    if not isinstance(x, np.ndarray | jax.Array) or x.ndim < 1 or x.shape[0] < 1:
        got = getattr(x, "shape", type(x).__name__)
        raise ValueError(f"x: expected an array of at least one data point, [N, ...], got {got}")
    checks.finite(checks.float_array(x, "x"), "x")
    _, point = jax.eval_shape(lambda: _ancestral(model, theta))
    if point.shape != x.shape[1:]:
        sizes = "".join(f", {size}" for size in point.shape)
        raise ValueError(
            f"x: expected shape [N{sizes}], as the model draws its data, got {list(x.shape)}"
        )


def check_guide(model: Model, guide: Guide, theta: Params, phi: Params, x: ArrayLike) -> None:
    """Refuse a q whose z does not fit the model."""
    z = jax.eval_shape(lambda: _draw(model.prior(theta)))
    guided = jax.eval_shape(lambda: _draw(guide.posterior(phi, jnp.asarray(x[0]))))
    if _describe(guided) != _describe(z):
        raise ValueError(
            f"guide: expected a q that draws z as the model's prior does, {_describe(z)}, got "
            f"{_describe(guided)}"
        )


def _first(phi: Params, num_points: int) -> Params:
    """The phi of the first point; refuses leaves that are not [N, ...]."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(phi)]
    if any(shape[:1] != (num_points,) for shape in shapes):
        raise ValueError(f"phi: expected leaves of shape [{num_points}, ...], got {shapes}")
    return jax.tree.map(lambda leaf: leaf[0], phi)


def _draw(distribution: Distribution) -> Latent:
    return distribution.sample(seed=jax.random.key(0))


def _ancestral(model: Model, theta: Params) -> tuple[Latent, Array]:
    z = _draw(model.prior(theta))
    return z, _draw(model.likelihood(theta, z))


def _describe(z: Latent) -> Latent:
    """Its structure and shapes, and whether its parts are floats or integers."""
    return jax.tree.map(lambda leaf: f"{leaf.dtype.kind}{list(leaf.shape)}", z)


class Summary(NamedTuple):
    """The evidence of a data set, per data point, with its two errors apart."""

    log_evidence: Scalar  # the mean over the points, in nats
    monte_carlo_error: Scalar  # its standard error over the draws of z, these points given
    sampling_error: Scalar  # its standard error over the points, another data set being drawn
    worst_k_hat: Scalar
    num_untrusted: Int[Array, ""]  # points whose k_hat is not <= 0.7, NaN among them
    num_points: int


def summarize(evidence: Evidence) -> Summary:
    """Mean log p(x) over N points, the leaves [N] of `evaluate`.

        monte_carlo_error = sqrt(sum_n standard_error_n^2) / N
        sampling_error = sqrt(Var_n(log p(x_n)) / N)

    The second, for a statement about the population, holds the first already (the spread of the
    estimates includes their noise); for a comparison of models on the same points use the first,
    or pair the points. NaN where a point is NaN; the sampling error of one point is NaN.

    Raises ValueError unless the leaves are [N].
    """
    values = evidence.log_evidence
    if values.ndim != 1:
        raise ValueError(
            f"evidence: expected leaves of shape [N], as evaluate returns them, got {values.shape}"
        )
    num_points = values.shape[0]
    return Summary(
        values.mean(),
        jnp.sqrt((evidence.standard_error**2).sum()) / num_points,
        jnp.sqrt(moments(values).variance / num_points),
        evidence.k_hat.max(),
        (~(evidence.k_hat <= TRUSTED_K_HAT)).sum(),
        num_points,
    )
