"""Adapters for distributions of distrax, NumPyro and TFP, without importing these packages.

Such an object may keep its OLD parameters when JAX rebuilds it from new leaves: distrax's
multivariate normals have a bijector with bound methods. `adapted` stores only the parameters and
builds the distribution on each call.
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
    """Allow rank promotion inside the method: the other packages need it, users may forbid it."""

    @wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_rank_promotion("allow"):
            return method(*args, **kwargs)

    return wrapped


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["make"])
@dataclass(frozen=True, eq=False)
class Adapted:
    """The distribution make(*params), rebuilt on each call: a pytree of the parameters."""

    make: Callable[..., Any] = field(repr=False)
    params: tuple[Any, ...]

    @_broadcasting
    def build(self) -> Any:
        """The distribution of the other package; do not pass it through a JAX transformation."""
        return self.make(*self.params)

    @property
    def reparameterized(self) -> bool:
        """Whether draws carry gradients to the parameters, as declared by the package."""
        return carries_gradients(self.build())

    @property
    def discrete(self) -> bool:
        """Whether draws are integers, or the package declares the distribution discrete."""
        if "DiscreteDistributionMixin" in foreign_names(innermost(self.build())):
            return True
        draw = jax.eval_shape(lambda key: self.sample(seed=key), jax.random.key(0))
        return not any(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(draw))

    @property
    def support(self) -> Support:
        """The possible values of each entry of a draw: bits for a Bernoulli, else real numbers."""
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
        return draw(seed, sample_shape)  # NumPyro

    @_broadcasting
    def mean(self) -> Array:
        """The mean; AttributeError or NotImplementedError if the package has no closed form."""
        found = self.build().mean
        return found() if callable(found) else found

    @_broadcasting
    def entropy(self) -> Array:
        """The entropy in nats; AttributeError or NotImplementedError without a closed form."""
        return native(self).entropy()


def adapted(make: Callable[..., Any], *params: Any) -> Adapted:
    """Wrap make(*params), a distribution of distrax, NumPyro or TFP, for use with this library.

    `params` are pytrees of arrays. Gradients, `jax.vmap` and `stop_gradient` act on them, and the
    distribution is rebuilt from them on each call. Pass all varying arrays as `params`.

        q = adapted(lambda loc, scale: numpyro.distributions.Normal(loc, scale).to_event(1), m, s)

    Raises TypeError if `make` is not such a function or closes over a traced array, and ValueError
    for a distribution with batched parameters.
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
                f"make: expected a function that takes its arrays as params, got one that closes "
                f"over {name}, a traced array; call adapted(make, {name})"
            )
    q = Adapted(bindable(make), params)
    _check_made(q.build())
    return q


def _check_made(made: Any) -> None:
    kind = f"{type(made).__module__.partition('.')[0]}.{type(made).__name__}"
    if not all(callable(getattr(made, name, None)) for name in ("sample", "log_prob")):
        raise TypeError(
            f"make: expected a function that returns a distribution with sample and log_prob, got "
            f"one that returns {kind}; return a distribution of distrax, NumPyro or TFP"
        )
    batch = tuple(getattr(made, "batch_shape", ()))
    if batch:
        raise ValueError(
            f"make: expected a distribution of one z, got {kind} with a batch of shape {batch}; "
            "use NumPyro's .to_event(), or distrax's or TFP's Independent"
        )


def _captured(make: Any, seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """The names and values that a function holds in closures, defaults and partials."""
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
            with suppress(ValueError):  # an unbound name
                held[name] = cell.cell_contents
    for name, value in held.items():
        yield name, value
        for leaf in jax.tree.leaves(value):
            for _, inner in _captured(leaf, seen):
                yield name, inner


def package(q: Any) -> str | None:
    """The package of PACKAGES that defines the class of q or one of its bases, or None."""
    roots = {cls.__module__.partition(".")[0] for cls in type(q).__mro__}
    return next((name for name in PACKAGES if name in roots), None)


def foreign_names(q: Any) -> list[str]:
    """The names of q's class and base classes from PACKAGES, in method resolution order."""
    roots = [(cls.__module__.partition(".")[0], cls.__name__) for cls in type(q).__mro__]
    return [name for root, name in roots if root in PACKAGES]


def carries_gradients(q: Any) -> bool:
    """Whether draws of q are reparameterised, as declared by its package."""
    if package(q) == "numpyro":
        return bool(q.has_rsample)
    return "NOT" not in repr(getattr(q, "reparameterization_type", ""))


def bits_or_real(q: Any) -> Support:
    """BITS for a Bernoulli of another package, REAL otherwise."""
    return BITS if BERNOULLI & set(foreign_names(innermost(q))) else REAL


def innermost(q: Any) -> Any:
    """The distribution inside one or several Independents of any package; otherwise q."""
    while "Independent" in foreign_names(q) or isinstance(q, Independent):
        q = q.base_dist if package(q) == "numpyro" else q.distribution
    return q


def native(q: Distribution) -> Any:
    """Convert q to the equivalent family of this library, for type checks; q if there is none."""
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
