"""The sufficient statistics of an EM step, which add over batches, files and machines.

    parts = [em.accumulate(mixture, batch) for batch in batches]
    mixture = em.maximize(sum(parts), mixture)

is one step of EM on all batches. A batch is summed in the dtype of its rows. Parts are merged, and
parameters estimated, in float64: 10^10 rows in float32 lose no count.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from lvm_jax._core import checks
from lvm_jax.em import chunks, inputs, priors, scoring
from lvm_jax.em.compiling import over_data
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.mixture import Mixture
from lvm_jax.em.passes import Pass, m_step, narrow, passes_of, safe, wide, widen
from lvm_jax.typing import ArrayLike


@dataclass(frozen=True)
class Statistics:
    """Statistics of an EM step at a mixture; `a + b` are those of the rows of both.

    Attributes:
        family: the component family, or its `incomplete` family if entries are missing.
        summary: its statistics, NumPy arrays of float64 with a leading axis K.
        log_likelihood: sum_n w_n log p(x_n), in nats.
        total_weight: sum_n w_n.
        num_rows: N.
        origin: of the mixture, [D]; the statistics are relative to it.
        mark: a checksum of the mixture.
    """

    family: ExponentialFamily
    summary: Any
    log_likelihood: float
    total_weight: float
    num_rows: int
    origin: np.ndarray
    mark: int

    def __add__(self, other: Any) -> "Statistics":
        """The statistics of the rows of both; ValueError for those of two mixtures."""
        if not isinstance(other, Statistics):
            return NotImplemented
        if self.family.original != other.family.original or self.mark != other.mark:
            raise ValueError(
                "statistics: expected those of one mixture, got two mixtures; accumulate all parts "
                "at the same mixture, and maximize once"
            )
        family, summaries = common(self, other)
        return Statistics(
            family,
            merge(family, *summaries),
            self.log_likelihood + other.log_likelihood,
            self.total_weight + other.total_weight,
            self.num_rows + other.num_rows,
            self.origin,
            self.mark,
        )

    def __radd__(self, other: Any) -> "Statistics":
        """Itself for 0, so that `sum` works."""
        return self if isinstance(other, int) and other == 0 else NotImplemented


def accumulate(mixture: Mixture, x: Any, sample_weight: ArrayLike | None = None) -> Statistics:
    """The statistics of one EM step of `mixture` on x, [N, D] or data that `fit` streams.

    NaN is an entry missing at random; a row without any observed entry has weight 0. Raises
    ValueError or TypeError for rows of another width, that are infinite or outside the family's
    support, and for invalid weights.

    Source: Dempster, Laird and Rubin (1977), section 3; Neal and Hinton (1998).
    """
    checks.host("em.accumulate", "em.Mixture.responsibilities", mixture, sample_weight)
    source = scoring.source_for(mixture, x)
    weights = chunks.place_of_weights(sample_weight)
    passes, total = passes_of(mixture, source), None
    for chunk in chunks.read(source, passes[0].rows, weights):
        missing = chunks.check_rows(source, mixture.family, chunk)
        part = _of_chunk(mixture, passes[missing], chunks.observed(chunk) if missing else chunk)
        total = part if total is None else total + part
    if total is None:
        raise ValueError(f"x: expected rows, got none in {source.name}")
    chunks.check_weight_length(weights, total.num_rows)
    return total


def _of_chunk(mixture: Mixture, pass_: Pass, chunk: chunks.Chunk) -> Statistics:
    parameters: Any = jax.tree.map(lambda leaf: np.asarray(leaf)[None], mixture.parameters)
    exact = not safe(pass_.family, parameters).all()
    summary, log_likelihood = pass_.add(None, parameters, pass_.prepare(chunk), exact)
    return Statistics(
        pass_.family,
        jax.tree.map(lambda leaf: leaf[0], summary),
        float(log_likelihood[0]),
        chunk.size if chunk.weight is None else float(chunk.weight.sum()),
        chunk.size,
        np.asarray(mixture.origin, np.float64),
        mark_of(mixture),
    )


def maximize(
    statistics: Statistics,
    mixture: Mixture,
    regularization: float = 1e-6,
    prior: priors.ConjugatePrior | None = None,
) -> Mixture:
    """The M-step: the mixture that follows `mixture`, in its dtype.

    `regularization` and `prior` are those of `fit`; a component without points keeps its
    parameters. Raises ValueError for the statistics of another mixture or without weight.
    """
    if statistics.mark != mark_of(mixture) or statistics.family.original != mixture.family:
        raise ValueError("statistics: expected those of this mixture, got those of another one")
    if not statistics.total_weight > 0:
        raise ValueError("statistics: expected a positive total weight, got 0")
    regularization = checks.number(regularization, "regularization")
    number = mixture.log_weights.shape[0]
    controls = inputs.check_controls(
        mixture.family, regularization, prior, number, statistics.origin, 0.0,
        statistics.total_weight,
    )  # fmt: skip
    stacked: Any = jax.tree.map(lambda leaf: leaf[None], statistics.summary)
    previous: Any = jax.tree.map(lambda leaf: np.asarray(leaf)[None], widen(mixture.parameters))
    with wide():
        new = m_step(statistics.family, stacked, previous, controls.settings)
    found = narrow(jax.tree.map(lambda leaf: np.asarray(leaf)[0], new), mixture.origin.dtype)
    log_weights, components = jax.device_put(found)
    return Mixture(log_weights, components, mixture.origin, mixture.family)


def mark_of(mixture: Mixture) -> int:
    """A checksum of a mixture's numbers."""
    leaves = jax.tree.leaves((mixture.log_weights, mixture.components, mixture.origin))
    return zlib.crc32(b"".join(np.asarray(leaf).tobytes() for leaf in leaves))


def common(a: Statistics, b: Statistics) -> tuple[ExponentialFamily, list[Any]]:
    """The summaries of both, as those of one family: with missing entries if either has any."""
    if a.family == b.family:
        return a.family, [a.summary, b.summary]
    family = b.family if a.family == a.family.original else a.family
    with wide():
        lifted = [
            each.summary if each.family == family else _lift(family, each.summary)
            for each in (a, b)
        ]
        return family, jax.tree.map(np.asarray, lifted)


def merge(family: ExponentialFamily, a: Any, b: Any) -> Any:
    """The summary of the union of two blocks, one mixture, in float64."""
    with wide():
        return jax.tree.map(np.asarray, _merge(family, a, b))


@over_data(0)
def _lift(family: ExponentialFamily, summary: Any) -> Any:
    return family.lift(summary)


@over_data(0)
def _merge(family: ExponentialFamily, a: Any, b: Any) -> Any:
    return family.merge(a, b)
