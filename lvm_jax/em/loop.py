"""The compiled EM loop for R restarts at once; it returns its outcome as a value."""

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core.outcome import Outcome
from lvm_jax.em import priors, squarem, starts
from lvm_jax.em.compiling import over_data
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.grouped import centred_pass
from lvm_jax.em.state import Conclusion, Controls, Problem, State
from lvm_jax.em.statistics import (
    Evaluation,
    MixtureParameters,
    evaluate,
    fast_pass,
)
from lvm_jax.typing import Array, Float, Int

SEGMENT = 128  # maximum steps per call of the compiled loop, the length of its trace


def objective(
    family: ExponentialFamily,
    parameters: MixtureParameters,
    log_likelihood: Array,
    controls: Controls,
) -> Array:
    """(log-likelihood + log p(theta) with a prior) / total weight."""
    settings = controls.settings
    total = log_likelihood
    if settings.prior is not None:
        total = total + family.log_prior(parameters.components, settings.prior)
    if settings.concentration is not None:
        total = total + priors.log_dirichlet(parameters.log_weights, settings.concentration)
    return total / controls.total_weight


def initial(problem: Problem) -> Callable[[Array, Array], tuple[Array, Array]]:
    """The responsibilities of step -1, as a function of rows."""
    incomplete = problem.data.fill is not None
    num_live = problem.controls.num_live
    given = starts.assignment(problem.key, problem.centres, problem.uniform, num_live, incomplete)
    return starts.softened(given, num_live) if problem.family.keeps_zeros else given


def step(problem: Problem, state: State) -> tuple[MixtureParameters, Array, Array]:
    """One EM step of every restart: new parameters, objective before the step, exact path used.

    The fast pass is accepted if `is_safe` holds for the mixtures before and after it; otherwise
    the exact pass runs from the same parameters. Step -1 is the initial M-step, by the exact pass.
    """
    family, rows, data, controls = problem.family, problem.rows, problem.data, problem.controls
    running = state.outcome == Outcome.RUNNING
    starting = state.step < 0
    given = initial(problem)

    def safe(parameters: MixtureParameters) -> Array:
        if not family.has_exact_path:
            return jnp.array(True)
        return (jax.vmap(family.is_safe)(parameters.components) | ~running).all()

    def take(summary: Any, log_likelihood: Array) -> tuple[MixtureParameters, Array]:
        new = jax.vmap(lambda s, p: starts.maximize(family, s, p, controls.settings))(
            summary, state.parameters.components
        )
        return new, log_likelihood

    def fast_step() -> tuple[MixtureParameters, Array]:
        return take(*fast_pass(family, state.parameters, data, rows))

    def exact_step() -> tuple[MixtureParameters, Array]:
        return take(*centred_pass(family, state.parameters, data, rows, (starting, given)))

    if not family.has_fast_path:
        accepted, (new, log_likelihood) = jnp.array(False), exact_step()
    else:
        before = ~starting & safe(state.parameters)
        fast = jax.lax.cond(before, fast_step, lambda: (state.parameters, state.objective))
        accepted = before & safe(fast[0])
        new, log_likelihood = jax.lax.cond(accepted, lambda: fast, exact_step)
    value = jax.vmap(lambda p, v: objective(family, p, v, controls))(
        state.parameters, log_likelihood
    )
    gain = jax.vmap(lambda old, new: family.gain(old, new, controls.settings))(
        state.parameters.components, new.components
    )
    return new, value + (gain / controls.total_weight).astype(value.dtype), ~accepted


@over_data(0)
def translated(
    family: ExponentialFamily, parameters: MixtureParameters, shift: Float[Array, "*R 1 D"]
) -> MixtureParameters:
    """The same R mixtures relative to the origin minus `shift`."""
    return parameters._replace(components=family.translate(parameters.components, shift))


def begin(problem: Problem, state: State) -> State:
    """Before step -1: components at the centres with the data's standard deviations."""

    def wide() -> MixtureParameters:
        width = starts.spread(problem.data)
        components = jax.vmap(lambda c: problem.family.start(c, width))(problem.centres)
        return state.parameters._replace(components=components)

    parameters = jax.lax.cond(state.step < 0, wide, lambda: state.parameters)
    return state._replace(parameters=parameters)


def advance(problem: Problem, state: State) -> tuple[State, Float[Array, " R"]]:
    """The state after one step, and the objective before it (NaN for a finished restart)."""
    return accept(problem.family, problem.controls, state, *step(problem, state))


def accept(
    family: ExponentialFamily,
    controls: Controls,
    state: State,
    new: MixtureParameters,
    value: Array,
    exact: Array,
) -> tuple[State, Float[Array, " R"]]:
    """The result of `advance`, from the result of the step.

    After a jump that is not accepted the objective is that of the step before.
    """
    starting, running = state.step < 0, state.outcome == Outcome.RUNNING
    leaves = [jnp.isfinite(leaf) for leaf in jax.tree.leaves(new.components)]
    proper = jnp.stack([leaf.reshape(leaf.shape[0], -1).all(1) for leaf in leaves]).all(0)
    finite = jnp.isfinite(value)
    cycle, jumped, rejected = state.cycle, jnp.array(False), jnp.zeros_like(running)
    if cycle is not None:
        jumped = ~starting & squarem.has_jumped(state.step)
        rejected = jumped & ~(proper & finite & (value >= state.objective))
        value = jnp.where(rejected, state.objective, value)
    converged = ~jumped & (jnp.abs(value - state.objective) < controls.tolerance)
    outcome = jnp.where(converged, Outcome.CONVERGED, Outcome.RUNNING)
    outcome = jnp.where(proper | rejected, outcome, Outcome.DEGENERATE)
    outcome = jnp.where(finite | rejected, outcome, Outcome.DIVERGED)
    accepted = running & (proper & finite | rejected)
    if cycle is not None:
        settings = controls.settings
        taken = (family, settings, state.step, state.parameters, new, cycle, ~rejected)
        then, cycle = jax.lax.cond(starting, lambda: (new, cycle), lambda: squarem.follow(*taken))
        new = squarem.choose(outcome == Outcome.RUNNING, then, new)
    return State(
        parameters=squarem.choose(accepted | starting, new, state.parameters),
        objective=jnp.where(running & (finite | rejected) & ~starting, value, state.objective),
        outcome=jnp.where(running & ~starting, outcome, state.outcome).astype(jnp.int32),
        num_steps=state.num_steps + (accepted & ~starting),
        exact_steps=state.exact_steps + (exact & ~starting),
        step=state.step + 1,
        cycle=cycle,
    ), jnp.where(running, value, jnp.nan)


@over_data(0, 1, 2, 3, 4)
def segment(
    family: ExponentialFamily,
    uniform: bool,
    rows: int,
    accelerated: bool,
    assign: bool,
    rest: tuple[Any, ...],
    state: State,
    stop: Int[Array, ""],
    last: Int[Array, ""],
) -> tuple[State, Float[Array, "R T"], Conclusion]:
    """Run all restarts until they finish or reach step `stop`: state, trace, conclusion.

    One program is a whole fit: it includes the initial M-step (step -1), and the conclusion once
    no restart is running or step `last` is reached (until then the conclusion is zeros).
    """
    problem = Problem(family, uniform, rows, accelerated, *rest)
    first = jnp.maximum(state.step, 0)

    def body(carry: tuple[State, Array]) -> tuple[State, Array]:
        state, trace = carry
        place = jnp.where(state.step < 0, SEGMENT, state.step - first)  # SEGMENT is dropped
        state, value = advance(problem, state)
        return state, trace.at[:, place].set(value, mode="drop")

    def unfinished(carry: tuple[State, Array]) -> Array:
        return (carry[0].outcome == Outcome.RUNNING).any() & (carry[0].step < stop)

    trace = jnp.full((state.objective.shape[0], SEGMENT), jnp.nan, state.objective.dtype)
    state, trace = jax.lax.while_loop(unfinished, body, (begin(problem, state), trace))
    done = ~(state.outcome == Outcome.RUNNING).any() | (state.step >= last)

    def unfinished_conclusion() -> Conclusion:
        chosen = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), state.parameters)
        zero = jnp.zeros((), state.objective.dtype)
        labels = jnp.zeros(problem.data.x.shape[0], jnp.int32) if assign else None
        return Conclusion(jnp.int32(0), chosen, Evaluation(zero, zero, zero), zero, labels)

    finish = partial(conclude, problem, measured(state), assign)
    return state, trace, jax.lax.cond(done, finish, unfinished_conclusion)


def measured(state: State) -> State:
    """The state without jumps whose objective is not measured."""
    if state.cycle is None:
        return state
    jumped = (state.outcome == Outcome.RUNNING) & squarem.has_jumped(state.step)
    return state._replace(parameters=squarem.choose(jumped, state.cycle.kept, state.parameters))


def conclude(problem: Problem, state: State, assign: bool) -> Conclusion:
    """The best restart, with the likelihood and objective of its final parameters.

    A failed restart (degenerate or diverged) is the best only if every restart failed.
    """
    failed = state.outcome >= Outcome.DEGENERATE
    left = jnp.where(failed & ~failed.all(), -jnp.inf, state.objective)
    best = jnp.argmax(left).astype(jnp.int32)
    chosen = jax.tree.map(lambda leaf: leaf[best], state.parameters)
    evaluation, labels = evaluate(problem.family, chosen, problem.data, problem.rows, assign)
    log_likelihood = evaluation.log_likelihood
    value = objective(problem.family, chosen, log_likelihood, problem.controls)
    return Conclusion(best, chosen, evaluation, value, labels)


def before(problem: Problem, previous_objective: float = -np.inf) -> State:
    """The state at the start of `run`."""
    num_restarts, dtype = problem.centres.shape[0], problem.data.x.dtype
    return State(
        problem.parameters,
        np.full(num_restarts, previous_objective, dtype),
        np.full(num_restarts, Outcome.RUNNING, np.int32),
        np.zeros(num_restarts, np.int32),
        np.int32(0),
        problem.first_step,
        squarem.start(problem.parameters) if problem.accelerated else None,
    )


def compile_in(pool: Executor, problem: Problem) -> None:
    """Compile the program of `run` in a thread of the pool."""
    stop = np.int32(0)
    segment.compile_in(pool, *problem[:4], False, problem[4:], before(problem), stop, stop)


def run(
    problem: Problem,
    max_steps: int,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    progress_interval: int = 8,
    assign: bool = False,
    previous_objective: float = -np.inf,
) -> tuple[State, np.ndarray, Conclusion]:
    """Call the compiled loop until all restarts finish: state, trace [R, steps], conclusion.

    A restart converges at its first step if its objective is within the tolerance of
    `previous_objective`.
    """
    num_restarts = problem.centres.shape[0]
    state = before(problem, previous_objective)
    traces = [np.zeros((num_restarts, 0))]
    length = SEGMENT if on_progress is None else min(SEGMENT, progress_interval)
    static, last, step_number, running = (*problem[:4], assign), np.int32(max_steps), 0, True
    while running:
        stop = np.int32(min(max_steps, step_number + length))
        state, trace, conclusion = segment(*static, problem[4:], state, stop, last)
        made, step_number = int(state.step) - step_number, int(state.step)
        traces.append(np.asarray(trace, np.float64)[:, :made])
        number = int((np.asarray(state.outcome) == Outcome.RUNNING).sum())
        if on_progress is not None and made:
            best = float(np.max(state.objective))
            on_progress({"step": step_number, "objective": best, "running": number})
        running = number > 0 and step_number < max_steps
    outcome = np.asarray(state.outcome)
    left = np.where(outcome == Outcome.RUNNING, np.int32(Outcome.MAX_STEPS), outcome)
    return state._replace(outcome=left), np.concatenate(traces, 1), conclusion
