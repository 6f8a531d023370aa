"""log p(x) of every point of a data set by importance sampling from a guide, and its summary."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import checks
from lvm_jax.batching import batch_size, for_first, padded, plenty, unpadded
from lvm_jax.compiling import bounded_jit
from lvm_jax.evidence.importance import CHUNK_SIZE, importance
from lvm_jax.evidence.result import Evidence, describe, union
from lvm_jax.guides.base import Guide
from lvm_jax.inputs import check_data, check_guide, check_problem, one_of
from lvm_jax.models.base import Model, log_joint
from lvm_jax.moments import moments
from lvm_jax.typing import Array, ArrayLike, Bool, Int, Key, Params, Scalar


def evaluate(
    key: Key[Array, ""],
    model: Model,
    guide: Guide,
    theta: Params,
    phi: Params,
    x: Any,  # ArrayLike, or a data frame
    num_samples: int,
    *,
    phi_per_point: bool = False,
    index: ArrayLike | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Evidence:
    """`importance` for every point of x [N, ...] with q(z | x; phi): an Evidence of leaves [N].

    Compiled once per shape of a point, `num_samples`, model and guide, and for few numbers of
    points (N is padded to `compiling.bucket`); the key, theta and phi may change.
    At most `chunk_size` rows (points times samples) are alive at a time, so that they stay in
    cache; on a GPU or a TPU 32 times as many, of more points, by the same draws: where its memory
    is short, a smaller `chunk_size` is the cure. Memory grows in neither N nor S, but for the
    result, and a chunk size below S makes other draws. Point i draws from fold_in(key, i), or
    fold_in(key, index[i]) with an `index` [N] of unsigned integers: its answer
    does not depend on the other points. With `phi_per_point` the leaves of phi are [N, ...], a phi
    for each point, as `guides.per_point` has them.

    Raises ValueError or TypeError for num_samples or chunk_size < 1, x with NaN or infinities, off
    the model's support or of a shape that the model does not draw, a q whose z is not of the
    model's shape, theta and phi or model and guide in each other's place, a phi that is not per
    point, an index of another shape, and under jit, grad or vmap.
    """
    checks.host("evidence.evaluate", "evidence.importance", key, theta, phi, x)
    checks.key(key)
    num_samples = checks.integer(num_samples, "num_samples", 1)
    chunk_size = checks.integer(chunk_size, "chunk_size", 1)
    if phi_per_point:
        x = check_data(model, theta, x)
        check_guide(model, guide, theta, _first(phi, x.shape[0]), one_of(x))
    else:
        x = check_problem(model, guide, theta, phi, x)
    own, common = (phi, None) if phi_per_point else (None, phi)
    index = np.arange(x.shape[0]) if index is None else np.asarray(index)
    checks.shape(index, x.shape[:1], "index")
    points, size, number = padded((index, x, own))
    alive = min(num_samples, chunk_size)  # rows of a point
    found = _evaluate(
        *(key, theta, common, points, number, model, guide, num_samples, chunk_size),
        batch_size(plenty(chunk_size), alive, size),
    )
    return unpadded(found, number)


@bounded_jit(5, 6, 7, 8, 9)
def _evaluate(
    key: Key[Array, ""],
    theta: Params,
    common: Params | None,
    points: tuple[Array, Array, Params | None],
    number: Int[Array, ""],
    model: Model,
    guide: Guide,
    num_samples: int,
    chunk_size: int,
    together: int,
) -> Evidence:
    """`evaluate`, with a phi that is common to all points or, where it is None, one for each."""

    def one(point: tuple[Array, Array, Params | None]) -> Evidence:
        index, x, own = point
        joint, q = log_joint(model, theta, x), guide.posterior(common if own is None else own, x)
        key_point = jax.random.fold_in(key, index)
        return importance(key_point, joint, q, num_samples, chunk_size=chunk_size)

    return for_first(one, points, together, number)


def _first(phi: Params, num_points: int) -> Params:
    """The phi of the first point; refuses leaves that are not [N, ...]."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(phi)]
    if any(shape[:1] != (num_points,) for shape in shapes):
        raise ValueError(f"phi: expected leaves of shape [{num_points}, ...], got {shapes}")
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), phi)


class Summary(NamedTuple):
    """The evidence of a data set, per data point, with its two errors apart."""

    log_evidence: Scalar  # the mean over the points, in nats
    monte_carlo_error: Scalar  # its standard error over the draws of z, these points given
    sampling_error: Scalar  # its standard error over the points, another data set being drawn
    worst_k_hat: Scalar
    num_untrusted: Int[Array, ""]  # points that are `likely_low`
    num_points: int
    failed: Int[Array, ""]  # bits of `Check`: every reason of those points

    @property
    def reliable(self) -> Bool[Array, ""]:
        """True where no point is likely low: then mean and errors can be trusted."""
        return self.failed == 0

    def verdict(self) -> str:
        """In words: reliable, or how many points are not and the reasons; on the host."""
        if not int(self.num_untrusted):
            return "reliable"
        words = describe(np.asarray(self.failed)).removeprefix("not reliable: ")
        return f"{int(self.num_untrusted)} of {self.num_points} points not reliable: {words}"


def summarize(evidence: Evidence) -> Summary:
    """Mean log p(x) over N points, the leaves [N] of `evaluate`.

        monte_carlo_error = sqrt(sum_n standard_error_n^2) / N
        sampling_error = sqrt(Var_n(log p(x_n)) / N)

    The second, for a statement about the population, holds the first already (the spread of the
    estimates includes their noise); for a comparison of models on the same points use the first,
    or pair the points. NaN where a point is NaN; the sampling error of one point is NaN. Where
    points are `likely_low` the mean and its Monte Carlo error are not reliable: see `verdict`.

    Raises ValueError unless the leaves are [N].
    """
    values = evidence.log_evidence
    if values.ndim != 1:
        raise ValueError(
            f"evidence: expected leaves of shape [N], as evaluate returns them, got {values.shape}"
        )
    return _summarize(evidence)._replace(num_points=values.shape[0])


@bounded_jit()
def _summarize(evidence: Evidence) -> Summary:
    values, low = evidence.log_evidence, evidence.likely_low
    num_points = values.shape[0]
    return Summary(
        values.mean(),
        jnp.sqrt((evidence.standard_error**2).sum()) / num_points,
        jnp.sqrt(moments(values).variance / num_points),
        evidence.k_hat.max(),
        low.sum(),
        num_points,
        union(jnp.where(low, evidence.failed, 0)),
    )
