"""The method "batch_and_match": closed-form updates of a Gaussian from draws and their scores.

With q_t = N(m_t, S_t), draws z_b ~ q_t and scores g_b = grad log p(z_b), of which z, C and g, G are
the means and covariances over the batch, and the rate r in (0, 1], the update is

    r S G' S + (1 - r) S = V,    G' = G + (1 - r) g g^T
    V = (1 - r) S_t + r C + r (1 - r) (m_t - z) (m_t - z)^T
    m = (1 - r) m_t + r (S g + z)

It minimises a score-based divergence, E_q |grad log q - grad log p|^2 in the norm of S, estimated
from the batch, plus KL(q_t || q) / lambda, where r = lambda / (1 + lambda). One step of r = 1 with
D + 1 draws finds a Gaussian p. For another p the divergence has another minimum than the ELBO.

Source: Cai et al. (2024), Batch and match, equations 7 to 12, here times 1 - r.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax._core.keys import split
from lvm_jax.distributions.normals import LOG_2PI, upper_factor
from lvm_jax.guides.families import LowRank
from lvm_jax.typing import Array, Float, Key, Scalar
from lvm_jax.vi import natural, patch
from lvm_jax.vi.blocks import Iteration, Step
from lvm_jax.vi.method import Found, Method, Task
from lvm_jax.vi.natural import Gaussian
from lvm_jax.vi.start import best_normal
from lvm_jax.vi.stopping import iterate

FIRST_RATE = 0.5
MIN_DRAWS, MAX_DRAWS = 16, 1_024  # of a step
RANK = 10  # of low_rank


class Matched(NamedTuple):
    """N(m, S) in the coordinates of the noise of q_t; S = (K K^T)^-1."""

    mean: Float[Array, " D"]
    factor: Float[Array, "D D"]  # K, lower


@precision.full
def match(noise: Float[Array, "B D"], scores: Float[Array, "B D"], rate: Scalar) -> Matched:
    """The update of q_t = N(0, I), for draws `noise` of it and scores at the draws.

    With V = R R^T and R^T r G' R = W diag(l) W^T it is S = R W diag(x) W^T R^T, where x is the
    positive root of l x^2 + (1 - r) x = 1.
    """
    size, keep = len(noise), 1 - rate
    mean_z, mean_g = noise.mean(0), scores.mean(0)
    away, odd = noise - mean_z[None], scores - mean_g[None]
    target = rate * (odd.T @ odd / size + keep * jnp.outer(mean_g, mean_g))
    spread = rate * (away.T @ away / size + keep * jnp.outer(mean_z, mean_z))
    eye = jnp.eye(noise.shape[1], dtype=noise.dtype)
    root = jnp.linalg.cholesky(spread + keep * eye)
    values, axes = jnp.linalg.eigh(root.T @ target @ root)
    roots = 2 / (keep + jnp.sqrt(keep**2 + 4 * jnp.maximum(values, 0)))
    inverse = (axes / jnp.sqrt(roots)[None]).T @ solve_triangular(root, eye, lower=True)
    turned = (mean_g @ root) @ axes
    mean = rate * (mean_z + root @ (axes @ (roots * turned)))
    return Matched(mean, upper_factor(inverse)[1].T)


@precision.full
def full_rank_step(
    num_samples: int,
    log_density: Callable[[Array], Scalar],
    key: Key[Array, ""],
    state: Gaussian,
    rate: Scalar,
) -> Step:
    """One update of N(m, (C C^T)^-1)."""
    mean, factor = state
    noise = jax.random.normal(key, (num_samples, mean.size), mean.dtype)
    z = mean[None] + solve_triangular(factor, noise.T, trans=1, lower=True).T
    value, gradient = jax.vmap(jax.value_and_grad(log_density))(z)
    scores = solve_triangular(factor, gradient.T, lower=True).T
    log_q = jnp.log(jnp.diagonal(factor)).sum() - 0.5 * ((noise**2).sum(1) + mean.size * LOG_2PI)
    matched = match(noise, scores, rate)
    move = solve_triangular(factor, matched.mean, trans=1, lower=True)
    new = Gaussian(mean + move, factor @ matched.factor)
    proper = jnp.isfinite(new.mean).all() & jnp.isfinite(new.factor).all()
    narrower = Gaussian(mean, 2 * factor)
    return Step(jax.tree.map(lambda a, b: jnp.where(proper, a, b), new, narrower), value - log_q)


def batch_and_match(
    num_samples: int | None = None, rank: int | None = None, first_rate: float = FIRST_RATE
) -> Method:
    """Batch and match, and for low_rank batch, match and patch.

    The fixed point minimises a score-based divergence. It is the best q by the ELBO for a Gaussian
    log_density, and near it otherwise. full_rank starts at the best normal of a path of L-BFGS,
    with exact Hessians, low_rank at a diagonal one without a matrix of D x D numbers. See
    `lvm_jax.vi.batch_and_match` for the step and `lvm_jax.vi.stopping` for the end.

    Args:
        num_samples: draws of an update; None is D / 2 for full_rank, between 16 and 1,024, and
            twice the rank for low_rank, at least 16.
        rank: columns of F for low_rank, fewer than D; None is 10, or D - 1 if that is less.
        first_rate: lambda / (1 + lambda) of the first steps, in (0, 1).

    Raises ValueError or TypeError naming an argument that is out of its range.

    Source: Cai et al. (2024), Batch and match; Modi et al. (2024), Batch, match, and patch.
    """
    if num_samples is not None:
        num_samples = checks.integer(num_samples, "num_samples", 2)
    if rank is not None:
        rank = checks.integer(rank, "rank", 1)
    if not 0 < checks.number(first_rate, "first_rate") < 1:
        raise ValueError(f"first_rate: expected a rate between 0 and 1, got {first_rate}")

    def run(key: Key[Array, ""], task: Task) -> Found:
        key_start, key_steps = split(key)
        fit = _low_rank if task.family == "low_rank" else _full_rank
        iteration, state, spent = fit(key_start, task, num_samples, rank)
        found = iterate(key_steps, iteration, state, task, first_rate, spent)
        return found._replace(method="batch_and_match")

    return Method(("full_rank", "low_rank"), run)


def _full_rank(
    key: Key[Array, ""], task: Task, num_samples: int | None, rank: int | None
) -> tuple[Iteration, Gaussian, int]:
    """The iteration of full_rank, its start, and the evaluations of the start."""
    if rank is not None:
        raise ValueError(f"rank: expected none for full_rank, got {rank}")
    draws = num_samples or int(np.clip(task.density.dim // 2, MIN_DRAWS, MAX_DRAWS))
    started = best_normal(key, task.density, task.max_evaluations)
    iteration = Iteration(
        partial(full_rank_step, draws),
        *(natural.average_of, natural.full_rank, natural.full_rank_distance, draws),
    )
    return iteration, started.state, started.evaluations


def _low_rank(
    key: Key[Array, ""], task: Task, num_samples: int | None, rank: int | None
) -> tuple[Iteration, LowRank, int]:
    """As `_full_rank`."""
    dim = task.density.dim
    rank = min(RANK, dim - 1) if rank is None else rank
    if rank >= dim:
        raise ValueError(f"rank: expected fewer than the {dim} numbers of start, got {rank}")
    draws = num_samples or max(2 * rank, MIN_DRAWS)
    updates = max(round(min(dim / 2, MAX_DRAWS) / draws), 1)
    started = patch.start_low_rank(key, task.density, rank, task.max_evaluations)
    iteration = Iteration(
        partial(patch.low_rank_steps, draws, updates),
        *(lambda state: state, patch.build, patch.distance, draws * updates),
    )
    return iteration, started.state, started.evaluations
