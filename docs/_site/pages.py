"""The pages of the documentation: their code blocks, their claims and their figures."""

import ast
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
# Whole folders of figures that scripts or experiments write, and not the page that shows them.
ELSEWHERE = ("figures/experiments/", "figures/benchmarks/")


def pages() -> list[Path]:
    """Every page of docs/."""
    return sorted(DOCS.rglob("*.md"))


def blocks(page: Path, language: str = "python") -> list[str]:
    """The code blocks of a page: those that run with it, or "py", which do not."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def run(page: Path) -> list[tuple[str, Any, Any]]:
    """Execute the code blocks in order; every `# -> value` line, obtained and expected."""
    names: dict[str, Any] = {}
    return [claim for code in blocks(page) for claim in run_block(page, code, names)]


def run_block(page: Path, code: str, names: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Execute one block of a page with `names`; its `# -> value` lines, obtained and expected."""
    exec(compile(code, str(page), "exec"), names)
    return [
        (line, eval(line, names), ast.literal_eval(expected))
        for line, expected in re.findall(r"^(.*?)  # -> (.*)$", code, re.M)
    ]


def figures(page: Path) -> list[str]:
    """The files in docs/figures/ that a page shows and has to write itself."""
    links = re.findall(r"!\[[^\]]*\]\(((?:\.\./)*[^)\s]+\.png)\)", page.read_text(encoding="utf-8"))
    paths = [re.sub(r"^(\.\./)*(docs/)?", "", link) for link in links]
    return [path.removeprefix("figures/") for path in paths if not path.startswith(ELSEWHERE)]
