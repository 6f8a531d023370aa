"""A latent-variable model p(x, z; theta) as pure functions, and the same with its parameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax

from lvm_jax import precision
from lvm_jax._core import checks, support
from lvm_jax._core.recognition import bindable
from lvm_jax._core.support import Supports
from lvm_jax._core.trees import differences
from lvm_jax.distributions import data_support
from lvm_jax.typing import Array, Distribution, Key, Latent, Params, Scalar

KEPT = 32  # models whose shapes are kept
# What building a distribution of parameters or of an x that do not fit raises.
MISFITS = (TypeError, ValueError, AttributeError, KeyError, IndexError)


class Model(NamedTuple):
    """p(x, z; theta) = p(z; theta) p(x | z; theta), with what is known beside it.

    `support` are the values that a number of x may have; None reads them from the type of
    p(x | z): bits, counts and labels of the distributions here and in distrax, and for any other
    type real numbers; a tuple has one for each observed part. Entry points refuse data off it.

    A data point may be any pytree. `observed` names the part of it that the model generates, such
    as "image", or several parts, ("x", "mask"), which `log_prob` takes as a tuple; None is all of
    it. With `given`, a function from a data point to what the model is conditioned on, this is
    p(x, z | c): prior and likelihood then take c = given(x) as their last argument.
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
        """p(x, z) with these parameters; `prior`, where given, takes the place of the model's.

        It must be safe to pass through transformations, as `priors.mixture_of` is.
        """
        return Joint(bindable(self), theta, prior)


class DataPoint(NamedTuple):
    """What one draw of the observed part is like."""

    x: Any  # leaves of shape and dtype
    support: Supports


class Draw(NamedTuple):
    """One draw of p(z) p(x | z); given x, z is an exact draw of the posterior."""

    z: Latent
    x: Any


@partial(
    jax.tree_util.register_dataclass, data_fields=["theta", "own_prior"], meta_fields=["model"]
)
@dataclass(frozen=True, eq=False)
class Joint:
    """p(x, z) = p(z) p(x | z): a model with its parameters, `model(theta)`.

    A pytree whose leaves are those of theta; the functions are static. Two models that are made
    alike share compiled programs.
    """

    model: Model = field(repr=False)
    theta: Params
    own_prior: Distribution | None = None

    def prior(self, x: Any = None) -> Distribution:
        """p(z), or p(z | c) of a data point x, built anew from theta."""
        if self.own_prior is not None:
            return self.own_prior
        return self.model.prior(self.theta, *self._given(x))

    def likelihood(self, z: Latent, x: Any = None) -> Distribution:
        """p(x | z) of the observed part for one z, or p(x | z, c) of a data point x."""
        return self.model.likelihood(self.theta, z, *self._given(x))

    def log_likelihood(self, z: Latent, x: Any) -> Scalar:
        """log p(x | z), or log p(x | z, c), of one data point, in nats."""
        return self.likelihood(z, x).log_prob(self.observed(x))

    def observed(self, x: Any) -> Any:
        """The part of a data point, or of rows, that the model generates.

        Raises ValueError for an x without it.
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
                "x: expected a data point with what the model is given, got None; p(z | c) and "
                "p(x | z, c) need it: p.prior(x), p.likelihood(z, x), p.sample(key, x)"
            )
        return (self.model.given(x),)

    def log_joint(self, x: Any) -> Callable[[Latent], Scalar]:
        """The function z -> log p(x, z) of one data point, in nats.

        Raises ValueError if x has not the shape of one draw from the likelihood: a broadcast would
        give a wrong density in silence. An x that is off the model's support is refused where it
        is not traced. The function raises ValueError for a z that the prior does not draw.
        """
        check_point(self, x)

        def density(z: Latent) -> Scalar:
            try:
                return self.prior(x).log_prob(z) + self.log_likelihood(z, x)
            except MISFITS as error:
                _blame_z(self.prior(x), z, error)
                raise

        return precision.full_by_default(density)

    def sample(self, key: Key[Array, ""], x: Any = None) -> Draw:
        """z ~ p(z), x ~ p(x | z): the observed part; of a model with `given`, for that of x."""
        key_z, key_x = jax.random.split(checks.key(key))
        z = self.prior(x).sample(seed=key_z)
        return Draw(z, self.likelihood(z, x).sample(seed=key_x))

    def posterior(self, x: Any) -> Distribution:
        """p(z | x), where the model has it in closed form; ValueError where not."""
        return known(self.model.posterior, "posterior")(self.theta, x)

    def log_evidence(self, x: Any) -> Scalar:
        """log p(x) in nats, where the model has it in closed form; ValueError where not."""
        return known(self.model.log_evidence, "log_evidence")(self.theta, x)


def part(x: Any, name: str) -> Any:
    """A part of a data point by its key or its field; ValueError for one without it."""
    if isinstance(x, Mapping) and name in x:
        return x[name]
    if not isinstance(x, Mapping) and hasattr(x, name):
        return getattr(x, name)
    got = list(x) if isinstance(x, Mapping) else type(x).__name__
    raise ValueError(f"x: expected data points with a part {name!r}, got {got}")


def known(function: Callable | None, name: str) -> Callable:
    """A closed form of a model; ValueError for a model without it."""
    if function is None:
        raise ValueError(
            f"model: expected one with an exact {name}, got {name}=None; lvm_jax.evidence measures "
            "log p(x), a guide approximates the posterior"
        )
    return function


def data_point(p: Joint, x: Any = None) -> DataPoint:
    """The observed part of one x as the model draws it. Shapes and types only.

    `x` is one data point, of which only the shapes are read; a model without `given` needs none.

    The last few models are kept: a second call with parameters of the same shapes costs no trace.
    """
    point = x if p.model.given is not None else None
    leaves, structure = jax.tree.flatten(jax.eval_shape(unchanged, (p, point)))
    return _data_point(structure, tuple(leaves))


def unchanged(tree: Params) -> Params:
    """The parameters as they are; `jax.eval_shape` of it gives their shapes and types."""
    return tree


@lru_cache(maxsize=KEPT)
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
    """Refuse an x that is not ONE data point of the model."""
    try:
        expected, seen = data_point(p, x), p.observed(x)
    except MISFITS as error:
        if p.model.given is None:
            raise
        raise lacking(x, error) from error
    shapes = [
        jax.tree.map(lambda leaf: tuple(jax.numpy.shape(leaf)), v) for v in (expected.x, seen)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"x: expected one data point of shape {shapes[0]}, got {shapes[1]}; map over rows with "
            "jax.vmap"
        )
    for leaf, own in support.of_leaves(expected.support, seen):
        if own != support.REAL and not isinstance(leaf, jax.core.Tracer):
            support.check(own, leaf)


def lacking(x: Any, error: Exception, name: str = "x") -> ValueError:
    """The refusal of a data point on which `given`, or what takes its context, fails."""
    shapes = jax.tree.map(lambda leaf: list(jax.numpy.shape(leaf)), x)
    return ValueError(
        f"{name}: expected data points with what the model is given, but `given` or what takes it "
        f"fails on one of {shapes} ({type(error).__name__}: {error}); give every part that `given` "
        "reads, of the size that the model was made for"
    )


def _blame_z(prior: Distribution, z: Latent, error: Exception) -> None:
    """Raise for a z that the prior does not draw, naming the part; nothing for another error."""
    drawn = jax.eval_shape(lambda key: prior.sample(seed=key), jax.random.key(0))
    found = differences(drawn, z)
    if found is not None:
        part, expected, got = found
        raise ValueError(
            f"z: expected {part} as the model's prior draws it, {expected}, got {got} "
            f"({type(error).__name__}: {error}); give a z of p.prior(x)"
        ) from error
