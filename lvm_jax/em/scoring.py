"""Evaluation of a mixture on data that stream: criteria, and results of all rows by chunk."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from lvm_jax._core import checks
from lvm_jax.em import chunks
from lvm_jax.em.mixture import Mixture
from lvm_jax.em.passes import passes_of
from lvm_jax.em.sources import ArraySource, Source, as_source
from lvm_jax.em.statistics import Evaluation
from lvm_jax.typing import ArrayLike

METHODS = ("assign", "log_prob", "responsibilities", "impute")


def stream(mixture: Mixture, x: Any, method: str = "assign") -> Iterator[np.ndarray]:
    """Yield `mixture.assign`, `log_prob`, `responsibilities` or `impute` of the rows, by chunk.

    x is data that `fit` streams, or an array; the chunks have about 16 MB of rows. Raises
    ValueError for another method, for another width, and at the first invalid row.
    """
    checks.choice(method, "method", METHODS)
    source = source_for(mixture, x)
    return _stream(mixture, source, method)


def _stream(mixture: Mixture, source: Source, method: str) -> Iterator[np.ndarray]:
    for chunk in chunks.read(source, chunks.rows_of(source, source.num_rows)):
        chunks.check_rows(source, mixture.family, chunk)
        x = chunk.x if chunk.first else chunk.x[: chunk.size]  # later chunks share one shape
        yield np.array(getattr(mixture, method)(x))[: chunk.size]  # `impute` may return x itself


def evaluate(
    mixture: Mixture, x: Any, sample_weight: ArrayLike | None = None
) -> tuple[Evaluation, float]:
    """`Mixture.evaluate` of data that stream, and the total weight."""
    source = source_for(mixture, x)
    weights = chunks.place_of_weights(sample_weight)
    passes = passes_of(mixture, source)
    total, weight, number = np.zeros(3), 0.0, 0
    for chunk in chunks.read(source, passes[0].rows, weights):
        pass_ = passes[chunks.check_rows(source, mixture.family, chunk)]
        number += chunk.size
        weight += chunk.size if chunk.weight is None else float(chunk.weight.sum())
        total += pass_.evaluate_chunk(mixture.parameters, pass_.prepare(chunk))
    chunks.check_weight_length(weights, number)
    return Evaluation(*total), weight


def source_for(mixture: Mixture, x: Any) -> Source:
    """The source of x; refuses another width than the mixture's."""
    source = as_source(x)
    if source is None:
        source = ArraySource(checks.points_or_nan(x, "x")[0])
    if source.dim != mixture.origin.shape[-1]:
        raise ValueError(
            f"x: expected {mixture.origin.shape[-1]} columns as in the mixture, got {source.dim}"
        )
    return source
