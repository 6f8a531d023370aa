"""Headline numbers of several runs, and their mean over seeds."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lvm_jax.estimate import Estimate
from lvm_jax.report.page import MISSING, Table, digits, number
from lvm_jax.report.stored import Stored

# A number, then its standard error, "of" a total, or a unit without digits.
SHOWN = re.compile(
    r"(?P<value>[+−-]?[\d,]*\.?\d+(e[+−-]?\d+)?)( ± [\d.,e+−-]+)?( of [\d,]+)?(?P<unit>[^\d]*)",
    re.IGNORECASE,
)


class Headline(NamedTuple):
    """A headline number of several runs."""

    name: str
    texts: list[str | None]  # of each run, as in its page
    remarks: list[str]  # text after the name that differs between runs: "NOT RELIABLE at 3 images"

    @property
    def cells(self) -> list[str]:
        """The table cell of each run."""
        pairs = zip(self.texts, self.remarks, strict=True)
        return ["; ".join(filter(None, (text or MISSING, remark))) for text, remark in pairs]


class OverSeeds(NamedTuple):
    """A headline number of a group of runs that differ only in `seed`."""

    name: str
    settings: dict[str, Any]  # options that differ between groups
    mean: Estimate  # its standard error is sd / sqrt(n)
    sd: float  # over the seeds, with n - 1
    num_seeds: int
    unit: str  # such as %; empty if the headlines have different units


def headlines(runs: Sequence[Stored]) -> list[Headline]:
    """The headline numbers of all runs; a remark after a semicolon is not part of the name."""
    found: dict[str, list[tuple[str, str] | None]] = {}
    for place, run in enumerate(runs):
        heads = Counter(name.partition("; ")[0] for name in run.headline)
        for name, text in run.headline.items():
            head, _, remark = name.partition("; ")
            if heads[head] > 1:
                head, remark = name, ""
            found.setdefault(head, [None] * len(runs))[place] = (text, remark)
    return [_headline(head, cells) for head, cells in found.items()]


def _headline(head: str, cells: Sequence[tuple[str, str] | None]) -> Headline:
    remarks = {cell[1] for cell in cells if cell is not None}
    texts = [cell and cell[0] for cell in cells]
    if len(remarks) == 1:
        return Headline("; ".join(filter(None, (head, *remarks))), texts, [""] * len(cells))
    return Headline(head, texts, [cell[1] if cell else "" for cell in cells])


def over_seeds(runs: Sequence[Stored]) -> list[OverSeeds]:
    """Each headline number over each group of at least two seeds, by number and then by group."""
    groups: dict[str, dict[int, int]] = {}  # other options -> seed -> index of the run
    for place, run in enumerate(runs):
        others = {name: value for name, value in run.config.items() if name != "seed"}
        groups.setdefault(json.dumps(others, sort_keys=True), {})[run.config["seed"]] = place
    varied = [
        name
        for name in dict.fromkeys(name for run in runs for name in run.config)
        if name != "seed" and any(run.config.get(name) != runs[0].config.get(name) for run in runs)
    ]
    rows = []
    for headline in headlines(runs):
        for group in groups.values():
            places = list(group.values())
            settings = {name: runs[places[0]].config.get(name) for name in varied}
            rows.append(_over_seeds(headline, settings, places))
    return [row for row in rows if row is not None]


def _over_seeds(
    headline: Headline, settings: dict[str, Any], places: Sequence[int]
) -> OverSeeds | None:
    texts = [headline.texts[place] or "" for place in places]
    shown = [one for one in map(value_and_unit, texts) if one is not None]
    n = len(shown)
    if n < 2:
        return None
    values, units = zip(*shown, strict=True)
    sd = float(np.std(values, ddof=1))
    unit = units[0] if len(set(units)) == 1 else ""
    noted = "; see Headline" if any(headline.remarks[place] for place in places) else ""
    mean = Estimate(float(np.mean(values)), sd / n**0.5)
    return OverSeeds(headline.name + noted, settings, mean, sd, n, unit)


def value_and_unit(text: str) -> tuple[float, str] | None:
    """The number and unit of a headline: "1,234 ± 5" gives 1234, "3 of 8" 3, "52%" 52 and "%".

    None for a text that is not one number, such as "K = 3".
    """
    found = SHOWN.fullmatch(text.strip())
    if found is None:
        return None
    return float(found["value"].replace("−", "-").replace(",", "")), found["unit"]


def seeds_table(rows: Sequence[OverSeeds]) -> Table:
    """A table with one row per number and group."""
    varied = list(rows[0].settings) if rows else []
    return Table(
        ("number", *varied, "mean ± sd", "error of the mean", "seeds"),
        [
            (
                row.name,
                *map(str, row.settings.values()),
                digits(row.mean.value, row.sd) + row.unit,
                number(row.mean.standard_error, ".2g"),
                str(row.num_seeds),
            )
            for row in rows
        ],
    )
