"""The method "natural_gradient": Gaussians of full or diagonal covariance."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from lvm_jax._core.keys import split
from lvm_jax.typing import Array, Key
from lvm_jax.vi import natural
from lvm_jax.vi.blocks import Iteration
from lvm_jax.vi.method import Found, Method, Task
from lvm_jax.vi.natural import Gaussian
from lvm_jax.vi.start import Started, best_diagonal, best_normal
from lvm_jax.vi.stopping import iterate

FIRST_RATE = 0.4
MAX_DENSE = 1_000  # of the metric of mean_field, from Hessians; a diagonal one above
MIN_DRAWS, MAX_DRAWS = 16, 1_024  # of a step; D / 2 between them
MAX_DIM = 5_000  # of a matrix with D^2 numbers, of which a step holds about eight


def natural_gradient() -> Method:
    """Natural-gradient ascent of the ELBO from the best normal along a path of L-BFGS.

    Each step takes gradients of the log-density at max(16, D / 2) draws. For mean_field, Hessians
    at four draws refresh the metric before each block of steps. The Hessian costs D + 1 gradients.
    For D > 1,000 the metric of mean_field is diagonal, without Hessians and D x D numbers.
    See `lvm_jax.vi.natural` for the step and `lvm_jax.vi.stopping` for the end.
    """
    return Method(("full_rank", "mean_field"), run)


def run(key: Key[Array, ""], task: Task) -> Found:
    """The fit from the best normal of a path."""
    key_start, key_steps = split(key)
    diagonal = task.family == "mean_field"
    if diagonal and task.density.dim > MAX_DENSE:
        found = best_diagonal(key_start, task.density, task.max_evaluations)
        state = Gaussian(found.mean, jnp.exp(-found.log_scale))
        started = Started(state, np.nan, found.evaluations)
    else:
        started = best_normal(key_start, task.density, task.max_evaluations, diagonal)
    return run_from(key_steps, task, started)


def run_from(key: Key[Array, ""], task: Task, started: Started) -> Found:
    """The fit from a given normal."""
    iteration = iteration_of(task)
    found = iterate(key, iteration, started.state, task, FIRST_RATE, started.evaluations)
    return found._replace(method="natural_gradient")


def iteration_of(task: Task) -> Iteration:
    """The steps of the family of the task."""
    dim = task.density.dim
    draws = int(np.clip(2 * (dim // 4), MIN_DRAWS, MAX_DRAWS))
    if task.family == "full_rank":
        return Iteration(
            partial(natural.full_rank_step, draws),
            *(natural.average_of, natural.full_rank, natural.full_rank_distance, draws),
            products=natural.full_rank_products,
        )
    return Iteration(
        partial(natural.mean_field_step, draws),
        *(natural.average_of, natural.mean_field, natural.mean_field_distance, draws),
        natural.refresh_curvature if dim <= MAX_DENSE else None,
        natural.NUM_HESSIANS * (dim + 1),
        natural.mean_field_products,
    )
