"""Amortised guides: a function of x gives the parameters of q(z | x)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax.guides.base import Family, Guide
from lvm_jax.typing import Array, Float, Key, Params


class Amortized(NamedTuple):
    """phi: eta(x) = offset + network(x), for the amortised fields of eta."""

    offset: Params  # eta, the parameters of the family
    network: Params


def amortized(
    family: Family,
    init: Callable[[Key[Array, ""]], Params],
    apply: Callable[[Params, Any], Float[Array, " P"]],
    fields: Sequence[str] | None = None,
) -> Guide:
    """q(z | x) = family(offset + g(x)), with g any network.

    `init(key)` gives the parameters of g. `apply(parameters, x)` maps one x to
    P = `num_outputs(family, fields)` numbers, the concatenated fields of eta. The offset is
    learned and starts at the initial eta of the family, so the last layer of g needs no bias.
    `fields` names the fields of eta that depend on x, such as ("loc",); all x share the others.
    None means all fields.

    Raises ValueError for unknown fields, and on use for a wrong number of outputs.
    """
    fields = _check_fields(family, fields)
    num = num_outputs(family, fields)

    def start(key: Key[Array, ""]) -> Amortized:
        checks.key(key)
        key_family, key_network = jax.random.split(key)
        return Amortized(family.init(key_family), init(key_network))

    @precision.full_by_default
    def posterior(phi: Amortized, x: Any) -> Any:
        flat, unravel = ravel_pytree(_select(phi.offset, fields))
        moved = apply(phi.network, x)
        if jnp.shape(moved) != (num,):
            raise ValueError(
                f"apply: expected {num} numbers, the parameters of q, for one x; got shape "
                f"{jnp.shape(moved)} for x of shape {jnp.shape(x)}"
            )
        return family.build(_replace(phi.offset, fields, unravel(flat + moved)))

    return Guide(start, posterior)


def linear(family: Family, x_dim: int, fields: Sequence[str] | None = None) -> Guide:
    """q(z | x) = family(offset + A x), A [P, x_dim] starting at zero; see `amortized`.

    With `location(dim, scale)` and D = `x_dim` this is q(z | x) = N(A x + b, scale^2 I).

    Raises ValueError for unknown fields or an x that is not [x_dim].
    """
    x_dim = checks.integer(x_dim, "x_dim", 1)
    shape = (num_outputs(family, fields), x_dim)

    def apply(weight: Float[Array, "P D"], x: Float[Array, " D"]) -> Float[Array, " P"]:
        if jnp.shape(x) != (x_dim,):
            raise ValueError(f"x: expected shape ({x_dim},), got {jnp.shape(x)}")
        return weight @ x

    return amortized(family, lambda key: jnp.zeros(shape), apply, fields)


def num_outputs(family: Family, fields: Sequence[str] | None = None) -> int:
    """The number of parameters in eta of the family, or in the named fields of eta."""
    eta = jax.eval_shape(family.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(_select(eta, _check_fields(family, fields))))


def _check_fields(family: Family, fields: Sequence[str] | None) -> tuple[str, ...] | None:
    if fields is None:
        return None
    if isinstance(fields, str) or not fields:
        raise ValueError(f'fields: expected names such as ("loc",) or None, got {fields!r}')
    known = getattr(jax.eval_shape(family.init, jax.random.key(0)), "_fields", ())
    return tuple(checks.choice(name, "fields", known) for name in fields)


def _select(eta: Any, fields: tuple[str, ...] | None) -> Params:
    return eta if fields is None else tuple(getattr(eta, name) for name in fields)


def _replace(eta: Any, fields: tuple[str, ...] | None, new: Params) -> Params:
    return new if fields is None else eta._replace(**dict(zip(fields, new, strict=True)))
