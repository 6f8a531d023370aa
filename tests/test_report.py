"""Options, pages and run folders of lvm_jax.report; its runner on the toy experiment tests/toys."""

import base64
import dataclasses
import errno
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from xml.etree import ElementTree

import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax import report
from lvm_jax.report import directory, options, progress

NASTY = """<script>alert("it's & <b>*bold*</b>")</script> $x$ | `a_b` [c](d) {{ e }} [/bold]"""
LOADING = {"src", "href", "srcset", "data", "action", "poster", "background"}


@dataclasses.dataclass(frozen=True)
class Config(report.Options):
    """Options of every kind."""

    size: Annotated[int, report.at_least(1)] = 2
    """How many."""
    rate: Annotated[float, report.inside(0, 1)] = 0.5
    """How fast."""
    scale: Annotated[float, report.above(0)] | None = None
    """How wide."""
    sizes: tuple[Annotated[int, report.between(1, 9)], ...] = (1, 2)
    """Each of them."""
    pair: tuple[float, float] = (0.0, 1.0)
    """Two."""
    guide: Literal["mean_field", "full_rank"] = "mean_field"
    """Family of q."""
    data: str = "digits"
    """Name."""
    fast: bool = False
    """Speed."""


REFUSED = [
    ({"size": 0}, "size: expected an integer that is at least 1, got 0"),
    ({"size": 1.5}, "size: expected an integer that is at least 1, got 1.5"),
    ({"size": True}, "size: expected an integer"),
    ({"rate": 1.0}, "rate: expected a finite number that is above 0 and below 1, got 1.0"),
    ({"rate": float("nan")}, "rate: expected a finite number"),
    ({"scale": 0}, "scale: expected a finite number that is above 0, got 0"),
    ({"sizes": (1, 10)}, "sizes: expected an integer that is at least 1 and at most 9, got 10"),
    ({"sizes": [1]}, r"sizes: expected a tuple, got \[1\]"),
    ({"pair": (0.0,)}, r"pair: expected 2 values, got \(0.0,\)"),
    ({"pair": (0.0, float("inf"))}, "pair: expected a finite number, got inf"),
    (
        {"guide": "full_rnak"},
        "guide: expected one of .*, got 'full_rnak'; did you mean 'full_rank'",
    ),
    ({"data": 3}, "data: expected a text, got 3"),
    ({"fast": 1}, "fast: expected True or False, got 1"),
    ({"seed": -1}, "seed: expected an integer that is at least 0, got -1"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_an_option_out_of_its_range_is_refused_by_name(values, message):
    Config().check()
    with pytest.raises(ValueError, match=f"^{message}"):
        dataclasses.replace(Config(), **values).check()


def test_an_optional_tuple_is_none_instead_of_empty():
    columns = tuple[str, ...] | None
    for value in (None, ("x",)):
        options.check("columns", value, columns)
    with pytest.raises(ValueError, match="^columns: expected at least one value, or None, got non"):
        options.check("columns", (), columns)
    options.check("channels", (), tuple[int, ...])  # its check refuses what it cannot take


def test_the_help_of_an_option_is_its_text_and_its_range():
    assert options.described(Config) == {
        "seed": "Seed of every random number; at least 0.",
        "size": "How many; at least 1.",
        "rate": "How fast; above 0 and below 1.",
        "scale": "How wide; above 0.",
        "sizes": "Each of them; at least 1 and at most 9.",
        "pair": "Two.",
        "guide": "Family of q.",
        "data": "Name.",
        "fast": "Speed.",
    }


class Parsed(HTMLParser):
    """The tags of a page with their attributes, and the text inside each kind of tag."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # every element is closed, in order

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self, tag):
        return [data for inside, data in self.texts if inside == tag]

    def attributes(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


EVERYTHING = """# {{ t }}

{{ t }}

{{ facts([(t, t)]) }}

> {{ t }}

## {{ t }}

$$ \\sum_k \\pi_k < 1 $$

{{ figure(png, t) }}

{{ table((t,), [(t,)], t) }}

| {{ t }} |
|---|
| {{ t }} |

{{ settings({t: t}) }}

`{{ code }}`
"""


def everything(text, code="x_1 < 2"):
    return report.render(EVERYTHING, t=text, png=b"\x89PNG", code=code)


def test_a_page_needs_nothing_but_itself():
    page = everything("words")
    tags = Parsed(page).tags
    loaded = [value for _, attrs in tags for name, value in attrs.items() if name in LOADING]
    assert len(loaded) == 2  # the equation and the figure
    assert all(value.startswith("data:image/") for value in loaded)
    assert {"script", "link", "iframe", "object", "base"}.isdisjoint(name for name, _ in tags)
    assert re.findall(r"https?://|url\(|@import", page) == []


def test_text_of_the_data_is_shown_as_written_and_never_run():
    page = everything(NASTY)
    parsed = Parsed(page)
    assert "<script" not in page.lower()
    assert [name for name, _ in parsed.tags] == [name for name, _ in Parsed(everything("a")).tags]
    places = [inside for inside, data in parsed.texts if NASTY in data]
    assert sorted(places) == sorted(
        ["title", "h1", "h2", "p", "p", "b", "span", "figcaption", "caption"]
        + ["th", "th", "td", "td", "td", "td"]
    )
    assert [a["alt"] for a in parsed.attributes("img")] == [r"\sum_k \pi_k < 1", NASTY]
    assert parsed.text("code") == ["x_1 < 2"]


def test_figures_are_numbered_and_drawn_by_name_in_the_order_of_the_page():
    drawn = []
    page = report.Page(lambda name, *args: drawn.append((name, *args)) or str(len(drawn)).encode())
    html = page.render(
        '# T\n{{ figure("a", "one") }}\n{{ figure("b", "two", 3) }}\n{{ facts([("4", "x")]) }}'
    )
    parsed = Parsed(html)
    assert drawn == [("a",), ("b", 3)]
    assert parsed.text("b") == ["Figure 1.", "Figure 2.", "4"]
    assert parsed.text("figcaption") == [" one", " two"]
    images = [a["src"].removeprefix("data:image/png;base64,") for a in parsed.attributes("img")]
    assert [base64.b64decode(image) for image in images] == [b"1", b"2"]
    assert page.headline == [("4", "x")]
    with pytest.raises(ValueError, match="expected bytes or a figure, got the name 'a'"):
        report.render('{{ figure("a", "one") }}')


def test_tables_mark_rows_and_settings_have_dotted_names():
    rows = [("1", -5.0), ("2", float("nan"))]
    page = report.render(
        "{{ table(made) }}\n{{ settings({'seed': 0, 'fit': {'K': 3, 'prior': {'a': none}}}) }}",
        made=report.Table(("K", "BIC"), rows, marked=[1]),
    )
    parsed = Parsed(page)
    assert parsed.text("th") == ["K", "BIC"]
    assert parsed.text("td") == [
        "1",
        "−5",
        "2",
        "–",
        "seed",
        "0",
        "fit.K",
        "3",
        "fit.prior.a",
        "None",
    ]
    assert [a.get("class") for a in parsed.attributes("tr")] == [None, None, "marked", *[None] * 3]


def test_numbers_in_words():
    page = report.render("{{ 0.123456 | f }}, {{ -2 | pm(0.5, '+.1f') }}, {{ [1, 2, 3] | listed }}")
    assert Parsed(page).text("p") == ["0.123, −2.0 ± 0.5, 1, 2 and 3"]


def drawing(tex):
    head, content = report.equation(tex)[0].split(",", 1)
    assert head == "data:image/svg+xml;base64"
    return ElementTree.fromstring(base64.b64decode(content))


def test_equations_are_drawings_that_need_no_font():
    root = drawing(r"\log p(x) = \log \sum_k \pi_k\, N(x; \mu_k, \Sigma_k)")
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "path" in tags
    assert {"text", "image", "script", "font"}.isdisjoint(tags)
    href = "{http://www.w3.org/1999/xlink}href"
    assert all(e.get(href, "#").startswith("#") for e in root.iter())  # glyphs of its own only
    first, second = ([e.attrib for e in drawing(r"\sum_k x").iter()] for _ in range(2))
    assert first == second  # names of glyphs are no random numbers
    use = ".//{http://www.w3.org/2000/svg}use"
    assert [len(drawing(tex).findall(use)) for tex in ("x", "x+y", r"\pi_k + \mu_k")] == [1, 3, 5]
    with pytest.raises(ValueError, match=r"^formula \$\\frac\{1\}\$: expected TeX .*Expected"):
        report.equation(r"\frac{1}")
    with pytest.raises(ValueError, match=r"such as \\frac for \\tfrac; .*Unknown symbol: \\tfrac"):
        report.equation(r"\tfrac{1}{2}")


class Pair(NamedTuple):
    left: int
    right: float


def test_json_is_read_back_as_what_it_was(tmp_path):
    values = {
        "nan": np.nan, "inf": -np.inf, "array": np.arange(3), "jax": jnp.float32(0.5), 7: True,
        "settings": Config(), "pair": Pair(1, float("inf")), "path": Path("a/b"),
        "many": [np.int64(2), (3.0, None)],
    }  # fmt: skip
    path = report.Directory(tmp_path).write_json("deep/values.json", values)
    found = json.loads(path.read_text())
    assert found.pop("settings")["sizes"] == [1, 2]
    assert found == {
        "nan": None, "inf": None, "array": [0, 1, 2], "jax": 0.5, "7": True,
        "pair": {"left": 1, "right": None}, "path": "a/b", "many": [2, [3.0, None]],
    }  # fmt: skip


@pytest.mark.parametrize("fails", ["replace", "fdopen"])
def test_a_full_disk_leaves_the_earlier_file_and_names_the_cure(tmp_path, monkeypatch, fails):
    run = report.Directory(tmp_path)
    run.write("results.json", "earlier")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(directory.os, fails, full)
    with pytest.raises(
        OSError, match="No space left.*; free some space and run .* again to resume"
    ):
        run.write("results.json", "later")
    monkeypatch.undo()
    assert (tmp_path / "results.json").read_text() == "earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("blocked", ["results", "metrics"])
def test_a_target_that_cannot_be_written_is_named_with_the_cure(tmp_path, blocked):
    (tmp_path / "results").write_text("a file where a folder has to be")
    (tmp_path / "metrics.jsonl").mkdir()
    run = report.Directory(tmp_path)
    with pytest.raises(
        OSError, match=r"cannot write \(.*choose another folder with --out"
    ) as error:
        run.log(step=1) if blocked == "metrics" else run.write("results/values.json", "{}")
    assert blocked in error.value.filename


def test_provenance_has_what_it_takes_to_run_again(tmp_path):
    provenance = report.Directory(tmp_path).provenance(seed=3)
    assert provenance["seed"] == 3
    assert provenance["libraries"]["numpy"] == np.__version__
    assert provenance["device"].startswith("cpu")
    assert set(provenance) >= {"command", "started", "git", "python", "platform"}
    assert directory.git_state(tmp_path) is None  # not a checkout


def test_time_left_counts_the_stages_that_are_computed(monkeypatch):
    clock = iter([0.0, 10.0, 10.0, 10.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    shown = progress.Progress(lambda *now: None)
    shown.announced = 5
    assert shown.left == ""
    shown.done("read from the disk", kept=True)
    assert shown.left == ""
    shown.done("computed")  # 10 s, and three more to do
    assert shown.left == "about 30 s left"


@pytest.mark.parametrize("announced", [0, 1, 2, 5])
def test_no_number_of_stages_takes_progress_beyond_its_total(announced):
    shown = []
    bar = progress.Progress(lambda now, *_: shown.append((now.count + now.fraction, now.total)))
    bar.announced = announced
    for _ in range(3):
        bar.note("training", 7.0)  # of a stage whose own total was too low
        bar.done("trained")
        assert not (bar.count >= announced and bar.left)
    done, totals = zip(*shown, strict=True)
    assert done == (1, 1, 2, 2, 3, 3)
    if announced:
        assert totals == tuple(max(announced, n) for n in done)
    else:
        assert set(totals) == {0}  # not known: no bar


def test_the_live_bar_shows_names_as_written(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR", "1")
    for bar in progress._live("[/bold] title"):
        bar.done("[/bold] $\\frac$ :smile:")
    shown = capsys.readouterr().err
    assert "[/bold] title" in shown
    assert "[/bold] $\\frac$ :smile:" in shown


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("# A\n\n{% if %}", r"page.md, line 3: Expected an expression"),
        ("# A\n{{ missing }}", r"page.md, line 2: UndefinedError: 'missing' is undefined"),
        ("# A\n\n\n{{ 'a' | f }}", r"page.md, line 4: TypeError: "),
    ],
)
def test_an_error_of_a_template_names_file_and_line(template, message):
    with pytest.raises(ValueError, match=message):
        report.render(template, "page.md")


def test_ids_of_points_are_of_their_bytes_and_copies_are_numbered():
    x = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    ids = report.point_ids(x)
    assert len(set(ids.tolist())) == 4
    np.testing.assert_array_equal(report.point_ids(x[[1, 0, 2]]), ids[[1, 0, 2]])
