"""log p(x) of every point of a data set by importance sampling from a guide, and the mean."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core import checks
from lvm_jax._core.batching import batch_size, for_points, num_rows, rows_for_device
from lvm_jax._core.display import by_field, is_number, with_error
from lvm_jax._core.inputs import check_bound, check_data, check_problem, check_q, one_of
from lvm_jax.compiling import bounded_jit, bucket
from lvm_jax.estimate import Estimate
from lvm_jax.evidence.importance import CHUNK_SIZE, importance
from lvm_jax.evidence.result import Evidence, describe
from lvm_jax.typing import (
    Array,
    ArrayLike,
    Bool,
    ConditionalDensity,
    Int,
    JointDensity,
    Key,
    Scalar,
)


def evaluate(
    key: Key[Array, ""],
    p: JointDensity,
    q: ConditionalDensity,
    x: Any,  # ArrayLike, or a data frame
    num_samples: int,
    *,
    q_per_point: bool = False,
    index: ArrayLike | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Evidence:
    """`importance` for every point of x [N, ...] by draws of q(z | x): an Evidence of leaves [N].

    Compiled once per shape of a point, `num_samples`, model and guide, and for few numbers of
    points (N is padded to `compiling.bucket`); the key and the parameters may change. At most
    `chunk_size` rows (points times samples) are in memory at a time, so that they stay in cache; 32
    times as many on a GPU or a TPU, of more points, with the same draws. Reduce `chunk_size` if
    memory is short. Only the result grows with N; a chunk size below S changes the draws. Point i
    uses fold_in(key, i), or fold_in(key, index[i]) with an `index` [N] of unsigned integers: its
    result does not depend on the other points. With `q_per_point` the leaves of q are [N, ...], a q
    for each point, as in `guides.per_point`.

    Raises ValueError or TypeError for num_samples or chunk_size < 1, x with NaN or infinities,
    outside the model's support or of a shape that differs from the model's draws, a q whose z has
    another shape than the model's, p and q swapped, a q that is not per point, an index of another
    shape, and under jit, grad or vmap.
    """
    checks.host("evidence.evaluate", "evidence.importance", key, p, q, x)
    checks.key(key)
    num_samples = checks.integer(num_samples, "num_samples", 1)
    chunk_size = checks.integer(chunk_size, "chunk_size", 1)
    if q_per_point:
        check_bound(p, q)
        x = check_data(p, x)
        check_q(p, _first(q, num_rows(x)), one_of(x))
    else:
        x = check_problem(p, q, x)
    own, common = (q, None) if q_per_point else (None, q)
    index = np.arange(num_rows(x)) if index is None else np.asarray(index)
    checks.shape(index, (num_rows(x),), "index")
    alive = min(num_samples, chunk_size)  # rows of a point
    together = batch_size(rows_for_device(chunk_size), alive, bucket(num_rows(x)))
    static = num_samples, chunk_size
    return for_points(_of_point, static, key, (p, common), (index, x, own), together)


def _of_point(
    key: Key[Array, ""], p: JointDensity, common: Any, x: Any, own: Any, num: int, chunk_size: int
) -> Evidence:
    """`evaluate`, with a q that is `common` to all points or, where it is None, the point's own."""
    q = own if common is None else common
    return importance(key, p.log_joint(x), q(x), num, chunk_size=chunk_size)


def _first(q: ConditionalDensity, num_points: int) -> ConditionalDensity:
    """Shapes of the q of the first point; refuses leaves that are not [N, ...]."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(q)]
    if any(shape[:1] != (num_points,) for shape in shapes):
        raise ValueError(f"q: expected leaves of shape [{num_points}, ...], got {shapes}")
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), q)


class Summary(NamedTuple):
    """The mean evidence of a data set per data point, with two errors, as in `Average`."""

    log_evidence: Scalar  # the mean over the points, in nats
    monte_carlo_error: Scalar  # from the draws of z, for these points
    sampling_error: Scalar  # from the draw of the data set
    worst_k_hat: Scalar
    num_untrusted: Int[Array, ""]  # points that are `likely_low`
    num_points: int
    failed: Int[Array, ""]  # bits of `Check`: all reasons of those points

    def __repr__(self) -> str:
        """The mean, both errors and the verdict."""
        if not all(map(is_number, self)):
            return by_field(self)
        number = with_error(self.log_evidence, self.monte_carlo_error)
        other = with_error(0, self.sampling_error).partition(" ")[2]
        return f"Summary({number} (Monte Carlo) {other} (sampling): {self.verdict()})"

    @property
    def reliable(self) -> Bool[Array, ""]:
        """True if no point is `likely_low`: then mean and errors can be trusted."""
        return self.failed == 0

    def verdict(self) -> str:
        """A sentence: reliable, or the number of unreliable points and the reasons; on the host."""
        if not int(self.num_untrusted):
            return "reliable"
        words = describe(np.asarray(self.failed)).removeprefix("not reliable: ")
        return f"{int(self.num_untrusted)} of {self.num_points} points not reliable: {words}"


def summarize(evidence: Evidence) -> Summary:
    """Mean log p(x) over N points, the leaves [N] of `evaluate`, by `Estimate.average`.

    The sampling error is for a statement about the population, and includes the Monte Carlo error.
    To compare models on the same points use the Monte Carlo error, or pair the points. The mean is
    NaN if a point is NaN. If points are `likely_low`, the mean and its Monte Carlo error are not
    reliable: see `verdict`.

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
    low = evidence.likely_low
    return Summary(
        *Estimate(evidence.log_evidence, evidence.standard_error).average(),
        evidence.k_hat.max(),
        low.sum(),
        low.shape[0],
        jax.lax.reduce(jnp.where(low, evidence.failed, 0), jnp.int32(0), jax.lax.bitwise_or, (0,)),
    )
