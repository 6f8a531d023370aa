"""Distributions of distrax, NumPyro and TensorFlow Probability, none of which is imported here.

Such an object may keep OLD parameters when JAX rebuilds it from other leaves: distrax builds a
multivariate normal on a bijector that holds bound methods. `adapted` holds the parameters alone,
and builds the object at each use.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import signature
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax._core.recognition import bindable
from lvm_jax._core.support import BITS, REAL, Support
from lvm_jax.distributions.labels import Categorical, OneHotCategorical
from lvm_jax.distributions.scalar import Family, Independent, Normal, Uniform
from lvm_jax.typing import Array, Distribution, Key, Latent

PACKAGES = ("distrax", "numpyro", "tensorflow_probability")
BERNOULLI = {"Bernoulli", "BernoulliProbs", "BernoulliLogits"}


def _broadcasting(method: Callable) -> Callable:
    """The other packages broadcast arrays of different ranks, which a user may have forbidden."""

    @wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_rank_promotion("allow"):
            return method(*args, **kwargs)

    return wrapped


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["make"])
@dataclass(frozen=True, eq=False)
class Adapted:
    """make(*params), built anew at each use: a pytree whose leaves are the parameters."""

    make: Callable[..., Any] = field(repr=False)
    params: tuple[Any, ...]

    @_broadcasting
    def build(self) -> Any:
        """The distribution of the other package; it must not cross a transformation."""
        return self.make(*self.params)

    @property
    def reparameterized(self) -> bool:
        """Do draws carry gradients to the parameters? What the package says of it."""
        return carries_gradients(self.build())

    @property
    def discrete(self) -> bool:
        """Are draws whole numbers, or is the distribution discrete by its own account?"""
        if "DiscreteDistributionMixin" in foreign_names(innermost(self.build())):
            return True
        draw = jax.eval_shape(lambda key: self.sample(seed=key), jax.random.key(0))
        return not any(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(draw))

    @property
    def support(self) -> Support:
        """The values that a number of a draw may have: bits where it is known so."""
        return bits_or_real(self.build())

    @_broadcasting
    def log_prob(self, value: Latent) -> Array:
        """log q of one value, in nats."""
        return self.build().log_prob(value)

    @_broadcasting
    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Latent:
        """Draws, leaves [*sample_shape, ...]."""
        draw = self.build().sample
        if "seed" in signature(draw).parameters:
            return draw(seed=seed, sample_shape=sample_shape)
        return draw(seed, sample_shape)  # NumPyro's

    @_broadcasting
    def mean(self) -> Array:
        """The mean; AttributeError or NotImplementedError where the package has none."""
        found = self.build().mean
        return found() if callable(found) else found

    @_broadcasting
    def entropy(self) -> Array:
        """In nats; AttributeError or NotImplementedError where it is not known."""
        return native(self).entropy()


def adapted(make: Callable[..., Any], *params: Any) -> Adapted:
    """make(*params), a distribution of distrax, NumPyro or TFP, for every method of this library.

    `params` are pytrees of arrays: gradients, `jax.vmap` and `stop_gradient` act on them, and the
    distribution is built from them at each use. Anything that varies must come in by them.

        q = adapted(lambda loc, scale: numpyro.distributions.Normal(loc, scale).to_event(1), m, s)

    Raises TypeError for a `make` that is no such function, or that closes over a traced array;
    ValueError for a distribution with a batch of parameters.
    """
    made = hasattr(make, "log_prob") and not isinstance(make, type)
    if made or not checks.takes(make, *map(str, range(len(params)))):
        kind = type(make).__name__ if made or not callable(make) else checks.signature(make)
        raise TypeError(
            f"make: expected a function of the {len(params)} params given that returns a "
            f"distribution, got {kind}; call adapted(make, *params)"
        )
    for name, value in _captured(make):
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value)):
            raise TypeError(
                f"make: expected a function whose arrays come in by params, got one that closes "
                f"over {name}, a traced array that would be kept; call adapted(make, {name})"
            )
    q = Adapted(bindable(make), params)
    _check_made(q.build())
    return q


def _check_made(made: Any) -> None:
    kind = f"{type(made).__module__.partition('.')[0]}.{type(made).__name__}"
    if not all(callable(getattr(made, name, None)) for name in ("sample", "log_prob")):
        raise TypeError(
            f"make: expected a function that returns a distribution with sample and log_prob, got "
            f"one that returns {kind}; give distrax's, NumPyro's or TFP's"
        )
    batch = tuple(getattr(made, "batch_shape", ()))
    if batch:
        raise ValueError(
            f"make: expected a distribution of one z, got {kind} with a batch of shape {batch}; "
            "gather its dimensions by NumPyro's .to_event(), or distrax's or TFP's Independent"
        )


def _captured(make: Any, seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """What a function holds beside its arguments, by name, however deep."""
    seen = set() if seen is None else seen
    if id(make) in seen:
        return
    seen.add(id(make))
    held: dict[str, Any] = {}
    if isinstance(make, partial):
        held = {"an argument of functools.partial": (make.func, make.args, make.keywords)}
    if isinstance(make, FunctionType):
        held = {"a default": (make.__defaults__, make.__kwdefaults__)}
        for name, cell in zip(make.__code__.co_freevars, make.__closure__ or (), strict=True):
            with suppress(ValueError):  # a name that is not bound
                held[name] = cell.cell_contents
    for name, value in held.items():
        yield name, value
        for leaf in jax.tree.leaves(value):
            for _, inner in _captured(leaf, seen):
                yield name, inner


def package(q: Any) -> str | None:
    """The package that a class of q comes from, one of PACKAGES, or None."""
    roots = {cls.__module__.partition(".")[0] for cls in type(q).__mro__}
    return next((name for name in PACKAGES if name in roots), None)


def foreign_names(q: Any) -> list[str]:
    """The names of the classes of q that come from PACKAGES, the most special first."""
    roots = [(cls.__module__.partition(".")[0], cls.__name__) for cls in type(q).__mro__]
    return [name for root, name in roots if root in PACKAGES]


def carries_gradients(q: Any) -> bool:
    """Are draws of q reparameterised, as far as its package says so?"""
    if package(q) == "numpyro":
        return bool(q.has_rsample)
    return "NOT" not in repr(getattr(q, "reparameterization_type", ""))


def bits_or_real(q: Any) -> Support:
    """BITS for a Bernoulli of another package, REAL for all else."""
    return BITS if BERNOULLI & set(foreign_names(innermost(q))) else REAL


def innermost(q: Any) -> Any:
    """What an Independent of any package repeats; q where it is none."""
    while "Independent" in foreign_names(q) or isinstance(q, Independent):
        q = q.base_dist if package(q) == "numpyro" else q.distribution
    return q


def native(q: Distribution) -> Any:
    """q as one of our families of numbers or labels, where it is one of another package; else q.

    For reading a type and parameters, so that each question about a type has one answer.
    """
    if isinstance(q, Adapted):
        return native(q.build())
    if isinstance(q, Independent):
        return _independent(q, q.distribution)
    if isinstance(q, Family):
        return q
    for name in foreign_names(q):
        if name in READERS:
            return READERS[name](q)
    return q


def _independent(q: Any, inner: Any) -> Any:
    found = native(inner)
    if (package(inner) is None and found is inner) or package(found) == "numpyro":
        return q
    axes = q.reinterpreted_batch_ndims
    return Independent(found, None if axes is None else int(axes))


def _logits(q: Any) -> Any:
    return q.logits_parameter() if hasattr(q, "logits_parameter") else q.logits


def _one_hot(q: Any) -> OneHotCategorical:
    logits = jnp.asarray(_logits(q))
    return OneHotCategorical(logits, dtype=logits.dtype)


READERS: dict[str, Callable[[Any], Any]] = {
    "Normal": lambda q: Normal(q.loc, q.scale),
    "Uniform": lambda q: Uniform(q.low, q.high),
    "OneHotCategorical": _one_hot,
    **dict.fromkeys(
        ("Categorical", "CategoricalProbs", "CategoricalLogits"),
        lambda q: Categorical(_logits(q)),
    ),
    "Independent": lambda q: _independent(
        q, q.base_dist if package(q) == "numpyro" else q.distribution
    ),
}
