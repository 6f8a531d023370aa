"""The pages of docs/ and the README's example run, and print what they say."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
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
def test_a_page_runs_and_gives_what_it_says(page):
    claims = run(page)
    assert claims
    for line, obtained, expected in claims:
        assert obtained == expected, line
