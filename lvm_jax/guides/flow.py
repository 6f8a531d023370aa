"""Normalising flows as a family of q and as an amortised guide."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax.distributions.flows import LAYERS, Flow
from lvm_jax.guides.amortized import amortized
from lvm_jax.guides.base import Family, Guide
from lvm_jax.networks.base import Network, widths
from lvm_jax.typing import Array, Key

OF_X = ("loc", "log_scale", "context")  # the fields of eta that depend on x in an amortised flow


def flow_family(
    kind: str, dim: int, num_layers: int, hidden: Sequence[int], context_dim: int = 0
) -> Family:
    """A flow of `num_layers` layers in `dim` dimensions; eta is a `distributions.Flow`.

    `kind` is "iaf" (inverse autoregressive: draws with their densities cost one pass, the density
    of another z costs up to `dim` passes) or "coupling" (one pass for each, dim >= 2). `hidden`
    are the hidden widths of the network of each layer, such as (64,). The flow starts at N(0, I):
    hidden weights are random and last layers are zero. Each network takes a context h of
    `context_dim` numbers, for guides that compute h from x; `shared` and `per_point` need none.

    Raises ValueError or TypeError for sizes that are not positive integers or an unknown kind.
    """
    checks.choice(kind, "kind", tuple(LAYERS))
    dim = checks.integer(dim, "dim", 2 if kind == "coupling" else 1)
    num_layers = checks.integer(num_layers, "num_layers", 1)
    hidden = widths(hidden, "hidden", 1)
    context_dim = checks.integer(context_dim, "context_dim", 0)

    def init(key: Key[Array, ""]) -> Flow:
        checks.key(key)
        layers = jax.vmap(lambda key: LAYERS[kind](key, dim, hidden, context_dim))
        context = jnp.zeros(context_dim) if context_dim else None
        keys = jax.random.split(key, num_layers)
        return Flow(jnp.zeros(dim), jnp.zeros(dim), context, layers(keys))

    return Family(init, build=lambda eta: eta)


def flow(kind: str, dim: int, num_layers: int, hidden: Sequence[int], network: Network) -> Guide:
    """q(z | x), a flow whose loc, log_scale and context h(x) come from a network of x.

    `network` has 2 `dim` + C outputs; the last C >= 0 are the context. All x share the layers. See
    `flow_family` for the other arguments. `gradients.reparameterized` and importance sampling do
    not invert the flow. `sticking_the_landing` and `doubly_reparameterized` do: at D = 50 their
    gradient takes 4 (near the identity) to 14 times as long as `reparameterized` with "iaf", and
    1.5 times with "coupling" (four layers of width 100, 100 draws, two CPU cores).

    Raises ValueError for a network with fewer than 2 `dim` outputs, and as `flow_family`.
    """
    dim = checks.integer(dim, "dim", 1)
    context_dim = network.num_outputs - 2 * dim
    if context_dim < 0:
        raise ValueError(
            f"network: expected at least 2 dim = {2 * dim} outputs (loc, log_scale, then the "
            f"context), got {network.num_outputs}"
        )
    family = flow_family(kind, dim, num_layers, hidden, context_dim)
    return amortized(family, network.init, network.apply, OF_X if context_dim else OF_X[:2])
