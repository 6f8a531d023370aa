"""Normalising flows: flexible densities from invertible networks."""

from collections.abc import Callable, Sequence

from lvm_jax.distributions.flows.autoregressive import Autoregressive, autoregressive
from lvm_jax.distributions.flows.coupling import Coupling, coupling
from lvm_jax.distributions.flows.flow import Flow, Layer
from lvm_jax.typing import Array, Key

# kind: (key, dim, hidden, context_dim) -> a layer that starts as the identity
LAYERS: dict[str, Callable[[Key[Array, ""], int, Sequence[int], int], Layer]] = {
    "iaf": autoregressive,
    "coupling": coupling,
}

__all__ = ["LAYERS", "Autoregressive", "Coupling", "Flow", "Layer", "autoregressive", "coupling"]
