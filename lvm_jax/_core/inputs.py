"""Validation of p, q and data, without compilation: by abstract evaluation and on the host."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax

from lvm_jax._core import checks, support
from lvm_jax._core.trees import check_trees, differences, outline, shortened
from lvm_jax.guides.base import Conditional
from lvm_jax.guides.shared import shared
from lvm_jax.models.base import (
    CACHED,
    STRUCTURE_ERRORS,
    DataPoint,
    Joint,
    context_error,
    data_point,
    unchanged,
)
from lvm_jax.typing import ArrayLike, Latent, Params

CURES = {
    "Model": "model(theta)",
    "Guide": "guide(phi)",
    "Family": "guides.shared(family)(eta), or a guide of guides.amortized(family, ...)",
    "Likelihood": "one of lvm_jax.models with it, model(theta)",
    "Network": "guides.amortized(family, network.init, network.apply)(phi)",
}


def check_problem(p: Any, q: Any, x: Any) -> Any:
    """Return x as arrays; ValueError or TypeError if p, q and x do not match.

    q may be None, which means the prior.
    """
    check_bound(p, q)
    x = check_data(p, x)
    if q is not None:
        check_q(p, q, one_of(x))
    return x


def one_of(x: Any) -> Any:
    """Shapes and dtypes of one row of x, leaves [N, ...], as on the device."""

    def row(leaf: ArrayLike) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape[1:], jax.dtypes.canonicalize_dtype(leaf.dtype))

    return jax.tree.map(row, x)


def check_bound(p: Any, q: Any) -> None:
    """Raise TypeError unless p has log_joint(x) and q is a function of x."""
    if callable(p) and not _has(p, "log_joint") and _has(q, "log_joint"):
        raise TypeError(
            "p: expected the model, then the guide, got them the other way round; swap p and q"
        )
    if not _has(p, "log_joint"):
        _refuse("p", "a model with its parameters, which has log_joint(x)", p, "model(theta)")
    if q is not None and (not callable(q) or _has(q, "log_joint") or type(q).__name__ in CURES):
        _refuse("q", "a guide with its parameters, a function of x", q, "guide(phi)")
    check_trees((p, q))
    if isinstance(p, Joint) and isinstance(q, Conditional):
        check_order(p, q)


def _refuse(name: str, expected: str, value: Any, cure: str) -> None:
    kind = type(value).__name__
    cure = CURES.get(kind, f"{cure}, of one of lvm_jax.{'models' if name == 'p' else 'guides'}")
    raise TypeError(f"{name}: expected {expected}, got a {kind}; use {cure}")


def check_order(p: Joint, q: Conditional) -> None:
    """Raise ValueError if theta and phi are swapped, by the shapes of their `init`."""
    given = outline(p.theta), outline(q.phi)
    own = _start(p.model.init), _start(q.guide.init)
    if given == own[::-1] and given != own:
        raise ValueError(
            f"p: expected parameters of the model, {shortened(given[1])}, got those of the guide, "
            f"{shortened(given[0])}; swap theta and phi"
        )


def check_data(p: Any, x: Any, name: str = "x", minimum: int = 1) -> Any:
    """Return x as arrays [N, ...]; ValueError or TypeError for data that the model cannot generate.

    x is an array, memory map, data frame, sequence, or a pytree of such leaves, with at least
    `minimum` rows of the model's shape and support. Leaves that the model does not generate, and
    all leaves if p is not a `Joint`, have to be finite. Data are read in blocks.
    """
    rows = check_rows(x, name, minimum)
    seen, point = rows, DataPoint(None, support.REAL)
    if isinstance(p, Joint):
        try:
            seen = p.observed(rows)
        except ValueError as error:
            raise ValueError(f"{name}{str(error).removeprefix('x')}") from error
        point = check_theta(p, one_of(rows), name)
        _check_shapes(point.x, seen, name, rows)
    own = {id(leaf): of_leaf for leaf, of_leaf in support.of_leaves(point.support, seen)}
    for path, leaf in _leaves(rows):
        support.check(own.get(id(leaf), support.REAL), leaf, name + jax.tree_util.keystr(path))
    return rows


def _check_shapes(point: Any, seen: Any, name: str, rows: Any) -> None:
    """Raise ValueError for rows of another structure or shape than the model's draws."""
    expected = _shapes(point)
    got = jax.tree.map(lambda leaf: list(leaf.shape[1:]), seen)
    if expected == got:
        return
    if len({jax.tree.structure(tree) for tree in (point, seen)}) == 1:
        paths = {id(leaf): jax.tree_util.keystr(path) for path, leaf in _leaves(rows)}
        for one, leaf in zip(jax.tree.leaves(point), jax.tree.leaves(seen), strict=True):
            if one.shape != leaf.shape[1:]:
                sizes = "".join(f", {size}" for size in one.shape)
                raise ValueError(
                    f"{name}{paths[id(leaf)]}: expected shape [N{sizes}], as the model draws its "
                    f"data, got {list(leaf.shape)}; make the model for data of that shape"
                )
    raise ValueError(
        f"{name}: expected rows of {expected}, as the model draws its data, got rows of {got}; "
        "set the model's `observed` to the part that it generates, and `given` to the other inputs"
    )


def is_tree(x: Any) -> bool:
    """Whether x is a pytree of arrays, such as a dict, rather than an array or a sequence."""
    named = isinstance(x, Mapping) or hasattr(x, "_fields") or dataclasses.is_dataclass(x)
    return named and not jax.tree_util.all_leaves([x])


def check_rows(x: Any, name: str = "x", minimum: int = 1) -> Any:
    """Return x as arrays of real numbers [N, ...], N >= minimum, the same N in every leaf.

    It does not read the values.
    """
    if not is_tree(x):
        return _check_rows(x, name, minimum)
    rows = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _check_rows(leaf, name + jax.tree_util.keystr(path), minimum), x
    )
    lengths = {name_of(path): len(leaf) for path, leaf in _leaves(rows)}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"{name}: expected leaves with the same N, got {lengths}; give each leaf one row per "
            "data point"
        )
    if not lengths:
        raise ValueError(f"{name}: expected at least one array, got {x!r}")
    return rows


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(tree)


def name_of(path: Any) -> str:
    """The name of a leaf from its path: .theta['w'] becomes theta['w']."""
    return jax.tree_util.keystr(path).lstrip(".")


def _check_rows(x: Any, name: str, minimum: int) -> ArrayLike:
    array = checks.real_array(x, name)
    if array.ndim < 1 or array.shape[0] < minimum:
        least = "one data point" if minimum == 1 else f"{minimum} data points"
        raise ValueError(
            f"{name}: expected an array of at least {least}, [N, ...], got shape "
            f"{list(array.shape)}" + ("; lower batch_size" if minimum > 1 else "")
        )
    return array


def check_simulated(p: Any, q: Any) -> None:
    """`check_problem` for data x that the model simulates."""
    check_bound(p, q)
    if not (_has(p, "prior") and _has(p, "sample")):
        raise TypeError(
            "p: expected a model that draws x, with prior() and sample(key), got a "
            f"{type(p).__name__}; use one of lvm_jax.models"
        )
    if isinstance(p, Joint) and (p.model.given or p.model.observed):
        raise ValueError(
            "p: expected a model that draws whole data points, got one with `given` or `observed`; "
            "its data cannot be simulated"
        )
    point = check_theta(p).x if isinstance(p, Joint) else jax.eval_shape(_simulated, p)
    if q is not None:
        check_q(p, q, point)


def check_q(p: Any, q: Any, point: Any, name: str = "q") -> None:
    """Raise ValueError if q(z | x) cannot be built, or its z has another structure than p's.

    `point` has the shape and dtype of one x. It and the leaves of p and q may be abstract.
    """
    try:
        guided = _drawn(_call, "q(x)", q, point)
    except STRUCTURE_ERRORS as error:
        if isinstance(q, Conditional):
            _blame("phi", "guide", q.guide.init, q.phi, error)
        raise ValueError(
            f"{name}: expected q(z | x) of an x of shape {_shapes(point)}, got "
            f"{type(error).__name__}: {error}; make the guide for data of that shape"
        ) from error
    if not _has(p, "prior"):
        return
    z = _drawn(_prior, "p.prior", p, point)
    found = differences(z, guided)
    if found is not None:
        part, expected, got = found
        raise ValueError(
            f"{name}: expected a q that draws {part} as the model's prior does, {expected}, got "
            f"{got}; make that part of model and guide of one shape and one kind of number"
        )


def check_family(p: Any, family: Any, point: Any) -> None:
    """Raise an error for another type than a family, or for a family with another z than p's."""
    if not (_has(family, "init") and _has(family, "build")):
        cure = "guides.mean_field(D), or the family that the guide was made of"
        raise TypeError(f"family: expected a Family, got a {type(family).__name__}; use {cure}")
    eta = jax.eval_shape(family.init, jax.random.key(0))
    check_q(p, shared(family)(eta), point, "family")


def check_theta(p: Joint, x: Any = None, name: str = "x") -> DataPoint:
    """Return the shape of the observed part of one x; ValueError for parameters of another model.

    x is one data point, abstract; a model with `given` needs it.
    """
    try:
        return data_point(p, x)
    except STRUCTURE_ERRORS as error:
        _blame("theta", "model", p.model.init, p.theta, error)
        if p.model.given is None:
            raise
        raise context_error(x, error, name) from error


def _shapes(point: Any) -> Any:
    return jax.tree.map(lambda leaf: list(leaf.shape), point)


def _call(q: Any, point: Any) -> Any:
    return q(point)


def _prior(p: Any, point: Any) -> Any:
    return p.prior(point)


def _simulated(p: Any) -> Any:
    return p.sample(jax.random.key(0))[1]


def _blame(name: str, part: str, init: Callable, given: Params, error: Exception) -> None:
    """Raise ValueError if the parameters differ from those of `init` in structure or shape."""
    own, got = _start(init), outline(given)
    if own is not None and got != own:
        raise ValueError(
            f"{name}: expected parameters as {part}.init makes them, {shortened(own)}, got "
            f"{shortened(got)} ({type(error).__name__}: {error}); pass the parameters "
            f"of this {part}"
        ) from error


def _start(init: Callable) -> tuple[Any, Any] | None:
    """The outline of the parameters of `init`, or None if `init` fails."""
    try:
        return outline(jax.eval_shape(init, jax.random.key(0)))
    except STRUCTURE_ERRORS:
        return None


def _drawn(build: Callable, name: str, *arguments: Any) -> Latent:
    """Shape and dtype of one draw of build(*arguments)."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(unchanged, arguments))
    return _draw(build, name, structure, tuple(leaves))


@lru_cache(maxsize=2 * CACHED)
def _draw(build: Callable, name: str, structure: Any, leaves: tuple[Any, ...]) -> Latent:
    def draw(key: Any, *arguments: Any) -> Latent:
        return checks.distribution(build(*arguments), name).sample(seed=key)

    return jax.eval_shape(draw, jax.random.key(0), *jax.tree.unflatten(structure, leaves))


def _has(value: Any, part: str) -> bool:
    return callable(getattr(value, part, None))
