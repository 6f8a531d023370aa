"""The pages of docs/extending/, executed: what they define, and what they claim of it."""

import ast
import functools
import re
from pathlib import Path

import jax

FOLDER = Path(__file__).parent.parent / "docs" / "extending"
# The blocks of the experiment are files of a folder: tests/test_report_run.py runs it.
PAGES = sorted(
    path.stem for path in FOLDER.glob("*.md") if path.stem not in ("index", "experiment")
)


def text_of(page):
    return (FOLDER / f"{page}.md").read_text(encoding="utf-8")


def blocks_of(page):
    return re.findall(r"```python\n(.*?)```", text_of(page), re.S)


@functools.cache
def run(page):
    """The names that the blocks define, in order; and of each `# -> value` line what it gives."""
    names, claims = {"__name__": page}, []
    with jax.numpy_rank_promotion("raise"):
        for code in blocks_of(page):
            exec(compile(code, f"{page}.md", "exec"), names)
            for line, expected in re.findall(r"^(.*?)  # -> (.*)$", code, re.M):
                claims.append((line, eval(line, names), ast.literal_eval(expected)))
    return names, claims


def names_of(page):
    return run(page)[0]
