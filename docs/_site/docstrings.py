"""A Griffe extension: docstrings in plain text become Markdown, comments beside fields are shown.

The docstrings of the library are written for a reader of the source. A star or an underscore in
them is a part of a formula, and never Markdown's; an indented block is code.
"""

import re
from typing import Any

import griffe

SECTION = re.compile(r"^(Args|Attributes|Raises|Returns):$")
ITEM = re.compile(r"^(    [\w, ]+( \(.*\))?:)( .*|)$")
CODE = re.compile(r"(`[^`]*`)")
MARKUP = {"*": "&#42;", "_": "&#95;", "<": "&lt;", "[": "&#91;", "$": "&#36;"}
LABEL = re.compile(r"^(Source(?=: )|Raises(?= [A-Z]\w*(?:Error|Warning)))", re.M)


class Docstrings(griffe.Extension):
    """Prepare the docstrings of each module, class and function for mkdocstrings."""

    def on_package(self, *, pkg: griffe.Module, loader: Any, **kwargs: Any) -> None:
        """Prepare the package; a function then wins over a module of its name, as in Python."""
        prepare(pkg)
        loader.resolve_aliases(implicit=True, external=False)
        for package in pkg.modules.values():
            for name in package.exports or ():
                module = package.modules.get(str(name))
                if module is not None and module.name in module.members:
                    own = module.members[module.name]
                    package.members[module.name] = griffe.Alias(own.name, own, parent=package)


def prepare(owner: Any) -> None:
    """Describe the attributes of an object and of its members, and escape the docstrings."""
    if owner.is_module:
        for constant in attributes_of(owner):
            constant.docstring = constant.docstring or comment_of(constant)
    if owner.is_class:
        list_fields(owner)
    if owner.docstring:
        owner.docstring.value = as_markdown(owner.docstring.value)
    for member in owner.members.values():
        if not member.is_alias:
            prepare(member)


def list_fields(cls: Any) -> None:
    """List the fields of a class in its docstring, in place of a heading for each."""
    rows = []
    for field in attributes_of(cls):
        if field.docstring:
            continue
        words = comment_of(field)
        if field.annotation or words:
            type_of = f" ({field.annotation})" if field.annotation else ""
            rows.append(f"    {field.name}{type_of}: {words.value if words else ''}".rstrip())
        cls.del_member(field.name)
    if rows:
        text = cls.docstring.value if cls.docstring else ""
        cls.docstring = docstring("\n".join([text, "", "Attributes:", *rows]), cls)


def attributes_of(owner: Any) -> list[Any]:
    """The public attributes that a module or a class defines itself, without properties."""
    return [
        member
        for member in list(owner.members.values())
        if not member.is_alias
        and member.is_attribute
        and member.name[0] != "_"
        and "property" not in member.labels
    ]


def comment_of(attribute: Any) -> griffe.Docstring | None:
    """The comment at the end of an attribute's line, or else on the lines above it."""
    lines = attribute.parent.module.lines_collection[attribute.filepath]
    if attribute.lineno is None:
        return None
    _, found, words = lines[attribute.endlineno - 1].partition("  # ")
    above = attribute.lineno - 2
    while not found and lines[above].startswith("# "):
        words = f"{lines[above][2:]}\n{words}"
        above -= 1
    return docstring(words.strip(), attribute) if words else None


def docstring(text: str, parent: Any) -> griffe.Docstring:
    """A docstring in Google's style."""
    return griffe.Docstring(text, parent=parent, lineno=parent.lineno, parser="google")


def as_markdown(text: str) -> str:
    """The text with its formulas escaped, save for code: between backticks, or indented."""
    lines, in_section = [], False
    for line in text.split("\n"):
        if line and not line.startswith(" "):
            in_section = SECTION.match(line) is not None
        indented = line.startswith("    ")
        lines.append(line if indented and not in_section else escaped(line, in_section))
    return LABEL.sub(r"**\1**", "\n".join(lines))


def escaped(line: str, in_section: bool) -> str:
    """A line of prose; an item of a section keeps its name and type."""
    item = ITEM.match(line) if in_section else None
    name, words = (item[1], item[3]) if item else ("", line)
    parts = CODE.split(words)
    parts[::2] = ["".join(MARKUP.get(sign, sign) for sign in part) for part in parts[::2]]
    return name + "".join(parts)
