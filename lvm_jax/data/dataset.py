"""The type of a data set: numbers, names, units, and the truth if known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lvm_jax._core.nearest import suggestion


class Truth(NamedTuple):
    """The generating mixture of synthetic data."""

    weights: Float[np.ndarray, " K"]
    means: Float[np.ndarray, "K D"]
    covariances: Float[np.ndarray, "K D D"]


class Dataset(NamedTuple):
    """N points in D dimensions, with the metadata for figures and reports.

    `x` is [N, D]; `columns` and `units` have D entries (a unit may be ""); `labels` [N] are true
    classes, which fits do not use; `truth` is the generating mixture of synthetic data.
    """

    name: str
    source: str
    x: Float[np.ndarray, "N D"]
    columns: tuple[str, ...]
    units: tuple[str, ...]
    labels: Int[np.ndarray, " N"] | None = None
    truth: Truth | None = None

    @property
    def axis_labels(self) -> tuple[str, ...]:
        """The column names with units, e.g. "waiting [min]"."""
        return tuple(
            f"{c} [{u}]" if u else c for c, u in zip(self.columns, self.units, strict=True)
        )

    def select(self, columns: Sequence[str]) -> Dataset:
        """The data with only these columns, in this order; ValueError if unknown or empty."""
        index = column_indices(columns, self.columns, where=f"the data set {self.name}")
        truth = self.truth
        if truth is not None:  # the marginal of a Gaussian: a subset of mu and Sigma
            covariances = truth.covariances[:, index][:, :, index]
            truth = Truth(truth.weights, truth.means[:, index], covariances)
        return self._replace(
            x=self.x[:, index],
            columns=tuple(self.columns[i] for i in index),
            units=tuple(self.units[i] for i in index),
            truth=truth,
        )

    def standardized(self) -> Dataset:
        """(x - mean) / standard deviation of each column; ValueError for a constant column.

        The moments are those of the values that are not missing (NaN).
        """
        varies = np.fmin.reduce(self.x) != np.fmax.reduce(
            self.x
        )  # std() of a constant may be 1e-17
        if not varies.all():
            name = self.columns[int(np.argmin(varies))]
            raise ValueError(
                f"x: expected columns that vary, got the constant {name!r}; leave it out"
            )
        x = (self.x - np.nanmean(self.x, axis=0)) / np.nanstd(self.x, axis=0)
        return self._replace(x=x, units=("standard deviations",) * x.shape[1], truth=None)


def column_indices(chosen: Sequence[str], available: Sequence[str], where: str) -> list[int]:
    """The index of each chosen column; ValueError for none, an unknown or a repeated one."""
    if isinstance(chosen, str):
        raise TypeError(f"columns: expected a sequence of names, got the string {chosen!r}")
    if len(chosen) == 0:
        raise ValueError(
            f"columns: expected at least one name, got none; None takes all columns of {where}, "
            f"which has: {shortlist(available)}"
        )
    for name in chosen:
        if name not in available:
            hint = suggestion(name, available) or "."
            listed = shortlist(available)
            raise ValueError(f"columns: {where} has no column {name!r}{hint} It has: {listed}")
    if repeated := sorted({name for name in chosen if list(chosen).count(name) > 1}):
        raise ValueError(f"columns: expected each column once, got {repeated[0]!r} more than once")
    return [list(available).index(name) for name in chosen]


def shortlist(names: Sequence[str], limit: int = 12) -> str:
    """Names for an error message, at most `limit` of them."""
    more = f", ... ({len(names)} in all)" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
