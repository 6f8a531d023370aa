"""A report as one HTML file that needs nothing else: figures, equations and tables inside it.

A report is a list of sections, a section a list of blocks. Text is escaped; pictures are PNG in
base64; equations are typeset by matplotlib into SVG, so they read the same without a network.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, NamedTuple

from lvm_jax import extras


class Fact(NamedTuple):
    """A number for the head of the page, as a person would write it, and what it is."""

    value: str
    name: str


@dataclass(frozen=True)
class Text:
    """A paragraph; kind "note" sets it apart as something to mind, "code" as something to type."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Equation:
    """A formula in the TeX that matplotlib's mathtext reads, without the dollar signs."""

    tex: str
    kind: str = "equation"

    @property
    def svg(self) -> str:
        """The formula as an image that can stand in a page."""
        with extras.needed("report"):
            from matplotlib import rc_context
            from matplotlib.font_manager import FontProperties
            from matplotlib.mathtext import math_to_image

        buffer = io.BytesIO()
        with rc_context({"mathtext.fontset": "stix", "svg.fonttype": "path"}):
            math_to_image(f"${self.tex}$", buffer, prop=FontProperties(size=15), format="svg")
        return _data_uri(buffer.getvalue(), "image/svg+xml")


@dataclass(frozen=True)
class Picture:
    """A PNG image with what to look at in it. Its number is given when the report is rendered."""

    png: bytes
    caption: str
    number: int = 0
    kind: str = "picture"

    @property
    def source(self) -> str:
        """The image as a data URI."""
        return _data_uri(self.png, "image/png")


@dataclass(frozen=True)
class Table:
    """Rows of cells that are already text; `marked` rows stand out; `is_text` aligns left."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    marked: Sequence[int] = ()
    is_text: bool = False
    kind: str = "table"


Block = Text | Equation | Picture | Table


class Section(NamedTuple):
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


def mapping_table(values: Mapping[str, Any], caption: str = "") -> Table:
    """A configuration or provenance as a two-column table; nested mappings become a.b rows."""
    return Table((), [(name, str(value)) for name, value in _flat(values)], caption, is_text=True)


def render(
    title: str, lead: str, facts: Sequence[Fact], sections: Sequence[Section], footer: str = ""
) -> str:
    """The whole page as HTML text, pictures numbered from 1 in the order they stand."""
    with extras.needed("report"):
        from jinja2 import Environment, StrictUndefined

    template = resources.files("lvm_jax").joinpath("report.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template).render(
        title=title, lead=lead, facts=facts, sections=_number(sections), footer=footer
    )


def _number(sections: Sequence[Section]) -> list[Section]:
    count = 0
    numbered = []
    for section in sections:
        blocks: list[Block] = []
        for block in section.blocks:
            if isinstance(block, Picture):
                count += 1
                block = replace(block, number=count)
            blocks.append(block)
        numbered.append(Section(section.title, blocks))
    return numbered


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, value))
    return rows


def _data_uri(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
