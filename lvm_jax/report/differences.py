"""Differences between runs, with standard errors: paired where the same points were measured."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lvm_jax.estimate import Estimate
from lvm_jax.report.stored import Stored

ERRORS = ("standard_error", "monte_carlo_error", "sampling_error")
SAME = 1e-12  # relative: numbers that differ by less are equal


class Difference(NamedTuple):
    """A number of a run minus that of the first run."""

    change: Estimate  # its standard error is NaN where a run gives none
    pairs: int  # points that both runs measured; 0: the difference is unpaired

    @property
    def in_errors(self) -> float:
        """The difference in units of its standard error; NaN where that is 0 or unknown."""
        value, error = self.change
        return value / error if error > 0 else np.nan

    @property
    def kind(self) -> str:
        """Which standard error it is, in words."""
        if np.isnan(self.change.standard_error):
            return "no error known"
        return f"paired, {self.pairs} points" if self.pairs else "unpaired"


def mean(values: np.ndarray) -> Estimate:
    """The mean over N points, with the standard error sd / sqrt(N); NaN for that of one point."""
    values = np.asarray(values, np.float64)
    with np.errstate(all="ignore"):  # infinite values have no mean
        error = values.std(ddof=1) / values.size**0.5 if values.size > 1 else np.nan
        return Estimate(float(values.mean()), float(error))


def matched(first: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the same points in two runs, by id; the k-th of equal ids goes with the k-th."""
    places = {key: place for place, key in enumerate(_occurrences(first))}
    pairs = [(places[key], place) for place, key in enumerate(_occurrences(other)) if key in places]
    left, right = np.array(pairs, int).reshape(-1, 2).T
    return left, right


def of_points(first: Stored, other: Stored, name: str) -> Difference:
    """other - first of the mean of an array of points.npz.

    Over the pairs d_n = other_n - first_n, where at least two points are in both runs: mean(d) and
    sd(d) / sqrt(N). Otherwise the difference of the means, with the errors of both,
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
    """The numeric arrays that all runs have of their points."""
    names = [name for name, array in runs[0].points.items() if array.dtype.kind in "fiub"]
    hidden = {"point", *ERRORS}
    return [name for name in names if name not in hidden and all(name in r.points for r in runs)]


def of_numbers(first: Stored, other: Stored, name: str) -> Difference:
    """other - first of a number of results.json, with the errors that the results have of both."""
    return _unpaired(of_run(first, name), of_run(other, name))


def of_run(run: Stored, name: str) -> Estimate:
    """A number of results.json with its error there."""
    return Estimate(run.numbers[name], error_of(run.numbers, name))


def _unpaired(first: Estimate, other: Estimate) -> Difference:
    error = float(np.hypot(first.standard_error, other.standard_error))
    return Difference(Estimate(other.value - first.value, error), 0)


def error_of(numbers: Mapping[str, float], name: str) -> float:
    """The standard error of a number among its neighbours, or NaN.

    That of `a.slope` is `a.slope_error` or `a.slope_standard_error`; that of `a.value`, `a.mean`
    and `a.log_evidence` is `a.standard_error`, or both of `a.monte_carlo_error` and
    `a.sampling_error`.
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
    """The numbers of results.json that all runs have and that differ; how many are equal.

    Numbers with a name of their own come before those in lists.
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
    """What differs in the configurations, then in code, device and libraries: name, values."""
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
