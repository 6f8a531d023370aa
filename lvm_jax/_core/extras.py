"""Imports of optional packages, with an error that names the extra to install.

This module imports only the standard library.
"""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needed(extra: str) -> Iterator[None]:
    """Context of imports that need `extra`, an optional dependency of pyproject.toml.

    Raises ModuleNotFoundError with the command that installs the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "lvm_jax").partition(".")[0] == "lvm_jax":  # not an optional package
            raise
        raise ModuleNotFoundError(
            f'{error.name} is not installed; run: pip install "lvm_jax[{extra}]"', name=error.name
        ) from error
