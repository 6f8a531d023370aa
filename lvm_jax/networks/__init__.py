"""Neural networks as two pure functions: `init(key)` -> parameters, `apply(parameters, x)`.

The networks are flax.nnx modules internally. Parameters are nested dictionaries of arrays
({"hidden_0": {"kernel": [in, out], "bias": [out]}, ..., "output": ...}), which jax.tree, optax,
orbax and jax.vmap accept.

All kernels start Glorot-uniform, U(-a, a) with a = sqrt(6 / (fan_in + fan_out)), and all biases at
0, as in the code of Burda et al. (2016). `init` gives parameters of JAX's default float type.
`apply` computes in the dtype of the parameters and casts x to it.
"""

from lvm_jax.networks.base import ACTIVATIONS, Activation, Network
from lvm_jax.networks.convolutions import conv_decoder, conv_encoder
from lvm_jax.networks.dense import mlp
from lvm_jax.networks.modules import from_linen, from_nnx

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Network",
    "conv_decoder",
    "conv_encoder",
    "from_linen",
    "from_nnx",
    "mlp",
]
