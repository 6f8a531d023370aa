"""Validation of single arguments: keys, numbers, names, distributions, and traced values."""

import inspect
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import jax
import numpy as np

from lvm_jax._core.nearest import suggestion

# Expressions that return a distribution, for types that are often passed by mistake.
MAKES_A_DISTRIBUTION = {
    "Guide": "guide.posterior(phi, x)",
    "Family": "family.build(eta), or guides.shared(family) for a guide",
    "Model": "model.prior(theta) or model.likelihood(theta, z)",
    "Prior": "prior.build(params)",
    "Likelihood": "likelihood.build(params, outputs)",
}


def key(value: object, name: str = "key") -> jax.Array:
    """Return `value` if it is one typed PRNG key, such as `jax.random.key(seed)`."""
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        if value.shape == ():
            return value
        raise ValueError(
            f"{name}: expected one key, got an array of keys of shape {value.shape}; map over them "
            "with jax.vmap, or take one"
        )
    got = type(value).__name__
    if getattr(value, "dtype", None) == np.uint32:
        got = f"{got} of dtype uint32, a key of jax.random.PRNGKey; use jax.random.key(seed), or "
        got += "jax.random.wrap_key_data(key) for the same random numbers"
    raise TypeError(f"{name}: expected a typed key, as jax.random.key(0) makes it, got {got}")


def host(function: str, inside: str, *arguments: object) -> None:
    """Raise TypeError for traced arguments of a host function; `inside` names its alternative."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):
        raise TypeError(
            f"{function}: expected concrete arguments, got traced ones; it is a host function, "
            "which validates data and compiles its own programs: call it outside jax.jit, "
            f"jax.grad and jax.vmap, or use {inside} inside"
        )


def distribution(value: Any, name: str = "q") -> Any:
    """Return `value` if it has `sample(seed=, sample_shape=)` and `log_prob`."""
    kind = type(value).__name__
    cure = MAKES_A_DISTRIBUTION.get(kind)
    if cure is not None:
        raise TypeError(f"{name}: expected a distribution, got a {kind}; use {cure}")
    sample = getattr(value, "sample", None)
    if not (callable(sample) and callable(getattr(value, "log_prob", None))):
        raise TypeError(f"{name}: expected a distribution with sample and log_prob, got {kind}")
    try:
        inspect.signature(sample).bind(seed=None, sample_shape=())
    except TypeError as error:
        raise TypeError(
            f"{name}: expected a distribution that draws by sample(seed=key, sample_shape=()), as "
            f"those of lvm_jax.distributions and distrax do, got {type(value).__module__}.{kind} "
            f"({error}); use the distribution of the same name there, or "
            "distributions.adapted(make, *params)"
        ) from error
    return value


def takes(function: object, *arguments: str) -> bool:
    """Whether `function` accepts this number of positional arguments."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # a built-in function without a signature
        return True
    return True


def signature(function: Any) -> str:
    """Name and parameters of a function, for an error."""
    parameters = ", ".join(inspect.signature(function).parameters)
    return f"{getattr(function, '__name__', type(function).__name__)}({parameters})"


def integer(value: object, name: str, minimum: int) -> int:
    """Return `value` as an int of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an integer >= {minimum}, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name}: expected an integer >= {minimum}, got {value}")
    return int(value)


def number(value: object, name: str) -> float:
    """Return `value` as a finite float of at least 0."""
    if isinstance(value, bool) or not isinstance(value, Real | np.number):
        raise TypeError(f"{name}: expected a number >= 0, got {value!r}")
    if not (np.isfinite(float(value)) and float(value) >= 0):
        raise ValueError(f"{name}: expected a finite number >= 0, got {value}")
    return float(value)


def level(value: object) -> float:
    """Return the probability of an interval, `level`, as a float in (0, 1)."""
    found = number(value, "level")
    if not 0 < found < 1:
        raise ValueError(f"level: expected a probability in (0, 1), got {value}")
    return found


def choice(value: object, name: str, allowed: Sequence[str]) -> str:
    """Return `value` if it is one of `allowed`; otherwise suggest the nearest."""
    if value in allowed:
        return str(value)
    hint = suggestion(str(value), allowed, cutoff=0.6)
    raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}{hint}")
