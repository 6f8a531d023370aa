import base64
import re
from html.parser import HTMLParser
from types import MappingProxyType
from xml.etree import ElementTree

import pytest

from lvm_jax.report import Equation, Fact, Picture, Section, Table, Text, mapping_table, render

LOADING = {"src", "href", "srcset", "data", "action", "poster", "background"}
NASTY = """<script>alert("it's & <b>bold</b>")</script>"""


class Page(HTMLParser):
    """The tags of a page with their attributes, and the text inside each kind of tag."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # every element is closed, in order

    def handle_data(self, data):
        self.texts.append((tuple(self.open), data))

    def text(self, tag):
        return [data for path, data in self.texts if path[-1:] == (tag,)]

    def attributes(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def page(*blocks, **options):
    head = {"title": "Report", "lead": "lead", "facts": [], "footer": ""} | options
    return Page(render(sections=[Section("First", blocks)], **head))


def everything(text="words"):
    """A page with every kind of block, and this text wherever a text can stand."""
    blocks = [
        *(Text(text, kind) for kind in ("text", "note", "code")),
        Equation(r"\sum_k \pi_k < 1"),
        Picture(b"\x89PNG", text),
        Table((text,), [(text,)], text),
        mapping_table({text: text}),
    ]
    sections = [Section(text, blocks)]
    return render(text, text, [Fact(text, text)], sections, footer=text)


def test_a_page_needs_nothing_but_itself():
    html = everything()
    tags = Page(html).tags
    assert Page(html).open == []
    loaded = [value for _, attrs in tags for name, value in attrs.items() if name in LOADING]
    assert len(loaded) == 2  # the equation and the picture
    assert all(value.startswith("data:image/") for value in loaded)
    assert {"script", "link", "iframe", "object", "base"}.isdisjoint(name for name, _ in tags)
    assert re.findall(r"https?://|url\(|@import", html) == []


def test_text_is_shown_as_written_and_never_run():
    html = everything(NASTY)
    parsed = Page(html)
    assert "<script" not in html.lower()
    assert [name for name, _ in parsed.tags] == [name for name, _ in Page(everything()).tags]
    places = {path[-1] for path, data in parsed.texts if NASTY in data}
    assert places == {"title", "h1", "h2", "p", "b", "span", "pre", "figcaption", "caption"} | {
        "th", "td", "footer"
    }  # fmt: skip
    alts = [attrs["alt"] for attrs in parsed.attributes("img")]
    assert alts == [r"\sum_k \pi_k < 1", NASTY]


def test_every_text_stands_in_its_own_element():
    facts = [Fact("-4.155", "nats per point"), Fact("2", "components")]
    blocks = [Text("plain"), Text("mind this", "note"), Text("make run", "code")]
    parsed = page(*blocks, title="T", lead="L", facts=facts, footer="F")
    assert parsed.text("title") == parsed.text("h1") == ["T"]
    assert parsed.text("h2") == ["First"]
    assert parsed.text("b") == ["-4.155", "2"]
    assert parsed.text("span") == ["nats per point", "components"]
    assert parsed.text("p") == ["L", "plain", "mind this"]
    assert [a.get("class") for a in parsed.attributes("p")] == ["lead", None, "note"]
    assert parsed.text("pre") == ["make run"]
    assert parsed.text("footer") == ["F"]


def test_figures_are_numbered_in_the_order_they_stand():
    first = Section("A", [Picture(b"1", "one"), Text("between"), Picture(b"2", "two")])
    second = Section("B", [Equation("x"), Picture(b"3", "three")])
    parsed = Page(render("T", "L", [], [first, second]))
    assert parsed.text("b") == ["Figure 1.", "Figure 2.", "Figure 3."]
    assert parsed.text("figcaption") == [" one", " two", " three"]
    prefix = "data:image/png;base64,"
    images = [a["src"] for a in parsed.attributes("img") if a["src"].startswith(prefix)]
    assert [base64.b64decode(i.removeprefix(prefix)) for i in images] == [b"1", b"2", b"3"]


def test_tables_mark_rows_and_keep_every_cell():
    rows = [("1", "-5.0"), ("2", "-4.1"), ("3", "-4.0")]
    parsed = page(Table(("K", "BIC"), rows, "Criteria", marked=[1]))
    assert parsed.text("th") == ["K", "BIC"]
    assert parsed.text("td") == [cell for row in rows for cell in row]
    assert parsed.text("caption") == ["Criteria"]
    assert [a.get("class") for a in parsed.attributes("tr")] == [None, None, "marked", None]
    assert parsed.attributes("table") == [{}]


def test_a_mapping_becomes_rows_of_dotted_names():
    values = {
        "seed": 0,
        "fit": {"K": 3, "prior": {"a": None}},
        "columns": ("x", "y"),
        "out": MappingProxyType({"b": 1}),
    }
    table = mapping_table(values, "Options")
    assert table.rows == [
        ("seed", "0"),
        ("fit.K", "3"),
        ("fit.prior.a", "None"),
        ("columns", "('x', 'y')"),
        ("out.b", "1"),
    ]
    parsed = page(table)
    assert parsed.attributes("table") == [{"class": "text"}]
    assert parsed.attributes("th") == []
    assert parsed.text("caption") == ["Options"]


def drawing(tex):
    head, content = Equation(tex).svg.split(",", 1)
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


def test_equations_are_in_stix_and_the_same_at_every_drawing():
    first, second = ([e.attrib for e in drawing(r"\sum_k x").iter()] for _ in range(2))
    assert first == second  # names of glyphs are no random numbers
    glyphs = [e.get("id", "") for e in drawing("x").iter() if e.tag.endswith("path")]
    assert any("STIX" in name for name in glyphs)


def test_equations_draw_one_glyph_for_each_letter():
    use = ".//{http://www.w3.org/2000/svg}use"
    assert [len(drawing(tex).findall(use)) for tex in ("x", "x+y", r"\pi_k + \mu_k")] == [1, 3, 5]


def test_equations_that_cannot_be_read_are_refused():
    with pytest.raises(ValueError, match="(?s)frac.*Expected"):
        _ = Equation(r"\frac{1}").svg
