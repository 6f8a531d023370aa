"""Hooks of MkDocs: formulas as MathML, folders in the navigation, pages from outside of docs/."""

import posixpath
import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
# Pages of the repository that the site shows too, and where.
OUTSIDE = {
    "benchmarks/README.md": "benchmarks_method.md",
    "experiments/README.md": "experiments/running.md",
    "CONTRIBUTING.md": "extending/contributing.md",
    "CHANGELOG.md": "changelog.md",
}
INSIDE = {page: source for source, page in OUTSIDE.items()}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)
NUMBER = re.compile(r"\\tag\{(\w+)\}")
NAMED = re.compile(r"<mi>[a-z]{2,}</mi>(?=<m(?:i|n|sub|sup|frac|row)>)")  # log p, not log(p)
INFINITY = re.compile(r"<mo>(&#x0221E;)</mo>")
SIGN = re.compile(r"(<mrow>|<mo[^>]*>(?:\[|\(|=|&#x0002C;|&#x0003D;)</mo>)<mo>(?=&#x02212;)")
LIST = r'<p><span class="doc-section-title">{}:</span></p>\s*<ul>.*?</ul>'
SUMMARY = re.compile(f"({LIST.format('Classes')})(\\s*)({LIST.format('Functions')})", re.S)
AXIS = re.compile(r"&#39; (?=[\w*.]+&#39;)")
EMPTY = re.compile(r'–\s*<div class="doc-md-description">\s*</div>')
LINK = re.compile(r"\]\(([^)\s:#]+\.md)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Replace each folder of the navigation by its pages."""
    config["nav"] = [expanded(item) for item in config["nav"]]
    return config


def expanded(item: Any) -> Any:
    """A section of the navigation whose folder is replaced by its pages, the index first."""
    if not isinstance(item, dict):
        return item
    ((title, content),) = item.items()
    if not (isinstance(content, str) and content.endswith("/")):
        return item
    pages = {page.name for page in (ROOT / "docs" / content).glob("*.md")}
    pages |= {Path(page).name for page in INSIDE if page.startswith(content)}
    names = sorted(pages, key=lambda name: (name != "index.md", name))
    index = [content.rstrip("/") + ".md"] if (ROOT / "docs" / f"{content[:-1]}.md").exists() else []
    return {title: index + [titled(content + name) for name in names]}


def titled(page: str) -> Any:
    """The page; one from outside of docs/ with a title that its file's name gives."""
    if page not in INSIDE:
        return page
    return {Path(page).stem.replace("_", " ").capitalize(): page}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside of docs/."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links between the repository's files go to the pages of the site."""
    source = INSIDE.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    folder, here = posixpath.dirname(source), posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        on_site = OUTSIDE.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(on_site, here or '.')}{match[2] or ''})"

    return LINK.sub(moved, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Convert each formula into MathML, which browsers show without a script or a download.

    In the reference drop the blank that a single axis needs in Python, " S", and the dash
    after a field that has no description, and list the functions of a package before its classes.
    """
    html = SUMMARY.sub(r"\3\2\1", html)
    return EMPTY.sub("", AXIS.sub("&#39;", FORMULA.sub(as_mathml, html)))


def as_mathml(match: re.Match[str]) -> str:
    """The element of one formula."""
    tag, bracket, latex = match.groups()
    display = "block" if bracket == "[" else "inline"
    number = NUMBER.search(latex)
    math = convert(unescape(NUMBER.sub("", latex)).strip(), display=display)
    math = math.replace("<mi>;</mi>", '<mo separator="true">;</mo>')
    math = math.replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")  # distributed as
    math = SIGN.sub(r'\1<mo form="prefix">', INFINITY.sub(r"<mi>\1</mi>", math))  # [-inf, inf]
    math = NAMED.sub(r'\g<0><mspace width="0.17em"/>', math)
    right = f'<span class="number">({number[1]})</span>' if number else ""
    return f'<{tag} class="arithmatex">{math}{right}</{tag}>'
