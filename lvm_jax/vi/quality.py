"""How good q is: the ELBO and log Z from new draws, by importance sampling or by annealing."""

import jax

from lvm_jax import annealing, weights
from lvm_jax.compiling import bounded_jit
from lvm_jax.estimate import Estimate
from lvm_jax.evidence import Evidence, annealed, from_log_weights
from lvm_jax.typing import Array, Distribution, Float, Key, Scalar
from lvm_jax.vi.density import Density, LogDensity

CHUNK = 1_000  # draws in one evaluation of the weights
NUM_CHAINS, NUM_TEMPERATURES = 256, 200  # of annealing from q


@bounded_jit(2, 3)
def measure(
    key: Key[Array, ""], q: Distribution, log_density: LogDensity, num_chunks: int
) -> tuple[Estimate, Evidence]:
    """The ELBO and log Z, from the same draws of q."""

    def chunk(key: Key[Array, ""]) -> Float[Array, " S"]:
        return weights.log_weights(key, log_density, q, CHUNK)

    log_w = jax.lax.map(chunk, jax.random.split(key, num_chunks)).ravel()
    return Estimate.of_draws(log_w), from_log_weights(log_w)


@bounded_jit(2)
def anneal(key: Key[Array, ""], q: Distribution, log_density: LogDensity) -> Evidence:
    """log Z by annealed chains from q, for a q whose weights are not trusted."""
    plan = annealing.plan(annealing.sigmoid(NUM_TEMPERATURES))
    return annealed(key, log_density, q, NUM_CHAINS, plan).evidence


@bounded_jit()
def value_and_grad(u: Float[Array, " D"], density: Density) -> tuple[Scalar, Array]:
    """The log-density of one u with its gradient."""
    return jax.value_and_grad(density)(u)
