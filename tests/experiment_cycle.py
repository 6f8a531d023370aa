"""What the tests of every experiment share: the folder of a finished run."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from lvm_jax.report import execute


def run_once(name, config, *patches):
    """A fixture of a file, to be called `finished`: one run with (module, attribute, value) set."""

    @pytest.fixture(scope="module")
    def finished(tmp_path_factory):
        with pytest.MonkeyPatch.context() as patch:
            for replaced in patches:
                patch.setattr(*replaced)
            return execute(f"experiments.{name}", config, tmp_path_factory.mktemp(name) / "run")

    return finished


def read(finished, name):
    """A JSON file of the run's folder."""
    return json.loads((finished.path / name).read_text(encoding="utf-8"))


def check_whole(finished, *figures):
    """The folder of a finished run is whole: configuration, numbers, metrics, figures and page.

    `finished` is what `lvm_jax.report.execute` gives. `figures` are the names of the files in
    figures/, without .png, each once in a page that loads nothing. All checks of the experiment
    hold. Gives the numbers of results.json and the lines of metrics.jsonl.
    """
    config = finished.result.config
    stored = read(finished, "config.json")
    assert {"experiment", "x64"} <= stored.keys()
    assert stored["seed"] == config.seed
    found = read(finished, "results.json")
    assert found["provenance"]["seed"] == config.seed
    assert found["provenance"]["libraries"]["jax"]
    check_summary(finished)
    check_points(finished)
    drawn = {path.name: path.read_bytes() for path in (finished.path / "figures").iterdir()}
    assert drawn.keys() == {f"{name}.png" for name in figures}
    assert all(content.startswith(b"\x89PNG") for content in drawn.values())
    page = (finished.path / "report.html").read_text(encoding="utf-8")
    check_page(page, len(figures))
    metrics = finished.path / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    return found, [json.loads(line) for line in lines]


def check_summary(finished):
    """summary.json has the facts of the page, and every check, all of which hold."""
    summary = read(finished, "summary.json")
    assert all(len(fact) == 2 and all(fact) for fact in summary["headline"])
    assert summary["headline"]
    assert [row["name"] for row in summary["checks"]] == [row.name for row in finished.checks]
    assert [row for row in finished.checks if not row.holds] == []


def check_points(finished):
    """points.npz has the arrays of the result, all of one length, with different points."""
    points = getattr(finished.result, "points", None)
    file = finished.path / "points.npz"
    assert file.exists() == bool(points)
    if points:
        with np.load(file) as kept:
            assert kept.files == list(points)
            assert {kept[name].shape for name in kept.files} == {kept["point"].shape}
            assert len(np.unique(kept["point"])) == kept["point"].size


def check_page(page, num_figures):
    """The page has its figures, loads nothing, and shows no Jinja, Markdown or TeX as text."""
    HTMLParser().feed(page)
    assert page.count("data:image/png;base64,") == num_figures
    assert "http://" not in page.replace("http://www.w3.org", "")
    shown = re.sub(r"<(style|pre|code)\b.*?</\1>", "", page, flags=re.DOTALL)
    shown = re.sub(r"<[^>]*>", "", shown)
    for mark in ("{{", "{%", "$$", "\\frac", "**", "| --"):
        assert mark not in shown, mark
