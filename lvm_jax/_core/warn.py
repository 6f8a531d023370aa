"""Warnings that name the line of the caller."""

import sys
import warnings

# The library, and what wraps its functions.
INSIDE = {"lvm_jax", "sklearn", "jax", "jaxtyping", "beartype", "contextlib", "joblib"}


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line outside of the library, however deep the call is."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _package(frame.f_globals) in INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _package(names: dict[str, object]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]
