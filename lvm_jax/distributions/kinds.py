"""What a distribution is, read from its type: the one place that asks for types."""

from collections.abc import Callable
from typing import Any, Literal, TypeGuard

import jax

from lvm_jax.distributions.base import Table, is_reparameterized, support
from lvm_jax.distributions.bits import Bernoulli
from lvm_jax.distributions.chain import Chain
from lvm_jax.distributions.flows import Flow
from lvm_jax.distributions.foreign import Adapted, innermost, native
from lvm_jax.distributions.labels import Categorical, OneHotCategorical
from lvm_jax.distributions.scalar import Independent
from lvm_jax.distributions.successive import Successive
from lvm_jax.typing import Array, Distribution, Key, Latent

LatentKind = Literal["any", "reparameterized", "finite", "relaxable", "bernoulli"]


def latent_kinds(q: Distribution) -> set[LatentKind]:
    """Every kind of latent variable that q is, read from its type."""
    kinds: set[LatentKind] = {"any"}
    if is_reparameterized(q):
        kinds.add("reparameterized")
    # An OneHotCategorical is a Categorical.
    if isinstance(innermost(native(q)), Bernoulli | Categorical | Table):
        kinds.add("finite")
    if isinstance(q, Bernoulli):
        kinds |= {"bernoulli", "relaxable"}
    if is_one_hot(q):
        kinds.add("relaxable")
    return kinds


def is_one_hot(q: Distribution) -> bool:
    """Is q independent one-hot rows, as `one_hot` makes them?"""
    rows = native(q)
    is_rows = isinstance(rows, Independent) and isinstance(rows.distribution, OneHotCategorical)
    return is_rows and not isinstance(q, Adapted)


def type_name(q: Distribution) -> str:
    """The type of q, and of what it repeats."""
    q = native(q)
    if isinstance(q, Independent):
        return f"Independent({type(q.distribution).__name__})"
    return type(q).__name__


def is_flow(q: Distribution) -> bool:
    """Is q a flow, whose density of a z that it did not draw needs the inverse?"""
    return isinstance(q, Flow)


def factors(q: Distribution) -> Callable[[Array], Array] | None:
    """z -> log q(z_d), [D], or None where q is not known to factorise."""
    q = native(q)
    if isinstance(q, Independent):
        return q.distribution.log_prob
    if isinstance(q, Bernoulli):
        return lambda z: z * q.logits - jax.nn.softplus(q.logits)
    return None


def has_parts(q: Distribution) -> TypeGuard[Successive]:
    """Is q a `Successive`, whose z has two named parts?"""
    return isinstance(q, Successive)


def finite_part(q: Distribution) -> Any:
    """The values of the first part of a `Successive`; None for another q.

    Raises TypeError for a first part that is not finite.
    """
    if not isinstance(q, Successive):
        return None
    values = support(q.first)
    if values is None:
        raise TypeError(
            "q: expected a Successive whose first part is finite, such as "
            f"distributions.Categorical, got {type(q.first).__name__}"
        )
    return values


def mean_of_draws(
    key: Key[Array, ""], q: Distribution, num_samples: int, first: Callable
) -> Latent:
    """E_q[z] by draws; of a chain by its conditional means, from the `first` one."""
    z = q.sample(seed=key, sample_shape=(num_samples,))
    if isinstance(q, Chain):
        return q.mean_given(z, first(key, q.first, num_samples))
    return jax.tree.map(lambda leaf: leaf.mean(0), z)
