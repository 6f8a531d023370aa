"""The kind of a distribution, read from its type; all type checks of callers are here."""

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
    """All kinds of latent variable that q belongs to, read from its type."""
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
    """Whether q is a product of independent one-hot rows, as made by `one_hot`."""
    rows = native(q)
    is_rows = isinstance(rows, Independent) and isinstance(rows.distribution, OneHotCategorical)
    return is_rows and not isinstance(q, Adapted)


def type_name(q: Distribution) -> str:
    """The name of the type of q, with the type inside an Independent."""
    q = native(q)
    if isinstance(q, Independent):
        return f"Independent({type(q.distribution).__name__})"
    return type(q).__name__


def is_flow(q: Distribution) -> bool:
    """Whether q is a flow, whose `log_prob` inverts the flow."""
    return isinstance(q, Flow)


def factors(q: Distribution) -> Callable[[Array], Array] | None:
    """The function z -> log q(z_d), [D], or None if q has no known factors."""
    q = native(q)
    if isinstance(q, Independent):
        return q.distribution.log_prob
    if isinstance(q, Bernoulli):
        return lambda z: z * q.logits - jax.nn.softplus(q.logits)
    return None


def has_parts(q: Distribution) -> TypeGuard[Successive]:
    """Whether q is a `Successive`, whose z has two named parts."""
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
    """E_q[z] from draws; for a chain from conditional means, the first part's by `first`."""
    z = q.sample(seed=key, sample_shape=(num_samples,))
    if isinstance(q, Chain):
        return q.mean_given(z, first(key, q.first, num_samples))
    return jax.tree.map(lambda leaf: leaf.mean(0), z)
