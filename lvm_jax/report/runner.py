"""One runner for all experiments: check, measure, save, draw, render, compare with known numbers.

An experiment is a package with `config.py` (a `Config`, see `options`), `measure.py`
(`measure(config, run) -> Result`), `figures.py` (functions of a result that give figures) and
`report.md` (see `page`). Optional in `measure.py`: `load(config)`, which reads the data before
anything is written and whose value `measure` gets as a third argument; `checks(result)`.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from lvm_jax.report.directory import PAGE, POINTS, RESULTS, SUMMARY, plain
from lvm_jax.report.options import Options
from lvm_jax.report.page import Page, number
from lvm_jax.report.run import Run, opened
from lvm_jax.report.stored import read_results

AGAIN = Path(__file__).with_name("again.md")
NOT_RESULTS = ("config", "points")  # fields of a Result that have files of their own


class Check(NamedTuple):
    """A number that a run measured, and the range in which it is expected."""

    name: str
    value: float
    low: float
    high: float
    expected: str  # the known value and where it is from, in words

    @property
    def holds(self) -> bool:
        """Whether the value lies in the range; NaN does not."""
        return bool(self.low <= self.value <= self.high)


def near(name: str, value: float, expected: float, tolerance: float, source: str = "") -> Check:
    """A check that a number is the expected one within a tolerance."""
    words = f"{number(expected, '.6g')} ± {number(tolerance, '.2g')}{source and f', {source}'}"
    return Check(name, float(value), expected - tolerance, expected + tolerance, words)


class Finished(NamedTuple):
    """What a run leaves: its result, the checks of it, and its folder."""

    result: Any
    checks: Sequence[Check]
    path: Path


def execute(
    package: str,
    config: Options,
    out: Path | None = None,
    overwrite: bool = False,
) -> Finished:
    """Run the experiment of a package, as `experiments.vae`, with a configuration.

    The numbers are on the disk before anything is drawn, so an error in a figure loses no result.
    A finished run of the same options is drawn again from its stored stages: its page and figures
    are written, its numbers stay.
    Raises ValueError naming the option before anything is written, and FileExistsError naming `out`
    (see `run.opened`).
    """
    config.check()
    measure = import_module(f"{package}.measure")
    folder = Path(str(measure.__file__)).parent
    name = package.rpartition(".")[2]
    template = folder / "report.md"
    if not template.exists():
        raise FileNotFoundError(f"{template}: expected the page of the experiment, there is none")
    loaded = (measure.load(config),) if hasattr(measure, "load") else ()
    with opened(name, config, out, overwrite, folder, loaded) as run:
        result = measure.measure(config, run, *loaded)
        checks = measure.checks(result) if hasattr(measure, "checks") else []
        provenance = read_results(run.path)[1] if run.is_finished else save(run, result)
        modules = {"measure": measure, "figures": import_module(f"{package}.figures")}
        listed = [{**check._asdict(), "holds": check.holds} for check in checks]
        context = {**modules, "checks": checks, "provenance": provenance}
        page = write_page(run, result, template, context)
        run.write_json(SUMMARY, {"headline": page.headline, "checks": listed})
    return Finished(result, checks, run.path)


def numbers(result: Any) -> dict[str, Any]:
    """What results.json holds: the fields of a result, or what its `numbers` chooses of them."""
    if hasattr(result, "numbers"):
        return dict(result.numbers)
    names = [field.name for field in dataclasses.fields(result)]
    return {name: getattr(result, name) for name in names if name not in NOT_RESULTS}


def save(run: Run, result: Any) -> dict[str, Any]:
    """Write results.json and points.npz; gives the provenance."""
    provenance = run.provenance(result.config.seed)
    run.write_json(RESULTS, {**numbers(result), "provenance": provenance})
    points: Mapping[str, Any] = getattr(result, "points", {})
    if points:
        run.write_arrays(POINTS, points)
    return provenance


def write_page(run: Run, result: Any, template: Path, context: Mapping[str, Any]) -> Page:
    """Write figures/*.png, those that the template names and no others, and report.html."""
    from lvm_jax import plotting

    drawn = set()

    def draw(name: str, *args: Any) -> bytes:
        png = plotting.png(getattr(context["figures"], name)(result, *args))
        file = re.sub(r"[^A-Za-z0-9_.=-]+", "_", "-".join([name, *map(str, args)]))
        drawn.add(run.write(f"figures/{file}.png", png))
        return png

    page = Page(draw)
    text = template.read_text(encoding="utf-8") + AGAIN.read_text(encoding="utf-8")
    config = result.config
    html = page.render(
        text, str(template), result=result, config=config, options=plain(config), **context
    )
    run.write(PAGE, html)
    for earlier in set((run.path / "figures").glob("*.png")) - drawn:
        earlier.unlink()
    return page
