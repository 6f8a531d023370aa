"""Annotations checked at run time, in the tests only: jaxtyping's shapes and types by beartype.

`pytest.raises` switches the check off, because wrong arguments are passed there on purpose and
the error to see is the library's own.
"""

import ast
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import jax
import jaxtyping
import numpy as np
import pytest
from beartype import BeartypeConf, FrozenDict, beartype

# An int is a float, and so is a NumPy number.
WIDER = {float: float | int | np.floating | np.integer, int: int | np.integer}
_checked = beartype(conf=BeartypeConf(hint_overrides=FrozenDict(WIDER)))

_raises = pytest.raises
WRAPPER = "jaxtyping/_decorator.py"


def typechecked(function: Any) -> Any:
    """beartype of a function; `Self` is not checked, because beartype sees no class around it."""
    for name, hint in getattr(function, "__annotations__", {}).items():
        if hint is Self:
            function.__annotations__[name] = Any
    return _checked(function)


def install() -> None:
    """Check every function of lvm_jax that is imported from here on.

    NumPy's arrays are taken wherever JAX's are, as the functions do: `Array` is either.
    """
    jaxtyping.Array = jax.Array | np.ndarray | np.generic
    jaxtyping.install_import_hook("lvm_jax", "typecheck.typechecked")
    pytest.raises = raises


def finish() -> None:
    """What can only be done once lvm_jax is imported."""
    resolve()
    recognize()


def resolve() -> None:
    """Execute the `if TYPE_CHECKING:` imports of loaded modules, so that annotations can use them."""
    for name, module in list(sys.modules.items()):
        if name.startswith("lvm_jax.") and getattr(module, "TYPE_CHECKING", None) is False:
            for node in ast.parse(inspect.getsource(module)).body:
                if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                    exec(compile(ast.Module(node.body, []), name, "exec"), vars(module))


def recognize() -> None:
    """Compare functions of equal making as it is done without the check around them."""
    from lvm_jax import recognition

    structure = recognition.structure
    recognition.structure = lambda value, *seen: structure(bare(value), *seen)


def bare(value: Any) -> Any:
    """The function inside jaxtyping's wrapper; another value as it is."""
    while inspect.isfunction(value) and value.__code__.co_filename.endswith(WRAPPER):
        value = value.__wrapped__
    return value


class raises:
    """`pytest.raises` without the check; like that, it may be entered more than once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._arguments = args, kwargs

    def __enter__(self) -> Any:
        args, kwargs = self._arguments
        self._unchecked, self._raises = unchecked(), _raises(*args, **kwargs)
        self._unchecked.__enter__()
        return self._raises.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        self._unchecked.__exit__(None, None, None)
        return self._raises.__exit__(*error)


@contextmanager
def unchecked() -> Iterator[None]:
    """Annotations are not checked inside."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
