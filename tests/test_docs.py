"""The pages of docs/ and the README's example run, and print what they say; all links resolve."""

import ast
import importlib
import re
import runpy
from functools import reduce
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
OTHERS = ("CONTRIBUTING.md", "CHANGELOG.md", "experiments/README.md", "benchmarks/README.md")
OF_EXPERIMENTS = sorted((ROOT / "docs" / "experiments").glob("*.md"))
TEXTS = [*PAGES, *(ROOT / name for name in OTHERS), *OF_EXPERIMENTS]
PAGES = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]


def run(page):
    """Execute the code blocks in order; every `# -> value` line, obtained and expected."""
    names, claims = {}, []
    for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        exec(compile(code, str(page), "exec"), names)
        for line, expected in re.findall(r"^(.*?)  # -> (.*)$", code, re.M):
            claims.append((line, eval(line, names), ast.literal_eval(expected)))
    return claims


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_and_gives_what_it_says(page, compile_quickly, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    claims = run(page)
    assert claims
    for line, obtained, expected in claims:
        assert obtained == expected, line


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


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_link_goes_to_a_file_and_a_heading(page):
    """Those within the repository: nothing is looked up elsewhere."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


def test_the_table_of_the_lecture_names_what_exists():
    """All equations (1) to (12), each with functions that exist and experiments that can be run."""
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if "| `" in line]
    assert len(rows) > 10
    numbers = {int(n) for row in rows for n in re.findall(r"\((\d+)\)", row[0])}
    assert numbers == set(range(1, 13))
    for _, functions, experiments in rows:
        for name in re.findall(r"`([^`]+)`", functions):
            room, *path = name.split(".")
            reduce(getattr, path, importlib.import_module(f"lvm_jax.{room}"))
        for name in re.findall(r"`([^`]+)`", experiments):
            assert list((ROOT / "experiments").glob(f"{name}*")), name
