"""The families of q by name."""

from collections.abc import Callable

import jax

from lvm_jax import guides
from lvm_jax._core import checks
from lvm_jax.guides import Family

FAMILIES: dict[str, Callable[[int], Family]] = {
    "mean_field": guides.mean_field,
    "full_rank": guides.full_rank,
    "low_rank": lambda dim: guides.low_rank(dim, min(10, dim - 1)),
    "flow": lambda dim: guides.flow_family("coupling", dim, 4, (64,)),
    "inverse_autoregressive": lambda dim: guides.flow_family("iaf", dim, 4, (64,)),
}


def as_family(family: str | Family, dim: int) -> Family:
    """A family of q in `dim` dimensions, by name or as it is."""
    if isinstance(family, Family):
        return family
    return FAMILIES[family](dim)


def check_family(family: str | Family, dim: int) -> str | Family:
    """The family, if its q has `dim` dimensions."""
    if isinstance(family, str):
        name = checks.choice(family, "family", (*FAMILIES, "mixture"))
        if name in ("low_rank", "flow") and dim < 2:
            raise ValueError(f"family: expected mean_field for a start of one number, got {name!r}")
        return name
    if not isinstance(family, Family):
        raise TypeError(
            f"family: expected one of {', '.join(FAMILIES)} or a Family of guides, such as "
            f"guides.low_rank({dim}, 1), got {type(family).__name__}"
        )
    eta = jax.eval_shape(family.init, jax.random.key(0))
    drawn = jax.eval_shape(lambda eta: family.build(eta).sample(seed=jax.random.key(0)), eta)
    if getattr(drawn, "shape", None) != (dim,):
        raise ValueError(
            f"family: expected one of [{dim}], as start has {dim} numbers, got {drawn}"
        )
    return family
