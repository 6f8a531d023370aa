"""The runner of experiments: validate, measure, save, draw, render, check known numbers.

An experiment is a package with `config.py` (a `Config`, see `options`), `measure.py`
(`measure(config, run) -> Result`), `figures.py` (functions from a result to a figure) and
`report.md` (see `page`). Optional in `measure.py`: `load(config)`, which reads data before any file
is written, and whose value is the third argument of `measure`; `checks(result)`.
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
NOT_RESULTS = ("config", "points")  # fields of a Result with their own files


class Check(NamedTuple):
    """A measured number and its expected range."""

    name: str
    value: float
    low: float
    high: float
    expected: str  # the known value and its source, as text

    @property
    def holds(self) -> bool:
        """Whether the value is in the range; False for NaN."""
        return bool(self.low <= self.value <= self.high)


def near(name: str, value: float, expected: float, tolerance: float, source: str = "") -> Check:
    """A check that |value - expected| <= tolerance."""
    words = f"{number(expected, '.6g')} ± {number(tolerance, '.2g')}{source and f', {source}'}"
    return Check(name, float(value), expected - tolerance, expected + tolerance, words)


class Finished(NamedTuple):
    """The result of a run, its checks and its folder."""

    result: Any
    checks: Sequence[Check]
    path: Path


def execute(
    package: str,
    config: Options,
    out: Path | None = None,
    overwrite: bool = False,
) -> Finished:
    """Run the experiment of a package, such as `experiments.vae`.

    The numbers are written before the figures, so that an error in a figure loses no result. For a
    finished run of the same options only the page and figures are written, from its stored stages.

    Raises ValueError for an invalid option, before any file is written, and FileExistsError for
    `out` (see `run.opened`).
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
    """The content of results.json: a result's `numbers` if defined, otherwise its fields."""
    if hasattr(result, "numbers"):
        return dict(result.numbers)
    names = [field.name for field in dataclasses.fields(result)]
    return {name: getattr(result, name) for name in names if name not in NOT_RESULTS}


def save(run: Run, result: Any) -> dict[str, Any]:
    """Write results.json and points.npz; return the provenance."""
    provenance = run.provenance(result.config.seed)
    run.write_json(RESULTS, {**numbers(result), "provenance": provenance})
    points: Mapping[str, Any] = getattr(result, "points", {})
    if points:
        run.write_arrays(POINTS, points)
    return provenance


def write_page(run: Run, result: Any, template: Path, context: Mapping[str, Any]) -> Page:
    """Write report.html and its figures/*.png; remove other figures."""
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
