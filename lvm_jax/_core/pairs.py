"""p and q as one function of the trained parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from lvm_jax._core import checks, inputs
from lvm_jax._core.trees import NoTree, check_trees
from lvm_jax.guides.base import Conditional, Guide
from lvm_jax.models.base import Joint, Model
from lvm_jax.typing import Array, ConditionalDensity, JointDensity, Key, Params


@runtime_checkable
class Pair(Protocol):
    """A pure function params -> (p, q)."""

    def __call__(self, params: Any, /) -> tuple[JointDensity, ConditionalDensity]:
        """p and q with their parameters."""


class Parameters(NamedTuple):
    """The parameters of a model and a guide."""

    theta: Params
    phi: Params


class Separate(NamedTuple):
    """The pair of a model and a guide without shared parameters; params are `Parameters`."""

    model: Model
    guide: Guide

    def init(self, key: Key[Array, ""]) -> Parameters:
        """Initial parameters."""
        key_theta, key_phi = jax.random.split(checks.key(key))
        return Parameters(self.model.init(key_theta), self.guide.init(key_phi))

    def __call__(self, params: Parameters, /) -> tuple[Joint, Conditional]:
        """p and q with their parameters."""
        return self.model(params.theta), self.guide(params.phi)


class Point(NamedTuple):
    """One data point, and p and q with the parameters of a step."""

    p: JointDensity
    make_q: Callable[[Params], Any]  # phi -> q(z | x)
    phi: Params  # the parameters of q; p has its own copy of shared parameters
    x: Any


def point(pair: Pair, params: Params, x: Any) -> Point:
    """The `Point` for an estimator or an objective.

    If p and q share a parameter tree, phi is the whole tree; its gradient is the sum of the
    gradients through p and through q.
    """
    p, _ = pair(params)
    if isinstance(pair, Separate):
        return Point(p, lambda phi: pair.guide(phi)(x), params.phi, x)
    return Point(p, lambda shared: pair(shared)[1](x), params, x)


def as_pair(model: Any, guide: Any) -> tuple[Pair, Params | None]:
    """The pair and its parameters, from the second and third argument of `fit`.

    The arguments are a model and a guide (the parameters are then None), or a pair and its
    parameters, which may be None if the pair has a model and a guide.
    """
    if guide is None and not isinstance(model, Model | Guide):
        made_of(model)
        return model, None
    if isinstance(model, Separate):
        return model, _as_parameters(guide)
    if callable(model) and not isinstance(model, Model | Guide):
        return model, guide
    check_parts(model, guide)
    return Separate(model, guide), None


def made_of(pair: Any) -> Separate:
    """The model and the guide of a pair, with `init`; TypeError for a pair without them."""
    if isinstance(pair, Separate):
        return pair
    model, guide = getattr(pair, "model", None), getattr(pair, "guide", None)
    if not (isinstance(model, Model) and isinstance(guide, Guide)):
        raise TypeError(
            "params: expected initial parameters for a pair without model and guide, a "
            f"{type(pair).__name__}, got None"
        )
    return Separate(model, guide)


def _as_parameters(params: Any) -> Parameters:
    if not isinstance(params, tuple | list) or len(params) != 2:
        raise TypeError(
            f"params: expected the pair (theta, phi), got {type(params).__name__}; phi is () for a "
            "guide without parameters"
        )
    return Parameters(*params)


def check_parts(model: Any, guide: Any) -> None:
    """Raise TypeError unless `model` is a Model and `guide` a Guide."""
    if isinstance(model, Guide) and isinstance(guide, Model):
        raise TypeError(
            "model: expected a Model, then a Guide, got them the other way round; swap model and "
            "guide"
        )
    for name, value, kind in (("model", model, Model), ("guide", guide, Guide)):
        if not isinstance(value, kind):
            got = type(value).__name__
            made = f"one of lvm_jax.{name}s, or lvm_jax.{name}s.{kind.__name__}(...)"
            cure = inputs.CURES.get(got, made) if name == "guide" else made
            raise TypeError(f"{name}: expected a {kind.__name__}, got a {got}; use {cure}")


def bind(pair: Pair, params: Params) -> tuple[Any, Any]:
    """Abstract p and q of a pair; raises an error for wrong parameters or a wrong return value."""
    made: list[Any] = []

    def build(tree: Params) -> Any:
        made.append(pair(tree))
        return check_trees(made[-1])

    try:
        found = jax.eval_shape(build, params)
    except NoTree:
        raise
    except inputs.STRUCTURE_ERRORS as error:
        if made:  # the value is wrong, not the parameters
            check_two(made[-1])
        raise ValueError(
            f"params: expected the parameters of the pair, which fails on them "
            f"({type(error).__name__}: {error}); pass the parameters of this pair"
        ) from error
    check_two(found)
    return found


def check_two(value: Any) -> None:
    """Raise TypeError unless the value of a pair is (p, q) with parameters."""
    if not isinstance(value, tuple) or len(value) != 2:
        size = f" of {len(value)}" if isinstance(value, tuple) else ""
        raise TypeError(
            "pair: expected a function of params to p and q, (p, q), got "
            f"{type(value).__name__}{size}; return model(theta), guide(phi)"
        )
    inputs.check_bound(*value)
