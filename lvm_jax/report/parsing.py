"""Parse the command line of an experiment into its Config, by tyro; for runs and sweeps.

tyro checks a default of type tuple[...] or X | None with typeguard, whose import is slow. To avoid
it, tuples have their own converter, and X | None is passed as Union[X, None].
"""

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from lvm_jax._core import extras
from lvm_jax.report.options import WORDS, Options, described, hints


@dataclass(frozen=True)
class Runner:
    """The options of every experiment besides its Config."""

    out: Path | None = None
    """Folder of the run; by default runs/<name>-<time>. An unfinished run there is resumed."""
    overwrite: bool = False
    """Replace an earlier run in --out."""
    x64: bool = False
    """Compute in float64."""


def parse(
    config: type[Options], program: str, description: str, arguments: Sequence[str]
) -> tuple[Options, Runner]:
    """Parse a command line; ranges are not checked.

    Exits the process with code 2, and prints the nearest option, for an unknown option; with 0
    after --help.
    """
    with extras.needed("experiments"):
        import tyro

    columns: list[tuple[str, Any, Any]] = []
    for part in (config, Runner):
        texts, annotations = described(part), hints(part)
        for one in fields(part):
            arg = tyro.conf.arg(help=texts.get(one.name, ""))
            hint: Any = Annotated[_for_tyro(annotations[one.name]), arg]
            default = getattr(config, one.name, one.default)  # a Config may set x64
            columns.append((one.name, hint, field(default=default)))
    form = make_dataclass("Config", columns, frozen=True)
    given: Any = tyro.cli(form, args=list(arguments), prog=program, description=description)

    def chosen(part: type) -> dict[str, Any]:
        return {one.name: getattr(given, one.name) for one in fields(part)}

    return config(**chosen(config)), Runner(**chosen(Runner))


def value_of(hint: Any, text: str) -> Any:
    """An option's value from its text, with spaces in a tuple; ValueError for an invalid text."""
    kind, inner = _plain(hint), get_args(_plain(hint))
    if get_origin(kind) in (Union, types.UnionType):
        value = next(one for one in inner if one is not type(None))
        return None if text == "None" else value_of(value, text)
    if get_origin(kind) is tuple:
        return values_of(inner[0], text.split())
    try:
        return _converter(kind)(text)
    except ValueError as error:
        raise ValueError(f"expected {WORDS.get(kind, kind.__name__)}, got {text!r}") from error


def values_of(hint: Any, words: Sequence[str]) -> tuple[Any, ...]:
    """A tuple from its words; the word None is the empty tuple."""
    if list(words) == ["None"]:
        return ()
    if not words:
        raise ValueError("expected values separated by spaces, got nothing; None is an empty list")
    for word in words:
        if "," in word and _plain(hint) not in (str, Path):
            parts = " ".join(word.replace(",", " ").split())
            raise ValueError(f"values are separated by spaces: {parts}, got {word!r}")
    return tuple(value_of(hint, word) for word in words)


def as_arguments(name: str, value: Any) -> list[str]:
    """An option on the command line: --num-samples 1 4; --hidden None; --x64 or --no-x64."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{option}"]
    values = (value or (None,)) if isinstance(value, tuple) else (value,)
    return [f"--{option}", *map(str, values)]


def _for_tyro(hint: Any) -> Any:
    """An annotation for which tyro does not import typeguard."""
    kind = _plain(hint)
    parts = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    tuples = [one for one in parts if get_origin(one) is tuple]
    if tuples:
        return _tuple(_plain(get_args(tuples[0])[0]), type(None) in parts)
    return Union[parts]  # noqa: UP007


def _tuple(inner: Any, optional: bool) -> Any:
    """An annotation of a tuple, or None, with its own converter."""
    import tyro

    choices = get_args(inner) if get_origin(inner) is Literal else ()
    word = f"{{{','.join(map(str, choices))}}}" if choices else inner.__name__.upper()

    def read(words: Sequence[str]) -> tuple[Any, ...] | None:
        return values_of(inner, words) or (None if optional else ())

    return Annotated[
        object,  # with another type tyro would derive tuple[...] from the default
        tyro.constructors.PrimitiveConstructorSpec(
            nargs="*",
            metavar=f"[{word} [{word} ...]]",
            instance_from_str=read,
            is_instance=lambda value: isinstance(value, tuple) or value is None,
            str_from_instance=lambda value: list(map(str, value)) if value else ["None"],
        ),
    ]


def _plain(hint: Any) -> Any:
    """An annotation without its range."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _converter(kind: Any) -> Callable[[str], Any]:
    """The function from text to a value of a plain type or a Literal."""
    if get_origin(kind) is Literal:
        by_text = {str(choice): choice for choice in get_args(kind)}
        return lambda text: by_text.get(text, text)
    if kind is bool:
        return lambda text: bool(("False", "True").index(text))
    return kind
