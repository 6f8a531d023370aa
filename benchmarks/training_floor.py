"""The matrix products of a training step, the floor of `benchmarks.training`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness
from benchmarks.decoder import HIDDEN, LATENT, PIXELS


def flops(case: dict[str, Any]) -> float:
    """FLOPs of the matrix products of a step: forward, and backward for weights and inputs."""
    layers = [(a, b, rows) for rows, sizes in products(case) for a, b in sizes]
    first = 2 * PIXELS * HIDDEN * case["batch"]  # the images have no gradient
    return 3 * sum(2 * a * b * rows for a, b, rows in layers) - first


def products(case: dict[str, Any]) -> list[tuple[int, list[tuple[int, int]]]]:
    """Rows and layers of the encoder and of the decoder."""
    encoder = [(PIXELS, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 2 * LATENT)]
    decoder = [(LATENT, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, PIXELS)]
    return [(case["batch"], encoder), (case["batch"] * case["samples"], decoder)]


def product(case: dict[str, Any]) -> dict[str, Any]:
    """A loop over the matrix products of a step, each of which changes its weight."""
    shapes = products(case)
    weights = [[jnp.full(size, 1e-2) for size in sizes] for _, sizes in shapes]
    inputs = [jnp.ones((rows, sizes[0][0])) for rows, sizes in shapes]

    def network(weights: Any, h: jax.Array, to_input: bool) -> Any:
        seen = [h]
        for weight in weights:
            seen.append(seen[-1] @ weight)
        slope, moved = seen.pop(), []
        for place, weight in reversed(list(enumerate(weights))):
            moved.append(weight - 1e-30 * (seen[place].T @ slope))
            if place or to_input:
                slope = slope @ weight.T
        return moved[::-1], 1e-30 * slope if to_input else 0.0

    def step(_: int, carry: Any) -> Any:
        (encoder, decoder), z = carry
        encoder, _ = network(encoder, inputs[0], False)
        decoder, change = network(decoder, z, True)
        return [encoder, decoder], z + change

    loop = jax.jit(lambda carry: jax.lax.fori_loop(0, case["steps"], step, carry))
    return per_step(lambda: jax.block_until_ready(loop((weights, inputs[1]))), case)


def per_step(run: Callable[[], Any], case: dict[str, Any]) -> dict[str, float]:
    """The timing of a run, with the seconds of one of its steps."""
    found = harness.timed(run, case["repeats"])
    return {**found, "seconds": found["seconds"] / case["steps"]}
