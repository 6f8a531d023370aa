"""Log-weights of known distributions: the first table of `benchmarks.coverage`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import distributions, evidence
from lvm_jax.evidence import Evidence
from lvm_jax.evidence.result import check_chains

Run = Callable[[Any], tuple[Any, Evidence]]  # key -> log p(x), Evidence


def normal(dim: int, scale: float, size: int) -> Run:
    """Importance sampling of N(0, I) from N(0, scale^2 I)."""
    target = distributions.normal(jnp.zeros(dim), jnp.ones(dim))
    q = distributions.normal(jnp.zeros(dim), jnp.full(dim, scale))
    return lambda key: (0.0, evidence.importance(key, target.log_prob, q, size))


def drawn(log_weights: Callable, truth: float, size: int, of_chains: bool = False) -> Run:
    """Log-weights of a known distribution."""

    def run(key: Any) -> tuple[Any, Evidence]:
        log_w = log_weights(key, size)
        found = evidence.from_log_weights(log_w)
        return truth, check_chains(found, log_w, jnp.ones(1), True) if of_chains else found

    return run


def lognormal(spread: float, size: int, of_chains: bool = True) -> Run:
    """log w ~ N(0, spread^2), E[w] = exp(spread^2 / 2)."""
    draw = lambda key, size: spread * jax.random.normal(key, (size,))  # noqa: E731
    return drawn(draw, spread**2 / 2, size, of_chains)


def pareto(shape: float, size: int) -> Run:
    """w = u^-shape, E[w] = 1 / (1 - shape)."""
    draw = lambda key, size: shape * jax.random.exponential(key, (size,))  # noqa: E731
    return drawn(draw, -np.log1p(-shape), size)


def rare(share: float, size: int) -> Run:
    """A mode of 30 times the weight, drawn with probability `share`."""
    draw = lambda key, size: jnp.where(  # noqa: E731
        jax.random.bernoulli(key, share, (size,)), np.log(30.0), 0.0
    )
    return drawn(draw, np.log(1 + 29 * share), size)


LAWS: dict[str, Run] = {
    "lognormal weights, spread 0.5, 30 chains": lognormal(0.5, 30),
    "the same, spread 1": lognormal(1.0, 30),
    "the same, spread 2": lognormal(2.0, 30),
    "lognormal weights, spread 1, 1,000 draws": lognormal(1.0, 1_000, False),
    "the same, spread 1.5": lognormal(1.5, 1_000, False),
    "the same, spread 3": lognormal(3.0, 1_000, False),
    "Pareto weights, k = 0.3, 1,000 draws": pareto(0.3, 1_000),
    "the same, k = 0.5": pareto(0.5, 1_000),
    "the same, k = 0.7": pareto(0.7, 1_000),
    "the same, k = 0.9": pareto(0.9, 1_000),
    "a mode of 30 times the weight, probability 0.02, 1,000 draws": rare(0.02, 1_000),
    "the same, 30 draws": rare(0.02, 30),
    "q 1.2 times as wide, D = 4, 1,000 draws": normal(4, 1.2, 1_000),
    "q 0.9 times as wide": normal(4, 0.9, 1_000),
    "q 0.6 times as wide": normal(4, 0.6, 1_000),
}
