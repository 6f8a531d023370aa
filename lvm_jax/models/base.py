"""A latent-variable model p(x, z; theta) as pure functions, and with bound parameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import precision
from lvm_jax._core import checks, support
from lvm_jax._core.recognition import bindable
from lvm_jax._core.support import Supports
from lvm_jax._core.trees import differences
from lvm_jax.distributions.base import data_support
from lvm_jax.typing import Array, Distribution, Key, Latent, Params, Scalar

CACHED = 32  # models whose shapes are cached
# Errors of functions of a model for parameters, x or z of wrong structure or shape.
STRUCTURE_ERRORS = (TypeError, ValueError, AttributeError, KeyError, IndexError)


class Model(NamedTuple):
    """p(x, z; theta) = p(z; theta) p(x | z; theta), with optional closed forms.

    `support` is the set of possible values of each entry of x, or a tuple with one set for each
    observed part. None reads it from the type of p(x | z): bits, counts, labels or real numbers.
    Entry points raise ValueError for data outside the support.

    A data point may be any pytree. `observed` names the part that the model generates, such as
    "image", or several parts, ("x", "mask"), which `log_prob` takes as a tuple. None means the
    whole data point. With `given`, a function from a data point to the context c, the model is
    p(x, z | c): prior and likelihood take c = given(x) as their last argument.
    """

    init: Callable[[Key[Array, ""]], Params]  # theta
    prior: Callable[..., Distribution]  # p(z; theta), or p(z | c; theta)
    likelihood: Callable[..., Distribution]  # p(x | z; theta), or p(x | z, c; theta)
    posterior: Callable[[Params, Any], Distribution] | None = None  # p(z | x; theta)
    log_evidence: Callable[[Params, Any], Scalar] | None = None  # log p(x; theta)
    support: Supports | None = None
    observed: str | tuple[str, ...] | None = None
    given: Callable[[Any], Any] | None = None

    def __call__(self, theta: Params, prior: Distribution | None = None) -> "Joint":
        """p(x, z) with these parameters; `prior` replaces the model's own prior.

        `prior` must be safe under transformations, as `priors.mixture_of` is.
        """
        return Joint(bindable(self), theta, prior)


class DataPoint(NamedTuple):
    """Shapes, dtypes and support of one draw of the observed part."""

    x: Any  # leaves are jax.ShapeDtypeStruct
    support: Supports


class Draw(NamedTuple):
    """One draw of p(z) p(x | z); given x, z is an exact draw from the posterior."""

    z: Latent
    x: Any


@partial(
    jax.tree_util.register_dataclass, data_fields=["theta", "own_prior"], meta_fields=["model"]
)
@dataclass(frozen=True, eq=False)
class Joint:
    """p(x, z) = p(z) p(x | z): a model with its parameters, `model(theta)`.

    A pytree with the leaves of theta and static functions. Equal models share compiled programs.
    """

    model: Model = field(repr=False)
    theta: Params
    own_prior: Distribution | None = None

    def prior(self, x: Any = None) -> Distribution:
        """p(z), or p(z | c) for a data point x, rebuilt from theta."""
        if self.own_prior is not None:
            return self.own_prior
        return self.model.prior(self.theta, *self._given(x))

    def likelihood(self, z: Latent, x: Any = None) -> Distribution:
        """p(x | z) of the observed part for one z, or p(x | z, c) for a data point x."""
        return self.model.likelihood(self.theta, z, *self._given(x))

    def log_likelihood(self, z: Latent, x: Any) -> Scalar:
        """log p(x | z) or log p(x | z, c) of one data point, in nats."""
        return self.likelihood(z, x).log_prob(self.observed(x))

    def observed(self, x: Any) -> Any:
        """The part of a data point, or of rows, that the model generates.

        Raises ValueError if x has no such part.
        """
        names = self.model.observed
        if names is None:
            return x
        if isinstance(names, str):
            return part(x, names)
        return tuple(part(x, name) for name in names)

    def _given(self, x: Any) -> tuple[Any, ...]:
        if self.model.given is None:
            return ()
        if x is None:
            raise ValueError(
                "x: expected a data point with what the model is given, got None; call p.prior(x), "
                "p.likelihood(z, x) or p.sample(key, x)"
            )
        return (self.model.given(jax.tree.map(jnp.asarray, x)),)

    def log_joint(self, x: Any) -> Callable[[Latent], Scalar]:
        """The function z -> log p(x, z) of one data point, in nats.

        Raises ValueError if x does not have the shape of one draw from the likelihood (broadcasting
        would give a wrong density), or if a concrete x lies outside the support. The returned
        function raises ValueError for a z with another structure than draws of the prior.
        """
        check_point(self, x)

        def density(z: Latent) -> Scalar:
            try:
                return self.prior(x).log_prob(z) + self.log_likelihood(z, x)
            except STRUCTURE_ERRORS as error:
                _check_z(self.prior(x), z, error)
                raise

        return precision.full_by_default(density)

    def sample(self, key: Key[Array, ""], x: Any = None) -> Draw:
        """Draw z ~ p(z) and the observed part x ~ p(x | z), given the context of x if any."""
        key_z, key_x = jax.random.split(checks.key(key))
        z = self.prior(x).sample(seed=key_z)
        return Draw(z, self.likelihood(z, x).sample(seed=key_x))

    def posterior(self, x: Any) -> Distribution:
        """The closed-form p(z | x); ValueError if the model has none."""
        return require(self.model.posterior, "posterior")(self.theta, x)

    def log_evidence(self, x: Any) -> Scalar:
        """The closed-form log p(x) in nats; ValueError if the model has none."""
        return require(self.model.log_evidence, "log_evidence")(self.theta, x)


def part(x: Any, name: str) -> Any:
    """The part of a data point with this key or field; ValueError if there is none."""
    if isinstance(x, Mapping) and name in x:
        return x[name]
    if not isinstance(x, Mapping) and hasattr(x, name):
        return getattr(x, name)
    got = list(x) if isinstance(x, Mapping) else type(x).__name__
    raise ValueError(f"x: expected data points with a part {name!r}, got {got}")


def require(function: Callable | None, name: str) -> Callable:
    """The closed form of a model; ValueError if it is None."""
    if function is None:
        raise ValueError(
            f"model: expected one with an exact {name}, got {name}=None; use lvm_jax.evidence to "
            "estimate log p(x), or a guide to approximate the posterior"
        )
    return function


def data_point(p: Joint, x: Any = None) -> DataPoint:
    """Shapes, dtypes and support of the observed part of one draw of x.

    `x` is one data point, of which only the shapes are read; required for a model with `given`.
    Results are cached, so that calls with parameters of the same shapes need one trace.
    """
    point = x if p.model.given is not None else None
    leaves, structure = jax.tree.flatten(jax.eval_shape(unchanged, (p, point)))
    return _data_point(structure, tuple(leaves))


def unchanged(tree: Params) -> Params:
    """The identity; `jax.eval_shape(unchanged, tree)` gives the shapes and dtypes of a pytree."""
    return tree


@lru_cache(maxsize=CACHED)
def _data_point(structure: Any, leaves: tuple[Any, ...]) -> DataPoint:
    found: list[Supports] = []

    def draw(p: Joint, x: Any, key: Key[Array, ""]) -> Any:
        z = checks.distribution(p.prior(x), "model.prior").sample(seed=key)
        likelihood = checks.distribution(p.likelihood(z, x), "model.likelihood")
        found.append(data_support(likelihood))
        return likelihood.sample(seed=key)

    p, point = jax.tree.unflatten(structure, leaves)
    x = jax.eval_shape(draw, p, point, jax.random.key(0))
    return DataPoint(x, found[0] if p.model.support is None else p.model.support)


def check_point(p: Joint, x: Any) -> None:
    """Raise ValueError for an x that is not ONE data point of the model."""
    try:
        expected, observed = data_point(p, x), p.observed(x)
    except STRUCTURE_ERRORS as error:
        if p.model.given is None:
            raise
        raise context_error(x, error) from error
    shapes = [
        jax.tree.map(lambda leaf: tuple(jax.numpy.shape(leaf)), v) for v in (expected.x, observed)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"x: expected one data point of shape {shapes[0]}, got {shapes[1]}; map over rows with "
            "jax.vmap"
        )
    for leaf, own in support.of_leaves(expected.support, observed):
        if own != support.REAL and not isinstance(leaf, jax.core.Tracer):
            support.check(own, leaf)


def context_error(x: Any, error: Exception, name: str = "x") -> ValueError:
    """The error for a data point for which `given`, or a function of its context, fails."""
    shapes = jax.tree.map(lambda leaf: list(jax.numpy.shape(leaf)), x)
    return ValueError(
        f"{name}: expected data points with what the model is given, but `given` or a function of "
        f"its result fails for shapes {shapes} ({type(error).__name__}: {error}); pass every part "
        "that `given` reads, with the shapes that the model expects"
    )


def _check_z(prior: Distribution, z: Latent, error: Exception) -> None:
    """Raise ValueError, naming the part, if z differs in structure from draws of the prior."""
    drawn = jax.eval_shape(lambda key: prior.sample(seed=key), jax.random.key(0))
    found = differences(drawn, z)
    if found is not None:
        part, expected, got = found
        raise ValueError(
            f"z: expected {part} as the model's prior draws it, {expected}, got {got} "
            f"({type(error).__name__}: {error}); give a z of p.prior(x)"
        ) from error
