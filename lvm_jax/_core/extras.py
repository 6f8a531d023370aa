"""Optional packages: an import of one that is missing names the extra to install.

Imports the standard library only.
"""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needed(extra: str) -> Iterator[None]:
    """Around imports of the packages of `extra`, one of pyproject.toml's optional dependencies.

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
