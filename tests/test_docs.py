"""The pages of docs/ and the README run and give the values that they state; links resolve."""

import importlib
import re
import runpy
import shutil
import subprocess
import sys
from functools import reduce
from importlib.util import find_spec
from pathlib import Path

import pytest

from docs._site.pages import blocks, figures, pages, run

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
OTHERS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "experiments/README.md",
    "benchmarks/README.md",
)
TEXTS = [*pages(), *(ROOT / name for name in OTHERS)]
# The pages on extending have tests of their own, of what each block defines.
PAGES = [
    page
    for page in [*pages(), ROOT / "README.md"]
    if blocks(page) and page.parent.name != "extending"
]
PUBLIC = (ROOT / "tests" / "public.txt").read_text(encoding="utf-8").split()


def name_of(page):
    return page.relative_to(DOCS).as_posix() if page.is_relative_to(DOCS) else page.name


@pytest.fixture(autouse=True)
def small_figures(monkeypatch):
    """Figures of few pixels, without a layout, which draws a figure twice more."""
    from matplotlib.figure import Figure

    save = Figure.savefig

    def savefig(figure, *args, **kwargs):
        figure.set_layout_engine("none")
        figure.set_size_inches(figure.get_size_inches() / 3)
        save(figure, *args, **{**kwargs, "dpi": 30})

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_runs_and_gives_what_it_says(page, tmp_path, monkeypatch):
    """It also writes each figure that it shows."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    claims = run(page)
    assert claims
    for line, obtained, expected in claims:
        assert obtained == expected, line
    if page.is_relative_to(DOCS):
        assert [name for name in figures(page) if not (tmp_path / name).exists()] == []


def test_a_page_without_code_shows_figures_of_other_pages():
    written = {name for page in PAGES for name in figures(page) if page.is_relative_to(DOCS)}
    for page in pages():
        assert page in PAGES or set(figures(page)) <= written, page


def test_every_public_name_is_on_one_page_of_the_reference():
    """A page shows what its package exports, or the modules and names that it lists by themselves."""
    packages = {name.partition(".")[0] for name in PUBLIC}
    shown = [
        path
        for page in pages()
        for path in re.findall(r"^::: (lvm_jax\.[\w.]+)$", page.read_text(encoding="utf-8"), re.M)
    ]
    assert len(shown) == len(set(shown))
    assert {path for path in shown if path.count(".") == 1} == {f"lvm_jax.{p}" for p in packages}
    for package in packages:
        assert f"::: lvm_jax.{package}\n" in (DOCS / "api" / f"{package}.md").read_text("utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built so that a warning fails."""
    if find_spec("mkdocs_autorefs") is None:
        pytest.skip("the docs extra is not installed")
    out = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(out),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    yield out
    shutil.rmtree(out)


def test_the_site_is_built_with_every_public_name_and_nothing_from_elsewhere(site):
    reference = {
        page.stem: page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html")
    }
    for name in PUBLIC:
        pages_of = [page for page, html in reference.items() if f'id="lvm_jax.{name}"' in html]
        assert pages_of == [name.partition(".")[0]], name
    for page in site.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|link|img)[^>]* (?:src|href)="https?:[^"]*"', html) == [], (
            page
        )
        assert 'class="arithmatex">\\' not in html, page


def test_an_index_page_has_no_link_that_only_works_in_the_repository():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    index_page = runpy.run_path(str(ROOT / "setup.py"))["index_page"]
    prose = re.sub(r"```.*?```", "", index_page(text), flags=re.S)
    assert [
        link for link in re.findall(r"\]\(([^)]+)\)", prose) if not link.startswith("https:")
    ] == []
    shown = index_page("![a](b.png)\n\n[c](d.md#e), [f](https://g.org) and `h[0](1)`\n")
    assert shown == "c, [f](https://g.org) and `h[0](1)`\n"


def anchors(page):
    """What GitHub makes of the headings of a page."""
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    headings = re.findall(r"^#+ (.*)$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in headings}


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_goes_to_a_file_and_a_heading(page):
    """Those within the repository: nothing is looked up elsewhere."""
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


def test_the_table_of_equations_names_what_exists():
    """All equations (1) to (12), each with functions that exist and experiments that can be run."""
    text = (DOCS / "equations.md").read_text(encoding="utf-8")
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if "| `" in line]
    assert len(rows) > 10
    numbers = {int(n) for row in rows for n in re.findall(r"\((\d+)\)", row[0])}
    assert numbers == set(range(1, 13))
    for _, functions, experiments in rows:
        for name in re.findall(r"`([^`]+)`", functions):
            package, *path = name.split(".")
            reduce(getattr, path, importlib.import_module(f"lvm_jax.{package}"))
        for name in re.findall(r"`([^`]+)`", experiments):
            assert list((ROOT / "experiments").glob(f"{name}*")), name
