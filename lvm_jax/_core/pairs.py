"""p and q as one function of the parameters that are trained."""

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
    """params -> (p, q), a pure function."""

    def __call__(self, params: Any, /) -> tuple[JointDensity, ConditionalDensity]:
        """p and q with their parameters."""


class Parameters(NamedTuple):
    """What the optimiser moves."""

    theta: Params
    phi: Params


class Separate(NamedTuple):
    """The pair of a model and a guide that share no parameter; params are `Parameters`."""

    model: Model
    guide: Guide

    def init(self, key: Key[Array, ""]) -> Parameters:
        """New parameters."""
        key_theta, key_phi = jax.random.split(checks.key(key))
        return Parameters(self.model.init(key_theta), self.guide.init(key_phi))

    def __call__(self, params: Parameters, /) -> tuple[Joint, Conditional]:
        """p and q with their parameters."""
        return self.model(params.theta), self.guide(params.phi)


class Point(NamedTuple):
    """One data point, and p and q with the parameters of a step."""

    p: JointDensity
    make_q: Callable[[Params], Any]  # phi -> q(z | x)
    phi: Params  # what q depends on; where p depends on it too, p holds it apart
    x: Any


def point(pair: Pair, params: Params, x: Any) -> Point:
    """The point of an estimator or an objective. Of a shared tree, phi is all of it.

    The gradient of a shared tree is the sum of that through p and that through q.
    """
    p, _ = pair(params)
    if isinstance(pair, Separate):
        return Point(p, lambda phi: pair.guide(phi)(x), params.phi, x)
    return Point(p, lambda shared: pair(shared)[1](x), params, x)


def as_pair(model: Any, guide: Any) -> tuple[Pair, Params | None]:
    """The pair and its parameters from the second and third argument of `fit`.

    They are a model and a guide (the parameters are then None), or a pair and its parameters,
    which may be None for a pair that is made of a model and a guide.
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
    """The model and the guide of a pair, whose `init` give its parameters; TypeError for others."""
    if isinstance(pair, Separate):
        return pair
    model, guide = getattr(pair, "model", None), getattr(pair, "guide", None)
    if not (isinstance(model, Model) and isinstance(guide, Guide)):
        raise TypeError(
            f"params: expected the parameters to start from, of a pair that has no model and guide "
            f"whose init makes them, got None; pair: {type(pair).__name__}"
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
    """Refuse what is no model or no guide, and one in the place of the other."""
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
    """p and q, abstractly; refuses parameters that are not the pair's, and another value of it."""
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
            f"({type(error).__name__}: {error}); pass those that belong to it"
        ) from error
    check_two(found)
    return found


def check_two(value: Any) -> None:
    """Refuse a value of a pair that is not p and q with their parameters."""
    if not isinstance(value, tuple) or len(value) != 2:
        size = f" of {len(value)}" if isinstance(value, tuple) else ""
        raise TypeError(
            "pair: expected a function of params to p and q, (p, q), got "
            f"{type(value).__name__}{size}; return model(theta), guide(phi)"
        )
    inputs.check_bound(*value)
