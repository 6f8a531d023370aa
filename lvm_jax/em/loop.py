"""The EM loop for R restarts at once: compiled, with its outcome as a value."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.em import priors, starts
from lvm_jax.em.compiling import over_data
from lvm_jax.em.families import Family, Settings
from lvm_jax.em.statistics import Data, Evaluation, Parameters, evaluate, exact_pass, fast_pass
from lvm_jax.outcome import Outcome
from lvm_jax.typing import Array, Float, Int

SEGMENT = 128  # steps per call of the compiled loop: the length of its trace


class State(NamedTuple):
    """The loop's state; the restart axis R leads."""

    parameters: Parameters
    objective: Any  # [R]
    outcome: Any  # [R], of Outcome
    num_steps: Any  # [R], M-steps accepted
    exact_steps: Any  # steps on the exact path
    step: Any


class Controls(NamedTuple):
    """Dynamic settings: none of them recompiles the loop."""

    settings: Settings
    tolerance: Float[Array, ""]
    total_weight: Float[Array, ""]


def objective(
    family: Family, parameters: Parameters, log_likelihood: Array, controls: Controls
) -> Array:
    """Mean log-likelihood, plus log p(theta) over the total weight where there is a prior."""
    settings = controls.settings
    total = log_likelihood
    if settings.prior is not None:
        total = total + family.log_prior(parameters.components, settings.prior)
    if settings.concentration is not None:
        total = total + priors.log_dirichlet(parameters.log_weights, settings.concentration)
    return total / controls.total_weight


def step(
    family: Family, state: State, data: Data, rows: int, controls: Controls
) -> tuple[Parameters, Array, Array]:
    """One EM step of every restart: (new parameters, objective before it, exact path taken?).

    The fast pass stands if the mixtures before and after it are within its reach; otherwise the
    exact pass is made from the same parameters.
    """
    running = state.outcome == Outcome.RUNNING

    def safe(parameters: Parameters) -> Array:
        return (jax.vmap(family.is_safe)(parameters.components) | ~running).all()

    def take(make_pass: Callable[..., Any]) -> tuple[Parameters, Array]:
        summary, log_likelihood = make_pass(family, state.parameters, data, rows)
        new = jax.vmap(lambda s, p: starts.maximize(family, s, p, controls.settings))(
            summary, state.parameters.components
        )
        return new, log_likelihood

    if family.has_exact_path:
        before = safe(state.parameters)
        fast = jax.lax.cond(
            before, lambda: take(fast_pass), lambda: (state.parameters, state.objective)
        )
        stands = before & safe(fast[0])
        new, log_likelihood = jax.lax.cond(stands, lambda: fast, lambda: take(exact_pass))
    else:
        stands = jnp.array(True)
        new, log_likelihood = take(fast_pass)
    value = jax.vmap(lambda p, v: objective(family, p, v, controls))(
        state.parameters, log_likelihood
    )
    return new, value, ~stands


@over_data(0, 3)
def segment(
    family: Family, state: State, data: Data, rows: int, controls: Controls, stop: Int[Array, ""]
) -> tuple[State, Float[Array, "R T"]]:
    """Run every restart until it is done or `stop` steps are made; return the trace too."""
    first = state.step

    def body(carry: tuple[State, Array]) -> tuple[State, Array]:
        state, trace = carry
        new, value, exact = step(family, state, data, rows, controls)
        running = state.outcome == Outcome.RUNNING
        leaves = [jnp.isfinite(leaf) for leaf in jax.tree.leaves(new.components)]
        proper = jnp.stack([leaf.reshape(leaf.shape[0], -1).all(1) for leaf in leaves]).all(0)
        finite = jnp.isfinite(value)
        converged = jnp.abs(value - state.objective) < controls.tolerance
        outcome = jnp.where(converged, Outcome.CONVERGED, Outcome.RUNNING)
        outcome = jnp.where(proper, outcome, Outcome.DEGENERATE)
        outcome = jnp.where(finite, outcome, Outcome.DIVERGED)
        accept = running & proper & finite

        def choose(fresh: Array, old: Array) -> Array:
            return jnp.where(accept.reshape(-1, *(1,) * (old.ndim - 1)), fresh, old)

        trace = trace.at[:, state.step - first].set(jnp.where(running, value, jnp.nan))
        return State(
            parameters=jax.tree.map(choose, new, state.parameters),
            objective=jnp.where(running & finite, value, state.objective),
            outcome=jnp.where(running, outcome, state.outcome).astype(state.outcome.dtype),
            num_steps=state.num_steps + accept,
            exact_steps=state.exact_steps + exact,
            step=state.step + 1,
        ), trace

    def unfinished(carry: tuple[State, Array]) -> Array:
        return (carry[0].outcome == Outcome.RUNNING).any() & (carry[0].step < stop)

    trace = jnp.full((state.objective.shape[0], SEGMENT), jnp.nan, state.objective.dtype)
    return jax.lax.while_loop(unfinished, body, (state, trace))


@over_data(0, 3)
def finish(
    family: Family,
    parameters: Parameters,
    data: Data,
    rows: int,
    controls: Controls,
    best: Int[Array, ""],
) -> tuple[Parameters, Evaluation, Array]:
    """Parameters of the best restart, with the likelihood and objective that they really have."""
    chosen = jax.tree.map(lambda leaf: leaf[best], parameters)
    evaluation = evaluate(family, chosen, data, rows)
    return chosen, evaluation, objective(family, chosen, evaluation.log_likelihood, controls)


def run(
    family: Family,
    parameters: Parameters,
    data: Data,
    rows: int,
    controls: Controls,
    max_steps: int,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    progress_interval: int = 8,
) -> tuple[State, np.ndarray]:
    """Call the compiled loop until all restarts are done; returns the whole trace [R, steps]."""
    num_restarts = parameters.log_weights.shape[0]
    state = State(
        parameters,
        np.full(num_restarts, -np.inf, data.x.dtype),
        np.full(num_restarts, Outcome.RUNNING, np.int32),
        np.zeros(num_restarts, np.int32),
        np.int32(0),
        np.int32(0),
    )
    traces = [np.zeros((num_restarts, 0))]
    length = SEGMENT if on_progress is None else min(SEGMENT, progress_interval)
    step_number = 0
    while step_number < max_steps:
        stop = min(max_steps, step_number + length)
        state, trace = segment(family, state, data, rows, controls, np.int32(stop))
        made, step_number = int(state.step) - step_number, int(state.step)
        traces.append(np.asarray(trace, np.float64)[:, :made])
        running = int((np.asarray(state.outcome) == Outcome.RUNNING).sum())
        if on_progress is not None:
            best = float(np.max(state.objective))
            on_progress({"step": step_number, "objective": best, "running": running})
        if not running:
            break
    outcome = np.asarray(state.outcome)
    left = np.where(outcome == Outcome.RUNNING, np.int32(Outcome.MAX_STEPS), outcome)
    return state._replace(outcome=left), np.concatenate(traces, 1)
