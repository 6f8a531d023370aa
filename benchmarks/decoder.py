"""The decoder whose matrix products are the floor of an evaluation, and its data.

A 50-200-200-784 tanh network of logits, an encoder of the same size, and random binary images.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from lvm_jax import precision
from lvm_jax._core.batching import rows_for_device

LATENT, HIDDEN, PIXELS = 50, 200, 784
CHUNK = 1_000  # rows of the floor's products on a CPU
FLOPS_PER_ROW = 2 * (LATENT * HIDDEN + HIDDEN * HIDDEN + HIDDEN * PIXELS)


def layer(key: jax.Array, rows: int, columns: int) -> tuple[jax.Array, jax.Array]:
    """Glorot's weights and zero biases."""
    limit = np.sqrt(6 / (rows + columns))
    return jax.random.uniform(key, (rows, columns), minval=-limit, maxval=limit), jnp.zeros(columns)


def network(layers: Any, h: jax.Array) -> jax.Array:
    """A tanh network with a linear last layer, for one vector."""
    for weight, bias in layers[:-1]:
        h = jnp.tanh(h @ weight + bias)
    weight, bias = layers[-1]
    return h @ weight + bias


def problem(case: dict[str, Any]) -> tuple[Any, Any, jax.Array]:
    """Decoder, encoder and N random binary images."""
    keys = jax.random.split(jax.random.key(case["seed"]), 7)
    sizes = (LATENT, HIDDEN, HIDDEN, PIXELS)
    theta = [layer(k, a, b) for k, a, b in zip(keys[:3], sizes[:-1], sizes[1:], strict=True)]
    sizes = (PIXELS, HIDDEN, HIDDEN, 2 * LATENT)
    phi = [layer(k, a, b) for k, a, b in zip(keys[3:6], sizes[:-1], sizes[1:], strict=True)]
    x = jax.random.bernoulli(keys[6], 0.2, (case["points"], PIXELS)).astype(jnp.float32)
    return theta, phi, x


def posterior(phi: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Location and scale of q(z | x)."""
    loc, raw = jnp.split(network(phi, x), 2)
    return loc, jnp.exp(0.3 * raw - 1)


def ours() -> tuple[Any, Any]:
    """The same model and guide in lvm_jax."""
    from lvm_jax import distributions
    from lvm_jax.guides import Guide
    from lvm_jax.models import Model

    model = Model(
        init=lambda key: None,
        prior=lambda theta: distributions.normal(jnp.zeros(LATENT), jnp.ones(LATENT)),
        likelihood=lambda theta, z: distributions.Bernoulli(network(theta, z)),
    )
    guide = Guide(lambda key: None, lambda phi, x: distributions.normal(*posterior(phi, x)))
    return model, guide


def product(case: dict[str, Any]) -> dict[str, Any]:
    """The three matrix products of the decoder for all rows, in chunks, in float32."""
    theta, _, _ = problem(case)
    rows = rows_for_device(CHUNK)
    chunks = -(-case["points"] * case["samples"] // rows)
    z = jax.random.normal(jax.random.key(1), (rows, LATENT))

    @jax.jit
    @precision.full_by_default
    def evaluate(z: jax.Array) -> jax.Array:
        def body(_: int, h: jax.Array) -> jax.Array:
            out = h
            for weight, _ in theta:
                out = out @ weight
            return h + 1e-30 * out[:, :LATENT]  # so that the compiler keeps every product

        return jax.lax.fori_loop(0, chunks, body, z)

    return with_speed(
        case, harness.timed(lambda: jax.block_until_ready(evaluate(z)), case["repeats"])
    )


def with_speed(case: dict[str, Any], found: dict[str, float]) -> dict[str, float]:
    """The numbers of a measurement with its rate, counting the decoder's products only."""
    rows = case["points"] * case["samples"]
    return {**found, "gigaflops": rows * FLOPS_PER_ROW / found["seconds"] / 1e9}
