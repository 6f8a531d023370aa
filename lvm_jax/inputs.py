"""Checks of a model, a guide, their parameters and data, at every entry point that takes them.

Shapes come from abstract evaluation, and data are read on the host: a refusal compiles nothing.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from lvm_jax import checks, support
from lvm_jax.guides.base import Guide
from lvm_jax.guides.refined import check_tied
from lvm_jax.guides.shared import shared
from lvm_jax.models.base import KEPT, DataPoint, Model, data_point, unchanged
from lvm_jax.typing import ArrayLike, Latent, Params

# What building a distribution of parameters or of an x that do not fit raises.
MISFITS = (TypeError, ValueError, AttributeError, KeyError, IndexError)
GUIDES = {
    "Family": "guides.shared(family), guides.amortized(family, ...) or guides.linear(family, D)",
    "Likelihood": "one of lvm_jax.guides",
    "Network": "guides.amortized(family, network.init, network.apply)",
}


def check_problem(
    model: Model, guide: Guide | None, theta: Params, phi: Params, x: Any
) -> ArrayLike:
    """x as an array, after refusing a model, a guide, parameters or data that do not fit.

    Without a guide phi is not read. Raises ValueError or TypeError, see the parts below.
    """
    check_parts(model, guide)
    if guide is not None:
        check_order(model, guide, theta, phi)
    x = check_data(model, theta, x)
    if guide is not None:
        check_guide(model, guide, theta, phi, one_of(x))
    return x


def one_of(x: ArrayLike) -> jax.ShapeDtypeStruct:
    """One row of x [N, ...], abstractly, as the device has it."""
    return jax.ShapeDtypeStruct(x.shape[1:], jax.dtypes.canonicalize_dtype(x.dtype))


def check_parts(model: Any, guide: Any) -> None:
    """Refuse what is no model or no guide, and one in the place of the other."""
    given = {"model": (model, ("prior", "likelihood")), "guide": (guide, ("posterior",))}
    if _has(model, "posterior") and not _has(model, "likelihood") and _has(guide, "likelihood"):
        raise TypeError(
            "model: expected a Model, then a Guide, got them the other way round; swap model and "
            "guide"
        )
    for name, (value, parts) in given.items():
        kind = type(value).__name__
        if value is None and name == "guide":
            continue
        right = all(_has(value, part) for part in ("init", *parts))
        if not right or (name == "guide" and _has(value, "likelihood")):
            cure = GUIDES.get(kind) if name == "guide" else None
            made = cure or f"one of lvm_jax.{name}s, or lvm_jax.{name}s.{name.title()}(...)"
            raise TypeError(f"{name}: expected a {name.title()}, got a {kind}; use {made}")


def check_order(model: Model, guide: Guide, theta: Params, phi: Params) -> None:
    """Refuse theta and phi in each other's place, by the shapes that model and guide start with."""
    given = _outline(theta), _outline(phi)
    own = _start(model.init), _start(guide.init)
    if given == own[::-1] and given != own:
        raise ValueError(
            f"theta: expected parameters of the model, {_short(given[1])}, got those of the guide, "
            f"{_short(given[0])}; swap theta and phi"
        )


def check_data(model: Model, theta: Params, x: Any, name: str = "x", minimum: int = 1) -> ArrayLike:
    """x [N, ...] as an array: N >= minimum points as the model draws them, all on its support.

    Takes arrays, memory maps, data frames and sequences; reads them in blocks (see
    `support.check`). Raises ValueError or TypeError.
    """
    array = check_rows(x, name, minimum)
    point = _data_point(model, theta)
    if point.x.shape != array.shape[1:]:
        sizes = "".join(f", {size}" for size in point.x.shape)
        raise ValueError(
            f"{name}: expected shape [N{sizes}], as the model draws its data, got "
            f"{list(array.shape)}"
        )
    support.check(point.support, array, name)
    return array


def check_rows(x: Any, name: str = "x", minimum: int = 1) -> ArrayLike:
    """x as an array of real numbers [N, ...], N >= minimum; its numbers are not read."""
    array = checks.real_array(x, name)
    if array.ndim < 1 or array.shape[0] < minimum:
        least = "one data point" if minimum == 1 else f"{minimum} data points"
        raise ValueError(
            f"{name}: expected an array of at least {least}, [N, ...], got shape "
            f"{list(array.shape)}" + ("; lower batch_size" if minimum > 1 else "")
        )
    return array


def check_simulated(model: Model, guide: Guide | None, theta: Params, phi: Params) -> None:
    """`check_problem` where x is what the model draws itself."""
    check_parts(model, guide)
    if guide is not None:
        check_order(model, guide, theta, phi)
    point = _data_point(model, theta).x
    if guide is not None:
        check_guide(model, guide, theta, phi, point)


def check_guide(
    model: Model, guide: Guide, theta: Params, phi: Params, point: Any, name: str = "guide"
) -> None:
    """Refuse a q(z | x; phi) that cannot be built for one x, or whose z is not the model's.

    `point` has the shape and dtype of x; it, theta and phi may be abstract, as `jax.eval_shape`
    gives them.
    """
    check_tied(phi)

    try:
        guided = _drawn(guide.posterior, "guide.posterior", phi, point)
    except MISFITS as error:
        _blame("phi", "guide", guide.init, phi, error)
        raise ValueError(
            f"{name}: expected q(z | x; phi) of an x of shape {list(point.shape)}, got "
            f"{type(error).__name__}: {error}; make the guide for data of that shape"
        ) from error
    z = _drawn(model.prior, "model.prior", theta)
    if _describe(guided) != _describe(z):
        raise ValueError(
            f"{name}: expected a q that draws z as the model's prior does, {_describe(z)}, got "
            f"{_describe(guided)}; make model and guide of one latent dimension"
        )


def check_family(model: Model, family: Any, theta: Params, point: Any) -> None:
    """Refuse what is no family, and a family whose z is not the model's."""
    if not (_has(family, "init") and _has(family, "build")):
        cure = "guides.mean_field(D), or the family that the guide was made of"
        raise TypeError(f"family: expected a Family, got a {type(family).__name__}; use {cure}")
    eta = jax.eval_shape(family.init, jax.random.key(0))
    check_guide(model, shared(family), theta, eta, point, "family")


def _data_point(model: Model, theta: Params) -> DataPoint:
    try:
        return data_point(model, theta)
    except MISFITS as error:
        _blame("theta", "model", model.init, theta, error)
        raise


def _blame(name: str, part: str, init: Callable, given: Params, error: Exception) -> None:
    """Raise for parameters of another structure or shape than `init` gives, if they are."""
    own, got = _start(init), _outline(given)
    if own is not None and got != own:
        raise ValueError(
            f"{name}: expected parameters as {part}.init makes them, {_short(own)}, got "
            f"{_short(got)} ({type(error).__name__}: {error}); pass those that belong "
            f"to this {part}"
        ) from error


def _start(init: Callable) -> tuple[Any, Any] | None:
    """The outline of what `init` makes, or None for one that makes nothing."""
    try:
        return _outline(jax.eval_shape(init, jax.random.key(0)))
    except MISFITS:
        return None


def _outline(tree: Params) -> tuple[Any, list[tuple[int, ...]]]:
    """The structure and shapes of parameters."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [tuple(jnp.shape(leaf)) for leaf in leaves]


def _short(outline: tuple[Any, Any], limit: int = 160) -> str:
    """An outline in words, cut short for a network."""
    structure, shapes = outline
    text = str(jax.tree.unflatten(structure, [list(shape) for shape in shapes]))
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _drawn(build: Callable, name: str, *arguments: Any) -> Latent:
    """One draw of build(*arguments), abstractly."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(unchanged, arguments))
    return _draw(build, name, structure, tuple(leaves))


@lru_cache(maxsize=2 * KEPT)
def _draw(build: Callable, name: str, structure: Any, leaves: tuple[Any, ...]) -> Latent:
    def draw(key: Any, *arguments: Any) -> Latent:
        return checks.distribution(build(*arguments), name).sample(seed=key)

    return jax.eval_shape(draw, jax.random.key(0), *jax.tree.unflatten(structure, leaves))


def _describe(z: Latent) -> Latent:
    """Its structure and shapes, and whether its parts are floats or integers."""
    return jax.tree.map(lambda leaf: f"{leaf.dtype.kind}{list(leaf.shape)}", z)


def _has(value: Any, part: str) -> bool:
    return callable(getattr(value, part, None))
