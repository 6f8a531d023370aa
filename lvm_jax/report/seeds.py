"""Headline numbers over seeds: mean, sd and standard error where runs differ in `seed` alone."""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lvm_jax.report.page import Table, digits, number
from lvm_jax.report.stored import Stored

# A number; then its standard error, "of" a total, or a unit, which has no digits.
SHOWN = re.compile(
    r"(?P<value>[+−-]?[\d,]*\.?\d+(e[+−-]?\d+)?)( ± [\d.,e+−-]+)?( of [\d,]+)?(?P<unit>[^\d]*)",
    re.IGNORECASE,
)


class OverSeeds(NamedTuple):
    """A headline number of runs that differ in `seed` alone."""

    name: str
    settings: dict[str, Any]  # that differ between the groups of runs
    mean: float
    sd: float  # over the seeds, with n - 1
    standard_error: float  # of the mean, sd / sqrt(n)
    num_seeds: int
    unit: str  # that the headlines show, as %; empty if they differ


def over_seeds(runs: Sequence[Stored]) -> list[OverSeeds]:
    """Every headline number of each group of at least two seeds, by number and then by group."""
    groups: dict[str, dict[int, Stored]] = {}
    for run in runs:
        others = {name: value for name, value in run.config.items() if name != "seed"}
        groups.setdefault(json.dumps(others, sort_keys=True), {})[run.config["seed"]] = run
    found = [list(group.values()) for group in groups.values()]
    varied = [
        name
        for name in dict.fromkeys(name for run in runs for name in run.config)
        if name != "seed" and any(run.config.get(name) != runs[0].config.get(name) for run in runs)
    ]
    names = dict.fromkeys(name for run in runs for name in run.headline)
    rows = [_row(name, varied, group) for name in names for group in found]
    return [row for row in rows if row is not None]


def _row(name: str, varied: Sequence[str], group: Sequence[Stored]) -> OverSeeds | None:
    texts = [run.headline[name] for run in group if name in run.headline]
    shown = [one for one in map(value_and_unit, texts) if one is not None]
    n = len(shown)
    if n < 2:
        return None
    values, units = zip(*shown, strict=True)
    sd = float(np.std(values, ddof=1))
    settings = {one: group[0].config.get(one) for one in varied}
    unit = units[0] if len(set(units)) == 1 else ""
    return OverSeeds(name, settings, float(np.mean(values)), sd, sd / n**0.5, n, unit)


def value_and_unit(text: str) -> tuple[float, str] | None:
    """The number of a headline as the page shows it: "1,234 ± 5" is 1234, "3 of 8" is 3, "52%".

    None for a text that is not one number, as "K = 3".
    """
    found = SHOWN.fullmatch(text.strip())
    if found is None:
        return None
    return float(found["value"].replace("−", "-").replace(",", "")), found["unit"]


def table(rows: Sequence[OverSeeds]) -> Table:
    """A line a number and group."""
    varied = list(rows[0].settings) if rows else []
    return Table(
        ("number", *varied, "mean ± sd", "error of the mean", "seeds"),
        [
            (
                row.name,
                *map(str, row.settings.values()),
                digits(row.mean, row.sd) + row.unit,
                number(row.standard_error, ".2g"),
                str(row.num_seeds),
            )
            for row in rows
        ],
    )
