"""Factor analysis: maximum likelihood by compiled EM."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax._core.outcome import ConvergenceWarning, Outcome
from lvm_jax._core.warn import warn
from lvm_jax.compiling import bounded_jit
from lvm_jax.distributions.normals import capacitance
from lvm_jax.models.linear_gaussian import LinearGaussian
from lvm_jax.models.ppca import principal, read
from lvm_jax.typing import Array, ArrayLike, Float, Int, Scalar

TRACED = 1 << 16  # length of the trace, the same for every step limit, so that programs are shared


class FactorInfo(NamedTuple):
    """Diagnostics of the fit."""

    outcome: Outcome
    num_steps: int
    log_likelihood: float  # mean over the points, in nats
    trace: np.ndarray  # log_likelihood after each of the first TRACED steps


class FactorAnalysis(NamedTuple):
    """theta of `linear_gaussian(latent_dim, D, "diagonal")`, with diagnostics of the fit."""

    theta: LinearGaussian
    info: FactorInfo


class Expectation(NamedTuple):
    """Posterior moments of z, and the log-likelihood at the same parameters."""

    means: Float[Array, "M L"]
    covariance: Float[Array, "L L"]
    log_likelihood: Scalar


class State(NamedTuple):
    """The loop's state; `expectation` belongs to `loadings` and `noise`."""

    loadings: Float[Array, "D L"]  # W
    noise: Float[Array, " D"]  # the diagonal of Psi
    expectation: Expectation
    trace: Float[Array, " T"]
    outcome: Any
    num_steps: Any


def factor_analysis(
    x: ArrayLike,
    latent_dim: int,
    *,
    max_steps: int = 1_000,
    tolerance: float = 1e-5,
    throw: bool = True,
) -> FactorAnalysis:
    """Maximise the likelihood of x ~ N(b, W W^T + Psi), Psi diagonal, by EM from the PPCA optimum.

    Columns are standardised, so the fit does not depend on the units of x. A step costs
    O(min(N, D) D L). W is unique up to a rotation.

    Args:
        x: data, [N, D]. float64 is kept if x64 is on; otherwise float32.
        latent_dim: L, at least 1 and less than D.
        max_steps: maximum number of EM steps. New values of `max_steps` and `tolerance` do not
            recompile.
        tolerance: EM stops when the mean log-likelihood increases by less, in nats per point.
        throw: raise an error if EM fails, and warn at the step limit. With False, the outcome is
            only reported in `info`.

    Raises:
        ValueError, TypeError: for bad data, constant columns or L >= D.
        FloatingPointError: if `throw` and a noise variance falls to zero (a Heywood case).

    Source: Rubin and Thayer (1982).
    """
    checks.host("models.factor_analysis", "the log_evidence of models.linear_gaussian", x)
    max_steps = checks.integer(max_steps, "max_steps", 0)
    tolerance = checks.number(tolerance, "tolerance")
    data, dtype = read(x, latent_dim)
    mean, scale = data.mean(0), data.std(0)
    check_columns(data)
    rows = (data - mean) / scale
    loadings, noise = principal(rows, latent_dim)
    if rows.shape[0] > rows.shape[1]:  # R^T R has the covariance of the rows
        rows = np.linalg.qr(rows, mode="r")
    rows = rows / math.sqrt(data.shape[0])
    arrays = (rows, loadings, np.full(mean.size, noise), tolerance)
    state = run(*(jnp.asarray(value, dtype) for value in arrays), jnp.int32(max_steps))
    num_steps, log_scale = int(state.num_steps), float(np.log(scale).sum())
    log_likelihood = float(state.expectation.log_likelihood) - log_scale
    trace = np.asarray(state.trace, np.float64)[:num_steps] - log_scale
    info = FactorInfo(Outcome(int(state.outcome)), num_steps, log_likelihood, trace)
    if throw:
        report(info, state.noise, max_steps)
    log_noise = 0.5 * np.log(np.asarray(state.noise, np.float64)) + np.log(scale)
    weights = np.asarray(state.loadings, np.float64) * scale[:, None]
    fields = (np.zeros(latent_dim), weights, mean, log_noise)
    return FactorAnalysis(LinearGaussian(*(jnp.asarray(v, dtype) for v in fields)), info)


def check_columns(data: np.ndarray) -> None:
    """Raise ValueError for constant columns, whose likelihood is unbounded."""
    constant = np.flatnonzero(data.min(0) == data.max(0)).tolist()
    if constant:
        named = f"{constant[:10]}{'...' if len(constant) > 10 else ''}"
        raise ValueError(f"x: expected columns that vary, got constant columns {named}; drop them")


@precision.full
def expect(rows: Array, loadings: Array, noise: Array) -> Expectation:
    """The E-step, for rows A [M, D] with A^T A the sample covariance."""
    scale = jnp.sqrt(noise)
    white_loadings, white_rows = loadings / scale[:, None], rows / scale[None]
    top, bottom, upper = capacitance(white_loadings)
    along = white_rows @ top
    inverse = solve_triangular(upper, jnp.eye(len(upper), dtype=upper.dtype))
    # tr(Sigma^-1 A^T A) as a sum of squares, without cancellation.
    quadratic = ((white_rows - along @ top.T) ** 2).sum() + ((along @ bottom.T) ** 2).sum()
    log_det = jnp.log(scale).sum() + jnp.log(jnp.diagonal(upper)).sum()
    value = -0.5 * (quadratic + scale.size * math.log(2 * math.pi)) - log_det
    return Expectation(along @ inverse.T, inverse @ inverse.T, value)


@precision.full
def maximize(rows: Array, expectation: Expectation) -> tuple[Array, Array]:
    """The M-step: W and the diagonal of Psi, a sum of squares that is never negative."""
    means, covariance, _ = expectation
    loadings = jnp.linalg.solve(means.T @ means + covariance, means.T @ rows).T
    residual = ((rows - means @ loadings.T) ** 2).sum(0)
    return loadings, residual + ((loadings @ covariance) * loadings).sum(1)


@bounded_jit()
def run(
    rows: Array, loadings: Array, noise: Array, tolerance: Scalar, max_steps: Int[Array, ""]
) -> State:
    """EM until the gain is below the tolerance; a failed step keeps the previous parameters."""

    def body(state: State) -> State:
        fresh = maximize(rows, state.expectation)
        expectation = expect(rows, *fresh)
        value = expectation.log_likelihood
        gain = value - state.expectation.log_likelihood
        outcome = jnp.where(gain < tolerance, Outcome.CONVERGED, Outcome.RUNNING)
        # For noise below eps times a column's variance the covariance is numerically singular.
        proper = (fresh[1] > jnp.finfo(noise.dtype).eps).all()
        outcome = jnp.where(proper, outcome, Outcome.DEGENERATE)
        outcome = jnp.where(jnp.isfinite(value), outcome, Outcome.DIVERGED).astype(jnp.int32)
        accept = proper & jnp.isfinite(value)
        trace = state.trace.at[state.num_steps].set(jnp.where(accept, value, jnp.nan))
        state = state._replace(trace=trace)
        new = State(*fresh, expectation, trace, outcome, state.num_steps + 1)
        kept = state._replace(outcome=outcome)
        return jax.tree.map(lambda a, b: jnp.where(accept, a, b), new, kept)

    def unfinished(state: State) -> Array:
        return (state.outcome == Outcome.RUNNING) & (state.num_steps < max_steps)

    running = jnp.int32(Outcome.RUNNING)
    trace = jnp.full(TRACED, jnp.nan, noise.dtype)
    start = State(loadings, noise, expect(rows, loadings, noise), trace, running, jnp.int32(0))
    end = jax.lax.while_loop(unfinished, body, start)
    limit = jnp.where(end.outcome == Outcome.RUNNING, Outcome.MAX_STEPS, end.outcome)
    return end._replace(outcome=limit)


def report(info: FactorInfo, noise: Array, max_steps: int) -> None:
    """Raise an error or warn, according to the outcome."""
    if info.outcome >= Outcome.DEGENERATE:
        raise FloatingPointError(
            f"EM failed ({info.outcome.name.lower()} after {info.num_steps} steps): the noise of "
            f"column {int(jnp.argmin(noise))} falls to zero (a Heywood case); lower latent_dim, "
            "add rows, or drop columns that others determine"
        )
    if info.outcome == Outcome.MAX_STEPS and max_steps > 0:
        warn(
            f"EM did not converge in {info.num_steps} steps; raise max_steps or tolerance",
            ConvergenceWarning,
        )
