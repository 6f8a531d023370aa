"""Render a Markdown template as one self-contained HTML page with figures and equations.

The template is Jinja over Markdown. `$...$` and `$$...$$` are formulas, which matplotlib typesets.
Values are escaped: a name with `*` or `<` appears as it is.
"""

import base64
import html
import io
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lvm_jax._core import extras

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMULA = re.compile(
    r"\$\$(.+?)\$\$|(?<![\\$\w])\$([^\s$](?:[^$\n]*[^\s$\\])?)\$(?![\w$])", re.DOTALL
)
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
SPECIAL = re.compile(r"[\\`*_{}\[\]<>|$#&~]")
ESCAPED = re.compile(r"&#((?!96;)\d+);")  # except a backtick, which would end the code
MISSING = "–"  # shown for a missing number


class Table(NamedTuple):
    """Rows of cells, texts or numbers; `marked` rows are highlighted; `is_text` aligns left."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    marked: Sequence[int] = ()
    is_text: bool = False


@contextmanager
def _named_errors(file: str) -> Iterator[None]:
    """Convert errors of a template into ValueError with its file and line."""
    from jinja2 import TemplateSyntaxError

    try:
        yield
    except TemplateSyntaxError as error:
        raise ValueError(f"{file}, line {error.lineno}: {error.message}") from error
    except OSError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == "<template>"]
        at = f", line {lines[-1]}" if lines else ""
        raise ValueError(f"{file}{at}: {type(error).__name__}: {error}") from error


def render(template: str, file: str = "template", **context: Any) -> str:
    """Render a Markdown template as HTML; see `Page`."""
    return Page().render(template, file, **context)


def escape_markdown(value: Any) -> Any:
    """Escape a value of a template for Markdown; HTML from a function is not escaped."""
    from markupsafe import Markup

    if hasattr(value, "__html__"):
        return value
    return Markup(SPECIAL.sub(lambda found: f"&#{ord(found[0])};", str(value)))


class Page:
    """A page, and the functions for its template: facts, figure, table, settings.

    `draw` returns the PNG of a named figure; `headline` has the facts of the rendered page.
    """

    def __init__(self, draw: Callable[..., bytes] | None = None) -> None:
        self.headline: list[tuple[str, str]] = []
        self._draw = draw
        self._count = 0  # number of figures so far

    def render(self, template: str, file: str = "template", **context: Any) -> str:
        """Render a Markdown template as HTML; its first heading is the title.

        Raises ValueError with the line of `file` that has an error.
        """
        with extras.needed("report"):
            from jinja2 import Environment, StrictUndefined
            from markdown_it import MarkdownIt
            from markupsafe import Markup

        environment = Environment(
            autoescape=True, finalize=escape_markdown, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        environment.filters.update(FILTERS)
        own = {name: getattr(self, name) for name in ("facts", "figure", "settings", "table")}
        with _named_errors(file):
            words = environment.from_string(template).render(**own, np=np, **context)
        markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
        markdown.add_render_rule("table_open", lambda *_: '<div class="wide"><table>')
        markdown.add_render_rule("table_close", lambda *_: "</table></div>")
        body = markdown.render(typeset(words))
        title = re.search(r"<h1>(.*?)</h1>", body, re.DOTALL)
        name = Markup(re.sub(r"<[^>]+>", "", title[1])) if title else "Report"
        frame = resources.files("lvm_jax.report").joinpath("page.html").read_text(encoding="utf-8")
        return Environment(autoescape=True).from_string(frame).render(title=name, body=Markup(body))

    def facts(self, rows: Sequence[tuple[str, str]]) -> Any:
        """The main numbers, (value, description), for the top of the page."""
        self.headline += [(str(value), str(name)) for value, name in rows]
        cells = (
            f'<div class="fact"><b>{_escape(value)}</b><span>{_escape(name)}</span></div>'
            for value, name in rows
        )
        return _block(f'<div class="facts">{"".join(cells)}</div>')

    def figure(self, drawn: "str | bytes | Figure", caption: str, *args: Any) -> Any:
        """A figure with its number and caption: a PNG file, a figure, or `draw(name, *args)`."""
        from lvm_jax import plotting

        self._count += 1
        if isinstance(drawn, str):
            if self._draw is None:
                raise ValueError(f"figure: expected bytes or a figure, got the name {drawn!r}")
            drawn = self._draw(drawn, *args)
        png = drawn if isinstance(drawn, bytes) else plotting.png(drawn)
        image = f'<img src="{_data_uri(png, "image/png")}" alt="{_escape(caption)}">'
        words = f"<figcaption><b>Figure {self._count}.</b> {_escape(caption)}</figcaption>"
        return _block(f"<figure>{image}{words}</figure>")

    def table(
        self,
        header: Sequence[str] | Table,
        rows: Sequence[Sequence[Any]] = (),
        caption: str = "",
        marked: Sequence[int] = (),
        is_text: bool = False,
    ) -> Any:
        """A table, from a `Table` or its fields."""
        if isinstance(header, Table):
            header, rows, marked, is_text = header
        head = "".join(f"<th>{_escape(cell)}</th>" for cell in header)
        lines = []
        for place, row in enumerate(rows):
            kind = ' class="marked"' if place in marked else ""
            lines.append(f"<tr{kind}>{''.join(f'<td>{_escape(cell)}</td>' for cell in row)}</tr>")
        words = f"<caption>{_escape(caption)}</caption>" if caption else ""
        top = f"<thead><tr>{head}</tr></thead>" if head else ""
        kind = ' class="text"' if is_text else ""
        inside = f"{words}{top}<tbody>{''.join(lines)}</tbody>"
        return _block(f'<div class="wide"><table{kind}>{inside}</table></div>')

    def settings(self, values: Mapping[str, Any], caption: str = "") -> Any:
        """A configuration or provenance as a table of names and values; nested names are a.b."""
        return self.table((), list(flat(values)), caption, is_text=True)


def flat(values: Mapping[str, Any], prefix: str = "") -> Sequence[tuple[str, Any]]:
    """Nested mappings as pairs of a dotted name and a value."""
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows


def number(value: Any, form: str = ".3g") -> str:
    """A number in Python's format specification; a dash for NaN and None."""
    if value is None or not np.isfinite(value):
        return MISSING if value is None or np.isnan(value) else f"{value:{form}}"
    plain = int(value) if np.asarray(value).dtype.kind in "biu" else float(value)
    return format(plain, form).replace("-", "−")


def with_error(value: Any, error: Any, form: str = ".3f") -> str:
    """A number and its standard error: -89.91 ± 0.05."""
    return f"{number(value, form)} ± {number(error, form.lstrip('+'))}"


def digits(value: float, error: float, sign: str = "") -> str:
    """A number ± its standard error, with two digits of the error."""
    if not np.isfinite(error):
        return number(value, f"{sign}.6g")
    if error == 0:
        return with_error(value, error, f"{sign}.6g")
    places = int(np.clip(1 - np.floor(np.log10(error)), 0, 12))
    return with_error(value, error, f"{sign}.{places}f")


def listed(values: Sequence[Any]) -> str:
    """Values as an enumeration: 1, 2 and 3."""
    words = [str(value) for value in values]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


FILTERS = {"f": number, "pm": with_error, "listed": listed}


def typeset(words: str) -> str:
    """Replace formulas in Markdown by images, and unescape values inside code."""
    parts = CODE.split(words)
    parts[::2] = [FORMULA.sub(_formula, part) for part in parts[::2]]
    parts[1::2] = [ESCAPED.sub(lambda found: chr(int(found[1])), part) for part in parts[1::2]]
    return "".join(parts)


def _formula(found: re.Match[str]) -> str:
    block = found[1] is not None
    tex = " ".join((found[1] or found[2]).split())
    image, depth = equation(tex, 15 if block else 13)
    if block:
        return f'\n\n<figure class="equation"><img src="{image}" alt="{_escape(tex)}"></figure>\n\n'
    shift = f"vertical-align:-{depth:.1f}pt"
    return f'<img class="formula" style="{shift}" src="{image}" alt="{_escape(tex)}">'


def equation(tex: str, size: float = 15) -> tuple[str, float]:
    """A formula in matplotlib's mathtext as an SVG data URI, and its depth in points.

    Raises ValueError, with the formula, for TeX that mathtext does not support.
    """
    with extras.needed("report"):
        from matplotlib import rc_context
        from matplotlib.font_manager import FontProperties
        from matplotlib.mathtext import math_to_image

    buffer = io.BytesIO()
    with rc_context(
        {"mathtext.fontset": "stix", "svg.fonttype": "path", "savefig.transparent": True}
    ):
        try:
            depth = math_to_image(f"${tex}$", buffer, prop=FontProperties(size=size), format="svg")
        except ValueError as error:
            raise ValueError(
                f"formula ${tex}$: expected TeX that matplotlib's mathtext supports, a subset of "
                f"LaTeX, such as \\frac for \\tfrac; {str(error).splitlines()[-1]}"
            ) from None
    return _data_uri(buffer.getvalue(), "image/svg+xml"), float(depth)


def _escape(value: Any) -> str:
    """Escape text for HTML inside Markdown, including line breaks and `$`."""
    if hasattr(value, "__html__"):
        return str(value)
    words = html.escape(number(value) if isinstance(value, float) else str(value))
    return words.replace("$", "&#36;").replace("\n", "&#10;").replace("`", "&#96;")


def _block(text: str) -> Any:
    from markupsafe import Markup

    return Markup(f"\n\n{text}\n\n")


def _data_uri(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
