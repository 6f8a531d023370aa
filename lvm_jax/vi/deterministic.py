"""The method "deterministic": a smooth ELBO of fixed draws, and Newton's method for its maximum.

A round takes S draws of the noise in pairs, and maximises the ELBO of these draws. With gradients
g_k of the n = S / 2 pairs at the maximum, in coordinates with a Hessian of -I, the error of q is

    predicted   (|mean g|^2 + tr Cov(g) / n) / 2 nats below the best q
    observed    (|mean h|^2 - tr Cov(h) / n) / 2, from gradients h of n new pairs

The fit has converged if both are at most the tolerance. Otherwise the next round has more draws,
and new ones.

The mean of e e^T over a round's noise e is I exactly, by a linear map of the draws. The ELBO of a
Gaussian is then exact, and the ELBO of the draws has a maximum, which that of fewer draws than
dimensions may lack. The map biases higher moments by about 1 / n.

Source: Giordano, Ingram and Broderick (2023), DADVI; Burroni et al. (2023), SAA for VI.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from lvm_jax import precision
from lvm_jax._core.keys import split
from lvm_jax.compiling import bounded_jit
from lvm_jax.typing import Array, Float, Key
from lvm_jax.vi import fixed_draws, natural
from lvm_jax.vi.density import Density
from lvm_jax.vi.laplace import full_rank
from lvm_jax.vi.method import Found, Method, Reason, Task, Trace
from lvm_jax.vi.natural import Gaussian
from lvm_jax.vi.start import best_normal

FIRST_PAIRS, MAX_PAIRS = 16, 2**15
MAX_DOUBLINGS = 3  # of the number of draws, from one round to the next
MARGIN = 1.3  # of that number over the one that the error demands
SOLVED = 0.02  # |gradient|^2 / 2 at the end of Newton's method, in units of the tolerance
RADIUS, MAX_RADIUS = 1.0, 8.0  # of the trust region, in standard deviations
MAX_STEPS = 30  # of Newton's method in a round
FAR = 1e30  # the loss where the density is not finite


def deterministic() -> Method:
    """Newton's method on the ELBO of fixed draws, whose number grows until it suffices.

    The optimiser is scipy's trust-region Newton-CG with exact products of the Hessian. The ELBO of
    the draws is a smooth function: there are no learning rates and no noise. The first round has
    max(32, 4 D) draws. For covariances of a mean_field fit see `vi.linear_response`, for the rule
    of the draws `lvm_jax.vi.deterministic`.

    Source: Giordano, Ingram and Broderick (2023), DADVI; Burroni et al. (2023), SAA for VI.
    """
    return Method(("full_rank", "mean_field"), run)


def run(key: Key[Array, ""], task: Task) -> Found:
    """The fit from the best normal of a path."""
    key_start, key_rounds = split(key)
    diagonal = task.family == "mean_field"
    started = best_normal(key_start, task.density, task.max_evaluations, diagonal)
    rounds = _Rounds(key_rounds, task, started.state, started.evaluations)
    return rounds.run(max(FIRST_PAIRS, 2 * task.density.dim))


class _BudgetSpentError(Exception):
    """The end of an optimisation that the budget cuts short."""


class _Rounds:
    """The mutable part of a fit: the current normal, and the evaluations so far."""

    def __init__(self, key: Key[Array, ""], task: Task, chart: Gaussian, spent: int) -> None:
        self.key, self.task, self.chart, self.spent = key, task, chart, spent
        self.diagonal = task.family == "mean_field"
        self.rows: list[tuple[float, ...]] = []

    def run(self, num_pairs: int) -> Found:
        """Rounds with more and more draws, until the error is below the tolerance."""
        while True:
            if self.spent + 6 * 2 * num_pairs > self.task.max_evaluations:
                return self.found(Reason.BUDGET)
            error, tolerance = self.round(num_pairs), self.task.tolerance
            if error <= tolerance:
                return self.found(Reason.CONVERGED)
            if not np.isfinite(error) or num_pairs >= MAX_PAIRS:
                return self.found(Reason.NO_PROGRESS)
            needed = np.ceil(np.log2(MARGIN * error / tolerance))  # each number compiles programs
            num_pairs = min(num_pairs * int(2 ** np.clip(needed, 1, MAX_DOUBLINGS)), MAX_PAIRS)
            self.refresh()

    def round(self, num_pairs: int) -> float:
        """Maximise over some draws; the larger of the predicted and the observed error."""
        density = self.task.density
        keys = split(jax.random.fold_in(self.key, len(self.rows)))
        shape, zero = (num_pairs, density.dim), np.zeros((), density.dtype)
        fixed, new = (_noise(key, shape, zero) for key in keys)
        x = self.maximize(fixed)
        given = density, self.chart, self.diagonal
        here, fresh = (fixed_draws.spread(x, noise, *given) for noise in (fixed, new))
        self.spent += 4 * num_pairs
        predicted = 0.5 * float(here.square + here.variance / num_pairs)
        observed = 0.5 * float(fresh.square - fresh.variance / num_pairs)
        error = max(predicted, observed) if np.isfinite(predicted + observed) else np.inf
        if np.isfinite(error):
            self.chart = fixed_draws.normal_of(x, self.chart, self.diagonal)
        elbo = float(fresh.elbo), float(fresh.standard_error)
        self.rows.append((self.spent, *elbo, 1.0, error))
        return error

    def maximize(self, noise: Float[Array, "S D"]) -> Float[np.ndarray, " P"]:
        """The maximum of the ELBO of these draws, from the current normal."""
        from scipy.optimize import minimize

        cost, dtype = 2 * len(noise), self.chart.mean.dtype
        given = noise, self.task.density, self.chart, self.diagonal
        best = fixed_draws.origin(self.chart, self.diagonal).astype(float)

        def spend() -> None:
            self.spent += cost
            if self.spent + 2 * cost > self.task.max_evaluations:  # the rest is for the error
                raise _BudgetSpentError

        def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
            spend()
            value, gradient = fixed_draws.value_and_gradient(x.astype(dtype), *given)
            if not (np.isfinite(value) and np.isfinite(gradient).all()):
                return FAR, np.zeros_like(x)
            return -float(value), -np.asarray(gradient, float)

        def product(x: np.ndarray, direction: np.ndarray) -> np.ndarray:
            spend()
            both = x.astype(dtype), direction.astype(dtype)
            return -np.asarray(fixed_draws.hessian_times(*both, *given), float)

        def keep(x: np.ndarray) -> None:
            best[:] = x

        options = {
            "initial_trust_radius": RADIUS,
            "max_trust_radius": MAX_RADIUS,
            "gtol": (2 * SOLVED * self.task.tolerance) ** 0.5,
            "maxiter": MAX_STEPS,
        }
        with contextlib.suppress(_BudgetSpentError):
            minimize(
                loss, best.copy(), jac=True, hessp=product, method="trust-ncg", options=options,
                callback=keep,
            )  # fmt: skip
        return best.astype(dtype)

    def refresh(self) -> None:
        """For mean_field, the mean curvature of q in the metric and the control variate."""
        if self.diagonal:
            self.spent += natural.NUM_HESSIANS * (self.task.density.dim + 1)
            key = jax.random.fold_in(jax.random.fold_in(self.key, len(self.rows)), 1)
            self.chart = _refresh(self.task.density, key, self.chart)

    def found(self, reason: Reason) -> Found:
        """The result at the current normal."""
        average = natural.average_of(self.chart)
        flat = natural.mean_field(average) if self.diagonal else full_rank(self.chart)
        return Found(flat, reason, self.spent, Trace.of_rows(self.rows), "deterministic")


@bounded_jit(1, lean=True)
@precision.full
def _noise(key: Key[Array, ""], shape: tuple[int, int], zero: Float[Array, ""]) -> Array:
    """Draws with a second moment of I exactly, more of them than dimensions."""
    noise = jax.random.normal(key, shape, zero.dtype)
    root = jnp.linalg.cholesky(noise.T @ noise / shape[0])
    return solve_triangular(root, noise.T, lower=True).T


@bounded_jit(lean=True)
def _refresh(density: Density, key: Key[Array, ""], chart: Gaussian) -> Gaussian:
    return natural.refresh_curvature(density, key, chart)
