"""The two models of `benchmarks.evidence`, and data points simulated from them.

One is linear-Gaussian in float32, with a closed form of log p(x) and a posterior far from the
prior. The other is the 50-200-200-784 Bernoulli decoder with random weights, twice Glorot's, so
that images are informative about z.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import decoder
from lvm_jax import distributions, models
from lvm_jax.guides import Guide
from lvm_jax.models.linear_gaussian import LinearGaussian

LATENT = decoder.LATENT  # of both
DIM, NOISE = 100, 0.5  # of the linear-Gaussian x
GAIN = 2.0  # of the decoder's weights


class Problem(NamedTuple):
    """A model with N points simulated from it."""

    model: models.Model
    theta: Any
    guide: Guide | None  # the best mean-field guide, if known
    x: jax.Array  # [N, ...]
    z: jax.Array  # [N, L], exact draws of p(z | x)

    def log_joint(self, x: jax.Array) -> Callable[[jax.Array], jax.Array]:
        """z -> log p(x, z), the same function for every contestant."""
        return self.model(self.theta).log_joint(x)


def make(case: dict[str, Any]) -> Problem:
    """The model and points of a case, which depend on its seed."""
    key_theta, key_points = jax.random.split(jax.random.key(case["seed"]))
    model, theta, guide = MODELS[case["model"]](key_theta, case)

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_z, key_x = jax.random.split(key)
        z = model.prior(theta).sample(seed=key_z)
        return model.likelihood(theta, z).sample(seed=key_x), z

    x, z = jax.jit(jax.vmap(draw))(jax.random.split(key_points, case["points"]))
    return Problem(model, theta, guide, x, z)


def linear_gaussian(key: jax.Array, case: dict[str, Any]) -> tuple[Any, Any, Guide]:
    """z ~ N(0, I_50), x | z ~ N(W z, I_100 / 4), and its best mean-field guide."""
    loadings = jax.random.normal(key, (DIM, LATENT)) / LATENT**0.5
    theta = LinearGaussian(jnp.zeros(LATENT), loadings, jnp.zeros(DIM), jnp.log(NOISE))
    precision = np.eye(LATENT) + np.asarray(loadings, np.float64).T @ loadings / NOISE**2
    gain = jnp.asarray(np.linalg.solve(precision, loadings.T) / NOISE**2, jnp.float32)
    scale = jnp.asarray(np.diag(precision) ** -0.5, jnp.float32)
    guide = Guide(lambda key: None, lambda phi, x: distributions.normal(gain @ x, scale))
    return models.linear_gaussian(LATENT, DIM), theta, guide


def bernoulli_decoder(key: jax.Array, case: dict[str, Any]) -> tuple[Any, Any, None]:
    """The decoder of the other benchmarks with larger weights; no guide."""
    theta, _, _ = decoder.problem({**case, "points": 1})
    return decoder.ours()[0], [(GAIN * weight, bias) for weight, bias in theta], None


MODELS = {"linear-Gaussian": linear_gaussian, "decoder": bernoulli_decoder}


def exact(problem: Problem) -> np.ndarray:
    """log N(x; 0, W W^T + I / 4) of the linear-Gaussian model's points, in float64, [N]."""
    loadings, x = (np.asarray(value, np.float64) for value in (problem.theta.loadings, problem.x))
    factor = np.linalg.cholesky(loadings @ loadings.T + NOISE**2 * np.eye(DIM))
    white = np.linalg.solve(factor, x.T)
    log_det = 2 * np.log(np.diag(factor)).sum()
    return -0.5 * ((white**2).sum(0) + log_det + DIM * np.log(2 * np.pi))
