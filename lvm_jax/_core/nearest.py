"""Suggestions of valid names in error messages; this module imports only the standard library."""

from collections.abc import Iterable
from difflib import get_close_matches


def suggestion(value: str, names: Iterable[str], cutoff: float = 0.4) -> str:
    """The text "; did you mean 'name'?" with the nearest of `names`, or "" if none is near."""
    near = get_close_matches(value, list(names), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""
