"""What every experiment writes at its end, in which order; names from data are text everywhere."""

import json
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import NamedTuple

import pytest

from experiments import publish, run_directory
from experiments.progress import _live
from lvm_jax.report import Fact, Picture, Section

NASTY = "[/bold] $\\frac$ :smile: <b>&"


@dataclass(frozen=True)
class Config(publish.Options):
    data: str = NASTY


class Result(NamedTuple):
    config: Config
    value: float


def page(result, figures):
    return NASTY, NASTY, [Fact(NASTY, NASTY)], [Section(NASTY, [Picture(figures["one"], NASTY)])]


def texts(html):
    found, parser = [], HTMLParser()
    parser.handle_data = found.append
    parser.feed(html)
    return "".join(found)


def test_numbers_figures_and_page_are_written_and_the_page_is_named(tmp_path, capsys):
    run = run_directory.create("test", tmp_path / "run [/bold]", False)
    publish.publish(run, Result(Config(seed=3), 2.5), {"v": 2.5}, lambda r: {"one": b"png"}, page)
    found = json.loads((run.path / "results.json").read_text())
    assert (found["v"], found["provenance"]["seed"]) == (2.5, 3)
    assert (run.path / "figures" / "one.png").read_bytes() == b"png"
    assert capsys.readouterr().out == f"report: {run.path / 'report.html'}\n"
    html = (run.path / "report.html").read_text()
    # title and heading of the page, lead, fact and its name, section, caption, the option's value
    assert texts(html).count(NASTY) == 8
    assert "<b>&" not in html


def test_numbers_are_on_the_disk_before_anything_is_drawn(tmp_path):
    run = run_directory.create("test", tmp_path / "run", False)

    def draw(result):
        assert json.loads((run.path / "results.json").read_text())["v"] == 2.5
        raise ValueError("a figure cannot be drawn")

    with pytest.raises(ValueError, match="a figure cannot be drawn"):
        publish.publish(run, Result(Config(), 2.5), {"v": 2.5}, draw, page)
    assert [entry.name for entry in run.path.iterdir()] == ["results.json"]


def test_the_live_bar_shows_names_as_written(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR", "1")
    for bar in _live(NASTY, 2):
        bar.done(NASTY)
    assert capsys.readouterr().err.count("[/bold] $\\frac$") >= 2
