"""Differences between runs, with standard errors: paired for common points."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lvm_jax.estimate import Estimate
from lvm_jax.report.stored import Stored

ERRORS = ("standard_error", "monte_carlo_error", "sampling_error")
SAME = 1e-12  # relative: numbers that differ by less are equal


class Difference(NamedTuple):
    """A number of a run minus that of the first run."""

    change: Estimate  # the standard error is NaN if a run has none
    pairs: int  # number of common points; 0 for an unpaired difference

    @property
    def in_errors(self) -> float:
        """The difference / its standard error; NaN if the error is 0 or unknown."""
        value, error = self.change
        return value / error if error > 0 else np.nan

    @property
    def kind(self) -> str:
        """The kind of the standard error, as text."""
        if np.isnan(self.change.standard_error):
            return "no error known"
        return f"paired, {self.pairs} points" if self.pairs else "unpaired"


def mean(values: np.ndarray) -> Estimate:
    """The mean over N points, with the standard error sd / sqrt(N); NaN for one point."""
    values = np.asarray(values, np.float64)
    with np.errstate(all="ignore"):  # infinite values have no mean
        error = values.std(ddof=1) / values.size**0.5 if values.size > 1 else np.nan
        return Estimate(float(values.mean()), float(error))


def matched(first: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of common points in two runs, by id; the k-th of equal ids matches the k-th."""
    places = {key: place for place, key in enumerate(_occurrences(first))}
    pairs = [(places[key], place) for place, key in enumerate(_occurrences(other)) if key in places]
    left, right = np.array(pairs, int).reshape(-1, 2).T
    return left, right


def of_points(first: Stored, other: Stored, name: str) -> Difference:
    """The difference other - first of the means of an array of points.npz.

    If at least two points are in both runs: mean(d) with the error sd(d) / sqrt(N), over the pairs
    d_n = other_n - first_n. Otherwise the difference of the means, with the error
    sqrt(e_1^2 + e_2^2).
    """
    ours, theirs = (run.points[name].astype(np.float64) for run in (first, other))
    if "point" in first.points and "point" in other.points:
        left, right = matched(first.points["point"], other.points["point"])
        if len(left) > 1:
            with np.errstate(all="ignore"):
                return Difference(mean(theirs[right] - ours[left]), len(left))
    return _unpaired(mean(ours), mean(theirs))


def shared_points(runs: Sequence[Stored]) -> list[str]:
    """The names of the numeric arrays of points.npz that all runs have."""
    names = [name for name, array in runs[0].points.items() if array.dtype.kind in "fiub"]
    hidden = {"point", *ERRORS}
    return [name for name in names if name not in hidden and all(name in r.points for r in runs)]


def of_numbers(first: Stored, other: Stored, name: str) -> Difference:
    """The unpaired difference other - first of a number of results.json."""
    return _unpaired(of_run(first, name), of_run(other, name))


def of_run(run: Stored, name: str) -> Estimate:
    """A number of results.json with its standard error."""
    return Estimate(run.numbers[name], error_of(run.numbers, name))


def _unpaired(first: Estimate, other: Estimate) -> Difference:
    error = float(np.hypot(first.standard_error, other.standard_error))
    return Difference(Estimate(other.value - first.value, error), 0)


def error_of(numbers: Mapping[str, float], name: str) -> float:
    """The standard error of a number from the other numbers, or NaN.

    For `a.slope` it is `a.slope_standard_error` or `a.slope_error`; for `a.value`, `a.mean` and
    `a.log_evidence` it is `a.standard_error`, or `a.monte_carlo_error` and `a.sampling_error`
    combined.
    """
    for ending in ("_standard_error", "_error"):
        if f"{name}{ending}" in numbers:
            return numbers[f"{name}{ending}"]
    parent, dot, leaf = name.rpartition(".")
    if leaf in ("value", "mean", "log_evidence"):
        found = [numbers[f"{parent}{dot}{e}"] for e in ERRORS if f"{parent}{dot}{e}" in numbers]
        if found:
            return float(np.linalg.norm(found))
    return np.nan


def shared_numbers(runs: Sequence[Stored]) -> tuple[list[str], int]:
    """The names of common numbers of results.json that differ, and the number of equal ones.

    Numbers in lists come last.
    """
    names = [
        name
        for name in runs[0].numbers
        if all(name in run.numbers for run in runs) and not name.endswith("_error")
    ]
    values = np.array([[run.numbers[name] for run in runs] for name in names]).reshape(
        -1, len(runs)
    )
    equal = np.ptp(values, axis=1) <= SAME * np.abs(values).max(axis=1)
    different = [name for name, same in zip(names, equal, strict=True) if not same]
    return sorted(different, key=lambda name: name.count("[")), int(equal.sum())


def settings(runs: Sequence[Stored]) -> list[tuple[str, list[Any]]]:
    """Differences in configuration, then in code, device and libraries: (name, values)."""
    rows = _differing([run.config for run in runs])
    kept = ("git", "device", "python", "matmul_precision", "libraries")
    return rows + _differing([{k: run.provenance.get(k) for k in kept} for run in runs])


def _differing(values: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    rows = []
    for name in dict.fromkeys(key for one in values for key in one):
        row = [one.get(name) for one in values]
        mappings = [value for value in row if isinstance(value, Mapping)]
        if len(mappings) == len(row):
            rows += [(f"{name}.{inner}", found) for inner, found in _differing(mappings)]
        elif any(value != row[0] for value in row):
            rows.append((name, row))
    return rows


def _occurrences(ids: np.ndarray) -> list[tuple[Any, int]]:
    counts: dict[Any, int] = {}
    keys = []
    for one in ids.tolist():
        counts[one] = counts.get(one, 0) + 1
        keys.append((one, counts[one]))
    return keys
