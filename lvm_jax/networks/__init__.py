"""Neural networks as two pure functions: `init(key)` -> parameters, `apply(parameters, x)`.

flax.nnx builds them and stays inside: the parameters are nested dictionaries of arrays with names
for keys ({"hidden_0": {"kernel": [in, out], "bias": [out]}, ..., "output": ...}), which jax.tree,
optax, orbax and jax.vmap take as they are. A network is split from its module once, when it is
made; `apply` merges while JAX traces, so a compiled program holds the products and nothing else.

All kernels start Glorot-uniform, U(-a, a) with a = sqrt(6 / (fan_in + fan_out)), and all biases at
0, as in the code of Burda et al. (2016). `apply` computes in the dtype of the parameters, which is
JAX's default float when `init` makes them: an x of another dtype is cast, also a 0/1 or a count.
"""

from lvm_jax.networks.base import ACTIVATIONS, Activation, Network, find_activation
from lvm_jax.networks.convolutions import conv_decoder, conv_encoder
from lvm_jax.networks.dense import mlp
from lvm_jax.networks.modules import from_linen, from_nnx

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Network",
    "conv_decoder",
    "conv_encoder",
    "find_activation",
    "from_linen",
    "from_nnx",
    "mlp",
]
