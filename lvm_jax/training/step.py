"""One optimiser step, and the compiled loop of steps on the device.

Every random number comes from fold_in(key, step) or fold_in(key, epoch), and a compiled call may
stop at any step. So the lengths of the calls, interrupts and resuming change no bit of a run.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lvm_jax import parallel
from lvm_jax._core.batching import num_rows, rows_of
from lvm_jax._core.pairs import Pair, Parameters, Separate, made_of, point
from lvm_jax.compiling import bounded_jit
from lvm_jax.training.objective import BATCH, Objective, Terms
from lvm_jax.training.options import SEGMENT
from lvm_jax.training.rows import HeldOut, Rows, padded_order
from lvm_jax.typing import Array, Bool, Float, Int, Key, Params, Scalar

BLOCKS = (256, 16, 1)  # steps between two checks of the health, on an accelerator
Transform = Callable[[Key[Array, ""], Any], Any]  # one data point -> a fresh one


class Program(NamedTuple):
    """The static arguments of a step; a fit with an equal Program compiles nothing."""

    pair: Pair
    estimate: Objective  # an estimator is an objective too, by `as_objective`
    num_samples: int
    optimizer: optax.GradientTransformation
    batch_size: int  # of all processes together
    transform: Transform | None
    mesh: Mesh | None


class Keys(NamedTuple):
    """The streams of random numbers of one run."""

    theta: Key[Array, ""]
    phi: Key[Array, ""]
    order: Key[Array, ""]  # folded with the epoch
    noise: Key[Array, ""]  # folded with the step
    validation: Key[Array, ""]  # folded with the row: every validation sees the same noise


class State(NamedTuple):
    """The state that a step updates."""

    parameters: Params
    optimizer: Any
    step: Int[Array, ""]  # steps made


class Run(NamedTuple):
    """The result of a compiled call. Rows of the trace beyond the steps made are not used."""

    state: State
    trace: Terms  # [SEGMENT], minibatch means
    first: Int[Array, ""]  # the step of the trace's first row
    healthy: Bool[Array, ""]  # all is finite


@bounded_jit(2)
def fresh(key_theta: Key[Array, ""], key_phi: Key[Array, ""], pair: Separate) -> Parameters:
    """New parameters, compiled as one program; eager calls would compile several per shape."""
    return Parameters(pair.model.init(key_theta), pair.guide.init(key_phi))


def initialize(program: Program, keys: Keys, initial: Params | None) -> State:
    """The state before the first step; new parameters where `initial` is None."""
    if initial is None:
        initial = fresh(keys.theta, keys.phi, made_of(program.pair))
    # A Python number or a weakly typed array would change its type in the first step.
    parameters = jax.tree.map(lambda v: jnp.asarray(v, jnp.asarray(v).dtype), initial)
    return State(parameters, program.optimizer.init(parameters), jnp.int32(0))


def update(program: Program, key: Key[Array, ""], state: State, batch: Any) -> tuple[State, Terms]:
    """One step of the optimiser on a minibatch [B, ...]; key is the run's `Keys.noise`."""
    _, updates, optimizer, terms = descend(program, key, state, batch)
    parameters = optax.apply_updates(state.parameters, updates)
    return State(parameters, optimizer, state.step + 1), terms


def descend(
    program: Program, key: Key[Array, ""], state: State, batch: Any
) -> tuple[Params, Params, Any, Terms]:
    """Gradient of a minibatch's loss, the optimiser's updates and new state, and mean terms.

    `optax.contrib.reduce_on_plateau` and `optax.lbfgs` use the minibatch's loss and its function,
    which has fixed noise.
    """
    keys = jax.random.split(jax.random.fold_in(key, state.step), program.batch_size)

    def loss(parameters: Params) -> tuple[Scalar, Terms]:
        terms = jax.tree.map(jnp.mean, batch_terms(program, keys, parameters, batch, state.step))
        return -terms.objective, terms  # the only negation

    gradient, terms = jax.grad(loss, has_aux=True)(state.parameters)
    extra = {"value": -terms.objective, "grad": gradient, "value_fn": lambda new: loss(new)[0]}
    updates, optimizer = optax.with_extra_args_support(program.optimizer).update(
        gradient, state.optimizer, state.parameters, **extra
    )
    return gradient, updates, optimizer, terms


def batch_terms(
    program: Program, keys: Key[Array, " B"], parameters: Params, batch: Any, step: Array
) -> Terms:
    """Objective and bound of every data point of a batch, leaves [B]."""
    batch = parallel.constrain(program.mesh, batch)

    def one(key: Key[Array, ""], x: Any) -> Terms:
        return point_terms(program, key, parameters, x, step)

    return jax.vmap(one, axis_name=BATCH)(keys, batch)


def point_terms(
    program: Program, key: Key[Array, ""], parameters: Params, x: Any, step: Array
) -> Terms:
    """Objective and bound of one data point."""
    if program.transform is not None:
        key_transform, key = jax.random.split(key)
        x = program.transform(key_transform, x)
    now = point(program.pair, parameters, x)
    return program.estimate(key, now, program.num_samples, step)


@bounded_jit(0)
def advance(program: Program, keys: Keys, state: State, x: Rows, stop: Array) -> Run:
    """Run to step `stop`, or to the first unhealthy one, with all rows on the device."""
    length = x.number // program.batch_size  # an epoch drops the remaining rows

    def epoch(run: Run) -> Run:
        number = run.state.step // length
        order = padded_order(keys.order, number, num_rows(x.values), x.number, x.sorts)

        def take(step: Int[Array, ""]) -> Any:
            start = (step - number * length) * program.batch_size
            return rows_of(x.values, jax.lax.dynamic_slice(order, (start,), (program.batch_size,)))

        return run_steps(program, keys, run, take, jnp.minimum(stop, (number + 1) * length))

    return finish(jax.lax.while_loop(unfinished(stop), epoch, begin(state)))


@bounded_jit(0)
def advance_fed(
    program: Program,
    keys: Keys,
    state: State,
    batches: Any,  # leaves [T, B, ...]
    start: Array,
    stop: Array,
) -> Run:
    """As `advance`, on batches from the host, the first of which belongs to step `start`."""

    def take(step: Int[Array, ""]) -> Any:
        return jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, step - start, keepdims=False), batches
        )

    return finish(run_steps(program, keys, begin(state), take, stop))


def begin(state: State) -> Run:
    """The state of a call before its first step."""
    return Run(state, Terms(jnp.zeros(SEGMENT), jnp.zeros(SEGMENT)), state.step, jnp.bool_(True))


def unfinished(stop: Array) -> Callable[[Run], Bool[Array, ""]]:
    """The condition of the loop: healthy, and before step `stop`."""
    return lambda run: run.healthy & (run.state.step < stop)


def run_steps(
    program: Program,
    keys: Keys,
    run: Run,
    take: Callable[[Int[Array, ""]], Any],
    stop: Array,
) -> Run:
    """Run steps on the batches take(step) until `stop`, or to the first unhealthy block.

    A step is healthy if its objective and its bound are finite. The health is checked at the end
    of a block; `diagnose` finds the step. The blocks change no result.
    """

    def body(run: Run) -> Run:
        step = run.state.step
        state, terms = update(program, keys.noise, run.state, take(step))
        trace = jax.tree.map(lambda rows, v: rows.at[step - run.first].set(v), run.trace, terms)
        finite = jnp.isfinite(terms.objective) & jnp.isfinite(terms.bound)
        return Run(state, trace, run.first, run.healthy & finite)

    for size in blocks():
        fits = lambda run, size=size: run.healthy & (run.state.step + size <= stop)  # noqa: E731
        block = lambda run, size=size: jax.lax.fori_loop(0, size, lambda _, r: body(r), run)  # noqa: E731
        run = jax.lax.while_loop(fits, block, run)
    return run


def blocks() -> tuple[int, ...]:
    """The numbers of steps between two checks of the loop's condition; the last is 1.

    An accelerator waits for the host at each check. Each length compiles the step once more; a CPU
    would gain nothing.
    """
    return (1,) if jax.default_backend() == "cpu" else BLOCKS


def finish(run: Run) -> Run:
    """Check the parameters once a call: a check in every step would cost a pass over them."""
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(run.state.parameters)]
    return run._replace(healthy=jnp.stack([run.healthy, *finite]).all())


@bounded_jit(0)
def validate(
    program: Program, keys: Keys, parameters: Params, rows: HeldOut, step: Array
) -> Scalar:
    """The mean bound over x [M, ...], `batch_size` rows at a time; each row has its own noise.

    `rows` come from `validation_rows`. The copies that fill the last batch have weight 0.
    """
    x, number = rows
    size = program.batch_size

    def chunk(index: Array, bounds: Float[Array, " P"]) -> Float[Array, " P"]:
        place = index * size + jnp.arange(size)
        noise = jax.vmap(partial(jax.random.fold_in, keys.validation))(place)
        batch = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, index * size, size), x)
        found = batch_terms(program, noise, parameters, batch, step).bound
        return jax.lax.dynamic_update_slice(bounds, found.astype(bounds.dtype), (index * size,))

    total = num_rows(x)
    bounds = jax.lax.fori_loop(0, -(-number // size), chunk, jnp.zeros(total))
    return jnp.where(jnp.arange(total) < number, bounds, 0).sum() / number
