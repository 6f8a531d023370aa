"""The method "laplace": the normal of the curvature at a mode."""

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import precision
from lvm_jax.compiling import bounded_jit
from lvm_jax.distributions import FullRankNormal
from lvm_jax.distributions.normals import upper_factor
from lvm_jax.guides.newton import MAX_STEPS, maximize
from lvm_jax.typing import Array, Distribution, Float, Int, Key, Scalar
from lvm_jax.vi import natural
from lvm_jax.vi.density import Density
from lvm_jax.vi.method import Found, Method, Reason, Task, Trace
from lvm_jax.vi.natural import Gaussian
from lvm_jax.vi.start import NUM_DRAWS, ascend_path, best_normal, elbo_of

PATH_SHARE = 0.5  # of the budget, for the ascent before Newton's steps


def laplace() -> Method:
    """Laplace's approximation N(z*, H^-1), H = -d^2 log_density / dz dz^T at a mode z*.

    The search is L-BFGS from the start, then Newton's method of `guides.laplace`; a Hessian costs D
    evaluations. For mean_field q is N(z*, diag(H)^-1), the best mean-field normal of the quadratic
    at z*. q does not maximise the ELBO. The fit is CONVERGED if z* is within sqrt(2 tolerance)
    standard deviations of the maximum of the quadratic. Without such a maximum, as for a density
    that increases without bound, the reason is NO_PROGRESS, or BUDGET if Newton's steps were cut
    short; q is then the normal of the highest ELBO along the path.

    Source: Laplace (1774); Tierney and Kadane (1986).
    """
    return Method(("full_rank", "mean_field"), run)


def run(key: Key[Array, ""], task: Task) -> Found:
    """The normal at the mode uphill from the start."""
    density, diagonal = task.density, task.family == "mean_field"
    share, cost = max(int(PATH_SHARE * task.max_evaluations), 1), density.dim + 1
    path = ascend_path(density, np.zeros(density.dim), share)
    left = task.max_evaluations - path.evaluations - NUM_DRAWS
    max_steps = int(np.clip(left // cost, 1, MAX_STEPS))
    last = np.asarray(path.points[-1], density.dtype)
    normal, elbo, distance, num_steps = _at_mode(key, last, np.int32(max_steps), density, diagonal)
    spent = path.evaluations + int(num_steps) * cost + NUM_DRAWS
    reason = Reason.CONVERGED
    if not distance**2 / 2 <= task.tolerance:
        reason = Reason.BUDGET if num_steps == max_steps < MAX_STEPS else Reason.NO_PROGRESS
        normal, elbo, more = best_normal(key, density, task.max_evaluations - spent, diagonal)
        spent += more
    trace = Trace.of_rows([(spent, float(elbo), np.nan, 1.0, np.nan)])
    flat = natural.mean_field(natural.average_of(normal)) if diagonal else full_rank(normal)
    return Found(flat, reason, spent, trace, "laplace")


@bounded_jit(4, lean=True)
def _at_mode(
    key: Key[Array, ""],
    start: Float[Array, " D"],
    max_steps: Int[Array, ""],
    density: Density,
    diagonal: bool,
) -> tuple[Gaussian, Scalar, Scalar, Int[Array, ""]]:
    """The normal, its ELBO, the distance to the quadratic's maximum, and Newton's steps."""
    top = maximize(density, start, max_steps)
    normal = Gaussian(top.u, natural.root_of_curvature(top.curvature))
    return normal, elbo_of(key, normal, density, diagonal), top.distance, top.num_steps


@precision.full
def full_rank(normal: Gaussian) -> Distribution:
    """N(m, (C C^T)^-1); by QR of C^-1, whose condition number is the root of that of A."""
    inverse = jax.scipy.linalg.solve_triangular(
        normal.factor, jnp.eye(normal.mean.size, dtype=normal.mean.dtype), lower=True
    )
    return FullRankNormal(normal.mean, upper_factor(inverse)[1].T)
