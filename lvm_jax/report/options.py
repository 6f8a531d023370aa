"""Options of an experiment: a frozen dataclass whose annotations have ranges and choices.

    @dataclass(frozen=True)
    class Config(Options):
        num_samples: Annotated[int, at_least(1)] = 100
        \"\"\"Draws of z for each x.\"\"\"
        guide: Literal["mean_field", "full_rank"] = "mean_field"
        \"\"\"Family of q.\"\"\"

The module imports no third-party package, so that `--help` is quick.
"""

import ast
import dataclasses
import inspect
import math
import textwrap
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from lvm_jax._core.nearest import suggestion

WORDS = {int: "an integer", float: "a finite number", bool: "True or False", str: "a text"}


@dataclass(frozen=True)
class Range:
    """The valid numbers of an option, from `low` to `high`, each end closed or open."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        low = f"{'above' if self.open_low else 'at least'} {self.low:g}"
        high = f"{'below' if self.open_high else 'at most'} {self.high:g}"
        parts = [(low, self.low), (high, self.high)]
        return " and ".join(words for words, end in parts if math.isfinite(end)) or "finite"


def at_least(low: float) -> Range:
    """Numbers >= `low`."""
    return Range(low)


def above(low: float) -> Range:
    """Numbers > `low`."""
    return Range(low, open_low=True)


def between(low: float, high: float) -> Range:
    """Numbers in [low, high]."""
    return Range(low, high)


def inside(low: float, high: float) -> Range:
    """Numbers in (low, high)."""
    return Range(low, high, open_low=True, open_high=True)


@dataclass(frozen=True)
class Options:
    """The base class of every experiment's Config."""

    extendable: ClassVar[tuple[str, ...]] = ()  # a finished run resumes if only these differ
    growing: ClassVar[tuple[str, ...]] = ()  # or if these numbers are larger
    x64: ClassVar[bool] = False  # the default of the command line's --x64

    seed: Annotated[int, at_least(0)] = 0
    """Seed of every random number."""

    def check(self) -> None:
        """Raise ValueError for an invalid option; a subclass adds conditions between options."""
        for name, hint in hints(type(self)).items():
            check(name, getattr(self, name), hint)

    def check_rising(self, *names: str) -> None:
        """Raise ValueError for the first of these tuples that is empty or not increasing."""
        for name in names:
            values = getattr(self, name)
            if not values or list(values) != sorted(set(values)):
                raise ValueError(f"{name}: expected rising numbers, as 1 4 16, got {values}")


def hints(config: type) -> dict[str, Any]:
    """The annotations of the fields of a dataclass, in their order."""
    found = get_type_hints(config, include_extras=True)
    return {field.name: found[field.name] for field in dataclasses.fields(config)}


def check(name: str, value: Any, hint: Any, limits: Range | None = None) -> None:
    """Raise ValueError unless a value has the type, choice and range of its annotation."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = next((extra for extra in inner[1:] if isinstance(extra, Range)), None)
        check(name, value, inner[0], limits)
    elif origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return
        if value == ():
            raise ValueError(f"{name}: expected at least one value, or None, got none")
        check(name, value, next(one for one in inner if one is not type(None)), limits)
    elif origin is tuple:
        if not isinstance(value, tuple):
            raise ValueError(f"{name}: expected a tuple, got {value!r}")
        if inner[-1] is not Ellipsis and len(value) != len(inner):
            raise ValueError(f"{name}: expected {len(inner)} values, got {value!r}")
        for one in value:
            check(name, one, inner[0], limits)
    elif origin is Literal:
        _check_choice(name, value, inner)
    else:
        _check_plain(name, value, hint, limits)


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value in choices:
        return
    hint = suggestion(str(value), map(str, choices))
    raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}{hint}")


def _check_plain(name: str, value: Any, kind: type, limits: Range | None) -> None:
    taken = {float: (int, float), Path: (str, Path)}.get(kind, kind)
    wrong = not isinstance(value, taken) or (isinstance(value, bool) and kind is not bool)
    if wrong or (kind in (int, float) and value not in (limits or Range())):
        expected = WORDS.get(kind, f"a {kind.__name__}")
        if limits is not None:
            expected += f" that is {limits}"
        raise ValueError(f"{name}: expected {expected}, got {value!r}")


def described(config: type) -> dict[str, str]:
    """The help text of each option: the docstring below its field, and its range."""
    texts: dict[str, str] = {}
    for base in reversed(config.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        for field, text in zip(body.body, body.body[1:], strict=False):  # type: ignore[attr-defined]
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                texts[ast.unparse(field.target)] = inspect.cleandoc(ast.literal_eval(text.value))
    for name, hint in hints(config).items():
        limits = [str(extra) for extra in _extras(hint) if isinstance(extra, Range)]
        if limits:
            texts[name] = f"{texts.get(name, '').rstrip('.')}; {limits[0]}."
    return texts


def _extras(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Annotated:
        return get_args(hint)[1:]
    return tuple(extra for inner in get_args(hint) for extra in _extras(inner))
