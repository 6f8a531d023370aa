"""Products of float32 in float32, on every device.

Left to itself, XLA multiplies float32 matrices on the tensor cores of an NVIDIA GPU from 11 bits of
each factor (TF32), on a TPU from 8 (bfloat16). EM on 200,000 points in 32 dimensions then stands
1e-3 nats from the truth where float32, with 24, reaches 1e-7, and gains little by it: 1.8 ms a step
on an H200 instead of 2.1.

Here algebra is always `full`: densities, sufficient statistics, draws. Networks, models and guides
are too, also a user's own, unless `jax_default_matmul_precision` says otherwise: who sets it has
made the choice. A log-joint or a q that is passed as such is computed as it was written.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")

SETTING = "jax_default_matmul_precision"


def chosen() -> str | None:
    """What the user has set, or None."""
    return getattr(jax.config, SETTING)


def full(function: Callable[P, R]) -> Callable[P, R]:
    """The function, in whose products float32 keeps all of its 24 bits.

    So do its derivatives, but for the rules of functions that have their own (`jax.custom_jvp`):
    these are traced when it has returned, and have to be decorated by themselves.
    """

    @wraps(function)
    def multiply(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return multiply


def as_set(function: Callable[P, R]) -> Callable[P, R]:
    """The function in the precision that is set now, for a `full` one to call."""
    setting = chosen()

    @wraps(function)
    def multiply(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision(setting):
            return function(*args, **kwargs)

    return multiply


def full_by_default(function: Callable[P, R]) -> Callable[P, R]:
    """The same where `jax_default_matmul_precision` is None, else the function as it is."""
    precise = full(function)

    @wraps(function)
    def multiply(*args: P.args, **kwargs: P.kwargs) -> R:
        return (function if chosen() else precise)(*args, **kwargs)

    return multiply
