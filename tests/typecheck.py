"""Annotations checked at run time, in the tests only: jaxtyping's shapes and types by beartype.

`pytest.raises` switches the check off, because wrong arguments are passed there on purpose and
the error to see is the library's own.
"""

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, Self

import jax
import jaxtyping
import numpy as np
import pytest
from beartype import BeartypeConf, FrozenDict, beartype

# An int is a float, and so is a NumPy number.
WIDER = {float: float | int | np.floating | np.integer, int: int | np.integer}
_checked = beartype(conf=BeartypeConf(hint_overrides=FrozenDict(WIDER)))

_jaxtyped, _raises = jaxtyping.jaxtyped, pytest.raises


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
    jaxtyping.jaxtyped = jaxtyped
    jaxtyping.install_import_hook("lvm_jax", "typecheck.typechecked")
    pytest.raises = raises


def jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    """jaxtyping's decorator, which costs over 1 ms, at the first call of a function that is checked."""

    def decorate(function: Any) -> Any:
        if not inspect.isfunction(function):
            return _jaxtyped(function, typechecker=typechecker)
        made: list[Any] = []

        @wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            if jaxtyping.config.jaxtyping_disable:
                return function(*args, **kwargs)
            if not made:
                resolve(function.__module__)
                made.append(_jaxtyped(function, typechecker=typechecker))
            return made[0](*args, **kwargs)

        return checked

    return decorate


@cache
def resolve(name: str) -> None:
    """Execute the `if TYPE_CHECKING:` imports of a module, so that annotations can use them."""
    module = vars(sys.modules[name])
    if module.get("TYPE_CHECKING") is False and "__getattr__" not in module:  # no package
        for node in ast.parse(inspect.getsource(sys.modules[name])).body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                with jax.ensure_compile_time_eval():  # the first call may be in a trace
                    exec(compile(ast.Module(node.body, []), name, "exec"), module)


def recognize() -> None:
    """Compare functions of equal making as it is done without the check around them.

    To be called once lvm_jax is imported.
    """
    from lvm_jax._core import recognition

    structure = recognition.structure
    recognition.structure = lambda value, *seen: structure(bare(value), *seen)


def bare(value: Any) -> Any:
    """The function inside the check; another value as it is."""
    while inspect.isfunction(value) and value.__code__.co_filename == __file__:
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
