"""The toy of the signal-to-noise experiment: its densities, estimators, and what is known of them."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import bounds, diagnostics, distributions, gradients
from lvm_jax.typing import Array, Float, Key, Scalar

if TYPE_CHECKING:
    from experiments.gradient_snr import Config

VARIANCE = 2 / 3  # of q
TABLE = 2**22  # entries of the S x S tables that some estimators make, held at once


class Phi(NamedTuple):
    """q(z | x) = N(A x + b, 2/3 I)."""

    weight: Float[Array, "D D"]  # A
    bias: Float[Array, " D"]  # b


class Toy(NamedTuple):
    """z ~ N(mu, I), x | z ~ N(z, I), at one x, with parameters near their optimum."""

    mu: Float[Array, " D"]
    phi: Phi
    x: Float[Array, " D"]

    @property
    def loc(self) -> np.ndarray:
        """The mean of q, A x + b."""
        return np.asarray(self.phi.weight @ self.x + self.phi.bias, np.float64)


class Row(NamedTuple):
    """An estimator of the table."""

    estimate: Callable[["Config"], gradients.Estimate]
    target: str  # whose gradient phi's is on average: elbo, iwae, miwae, ciwae, wake
    theta_target: str
    minimum: int = 1  # of S; one sample has no others to compare with, and wake-sleep no signal
    slope: float = 0.5  # of phi's log SNR as S -> infinity
    grouped: bool = False  # S has to be a multiple of num_groups


ESTIMATORS: dict[str, Row] = {
    "reparameterised ELBO": Row(lambda c: gradients.reparameterized(), "elbo", "elbo"),
    "STL": Row(lambda c: gradients.sticking_the_landing(), "elbo", "elbo"),
    "score function, ELBO": Row(lambda c: gradients.score_function(), "elbo", "elbo"),
    "RLOO": Row(lambda c: gradients.leave_one_out(), "elbo", "elbo", 2),
    "reparameterised IWAE": Row(
        lambda c: gradients.reparameterized(bounds.iwae), "iwae", "iwae", 1, -0.5
    ),
    "DReG": Row(lambda c: gradients.doubly_reparameterized(), "iwae", "iwae"),
    "score function, IWAE": Row(
        lambda c: gradients.score_function(bounds.iwae), "iwae", "iwae", 1, -1.5
    ),
    "VIMCO": Row(lambda c: gradients.vimco(), "iwae", "iwae", 2, -0.5),
    "MIWAE": Row(
        lambda c: gradients.reparameterized(bounds.miwae(c.num_groups)),
        *("miwae", "miwae", 1, -0.5, True),
    ),
    "DReG of MIWAE": Row(
        lambda c: gradients.doubly_reparameterized(bounds.miwae(c.num_groups)),
        *("miwae", "miwae", 1, 0.5, True),
    ),
    "PIWAE": Row(lambda c: gradients.piwae(c.num_groups), "miwae", "iwae", 1, -0.5, True),
    "CIWAE": Row(lambda c: gradients.reparameterized(bounds.ciwae(c.beta)), "ciwae", "ciwae"),
    "RWS": Row(lambda c: gradients.reweighted_wake_sleep(), "wake", "iwae", 2),
    "DReG of RWS": Row(
        lambda c: gradients.doubly_reparameterized_wake_sleep(), "wake", "iwae", 2
    ),
}  # fmt: skip
# The least noisy estimator of each mean: its average is the signal of all that share the mean.
BEST = {"iwae": "DReG", "miwae": "DReG of MIWAE", "wake": "DReG of RWS"}

Pooled = dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]  # (estimator, group): mean, variance


class Blocks(NamedTuple):
    """By (estimator, group): mean and variance of the gradients of each block, [B, ...]."""

    mean: dict[tuple[str, str], np.ndarray]
    variance: dict[tuple[str, str], np.ndarray]
    num_repeats: int  # of all blocks together


def make_toy(key: Key[Array, ""], dim: int, perturbation: float) -> Toy:
    """A mu, one x drawn from the model, and the optimum of phi; then everything moves a little."""
    key_mu, key_x, *keys = jax.random.split(key, 5)
    mu = jax.random.normal(key_mu, (dim,))
    x = mu + jnp.sqrt(2.0) * jax.random.normal(key_x, (dim,))
    best = (mu, jnp.eye(dim) / 2, mu / 2)
    moved = [
        leaf + perturbation * jax.random.normal(k, leaf.shape)
        for k, leaf in zip(keys, best, strict=True)
    ]
    return Toy(moved[0], Phi(moved[1], moved[2]), x)


def guide_at(x: Float[Array, " D"]) -> Callable[[Phi], distributions.Independent]:
    """phi -> q(z | x)."""
    scale = jnp.full_like(x, VARIANCE**0.5)
    return lambda phi: distributions.normal(phi.weight @ x + phi.bias, scale)


def log_joint_at(mu: Float[Array, " D"], x: Float[Array, " D"]) -> Callable[[Array], Scalar]:
    """z -> log p(x, z; mu)."""
    one = jnp.ones_like(x)
    return lambda z: (
        distributions.normal(mu, one).log_prob(z) + distributions.normal(z, one).log_prob(x)
    )


def applies(name: str, size: int, config: "Config") -> bool:
    """Can the estimator take this S?"""
    row = ESTIMATORS[name]
    return size >= row.minimum and not (row.grouped and size % config.num_groups)


def draw(key: Key[Array, ""], toy: Toy, size: int, config: "Config") -> Blocks:
    """Mean and variance of every estimator's gradients, block by block: one program for this S."""
    estimates = {
        name: row.estimate(config)
        for name, row in ESTIMATORS.items()
        if applies(name, size, config)
    }

    def gradient(key: Key[Array, ""], toy: Toy) -> dict[tuple[str, str], Array]:
        found = {}
        for name, estimate in estimates.items():

            def surrogate(mu: Array, phi: Phi, estimate: gradients.Estimate = estimate) -> Scalar:
                return estimate(key, log_joint_at(mu, toy.x), guide_at(toy.x), phi, size)

            mu, phi = jax.grad(surrogate, (0, 1))(toy.mu, toy.phi)
            found |= {(name, "mu"): mu, (name, "A"): phi.weight, (name, "b"): phi.bias}
        return found

    repeats = config.num_repeats // config.num_blocks
    chunk = int(np.clip(TABLE // size**2, 1, repeats))

    @jax.jit
    def blocks(key: Key[Array, ""], toy: Toy) -> tuple[dict, dict]:
        def one(key: Key[Array, ""]) -> tuple[dict, dict]:
            statistics = diagnostics.gradient_statistics(
                key, functools.partial(gradient, toy=toy), repeats, chunk_size=chunk
            )
            return statistics.mean, statistics.variance

        return jax.lax.map(one, jax.random.split(key, config.num_blocks))

    mean, variance = (
        {name: np.asarray(leaf, np.float64) for name, leaf in tree.items()}
        for tree in blocks(key, toy)
    )
    return Blocks(mean, variance, repeats * config.num_blocks)


def pool(blocks: Blocks, leave_out: int | None = None) -> Pooled:
    """Mean and variance over all blocks, or all but one."""
    keep = np.arange(len(next(iter(blocks.mean.values())))) != leave_out
    return {
        name: (mean[keep].mean(0), blocks.variance[name][keep].mean(0))
        for name, mean in blocks.mean.items()
    }


def signal(
    name: str, group: str, size: int, toy: Toy, pooled: Pooled, config: "Config"
) -> np.ndarray:
    """What the gradient is on average: exact for the ELBO, else from the least noisy estimator."""
    row = ESTIMATORS[name]
    target = row.theta_target if group == "mu" else row.target
    exact = elbo_gradient(toy)[group]
    if target == "elbo" or (target == "iwae" and size == 1):
        return exact
    if target == "miwae" and size == config.num_groups:
        return exact
    if target == "ciwae":
        iwae = exact if size == 1 else pooled[BEST["iwae"], group][0]
        return config.beta * exact + (1 - config.beta) * iwae
    return pooled[BEST[target], group][0]


def elbo_gradient(toy: Toy) -> dict[str, np.ndarray]:
    """The exact gradient of the ELBO, E_q of log p(x, z), whose derivative is linear in z."""
    mu, x = (np.asarray(leaf, np.float64) for leaf in (toy.mu, toy.x))
    bias = mu + x - 2 * toy.loc
    return {"mu": toy.loc - mu, "A": np.outer(bias, x), "b": bias}


def exact(toy: Toy, config: "Config") -> dict[str, dict[str, np.ndarray]]:
    """SNR of the reparameterised ELBO and of STL, [M]: their gradients are linear in the noise.

    One draw z = loc + e, e ~ N(0, 2/3 I), gives mu: z - mu; b: mu + x - 2 z, to which STL adds
    the 3/2 e of the density of q. So the variances of a coordinate are 2/3, 8/3 and 1/6, over S.
    """
    size = np.array(config.num_samples)
    norm = {group: np.linalg.norm(g) for group, g in elbo_gradient(toy).items()}
    root = np.sqrt(size / (config.dim * VARIANCE))
    return {
        "mu": {"reparameterised ELBO": norm["mu"] * root, "STL": norm["mu"] * root},
        "b": {"reparameterised ELBO": norm["b"] * root / 2, "STL": norm["b"] * root * 2},
    }


def expected_slope(name: str, group: str) -> float:
    """The law of log SNR against log S: theta's is 1/2 for all."""
    return 0.5 if group == "mu" else ESTIMATORS[name].slope


def agreement(drawn: list[Blocks], toy: Toy, config: "Config") -> dict[str, float]:
    """Largest |mean - signal| of b over all coordinates and S, in standard errors of both."""
    largest = dict.fromkeys(ESTIMATORS, 0.0)
    for size, blocks in zip(config.num_samples, drawn, strict=True):
        pooled = pool(blocks)
        for name, group in pooled:
            if group != "b":
                continue
            mean, variance = pooled[name, group]
            best = BEST.get(ESTIMATORS[name].target)
            known = signal(name, group, size, toy, pooled, config)
            other = pooled[best, group][1] if best else 0.0
            error = np.sqrt((variance + other) / blocks.num_repeats)
            largest[name] = max(largest[name], float(np.abs((mean - known) / error).max()))
    return largest
