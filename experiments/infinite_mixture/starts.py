"""Training from several random starts in one program; the start with the best last bound is kept."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lvm_jax.gradients import Surrogate
from lvm_jax.guides import Conditional
from lvm_jax.models import Joint
from lvm_jax.training import Parameters, Separate, point
from lvm_jax.typing import Array, Float, Key, Scalar

Watch = Callable[[Key[Array, ""], Joint, Conditional], Any]  # (key, p, q) -> numbers, a tuple


class Steps(NamedTuple):
    """The settings of the steps."""

    estimate: Surrogate
    num_samples: int
    optimizer: optax.GradientTransformation
    batch_size: int
    num_starts: int
    num_records: int
    length: int  # steps between two records


class Best(NamedTuple):
    """The start with the highest final training bound, and its T records."""

    p: Joint
    q: Conditional
    step: np.ndarray  # [T]
    bound: np.ndarray  # [T], mean over the minibatches since the last record, nats per point
    watched: np.ndarray  # [T, W], the values of `watch`
    last_bounds: np.ndarray  # [R], the last record's bound of every start


def fit_starts(
    key: Key[Array, ""],
    pair: Separate,
    x: Float[np.ndarray, "N D"],
    steps: Steps,
    watch: Watch,
    on_record: Callable[[int, np.ndarray], None],
) -> Best:
    """Maximise the mean bound of x [N, D] from all starts; return the best one.

    Every step draws `batch_size` rows with replacement. All starts share rows and noise: they
    differ in their initial parameters only. `watch` is evaluated at each record, with one key for
    all; `on_record(step, watched)` receives the values of the start that is best at that step. A
    start whose bound is NaN is never the best.

    Raises FloatingPointError where the bounds of all starts are NaN.
    """
    rows = jnp.asarray(x)
    evaluate = jax.jit(jax.vmap(lambda key, params: watch(key, *pair(params)), (None, 0)))
    advance = jax.jit(partial(_run_steps, pair, steps))
    key_theta, key_phi, key_steps, key_watch = jax.random.split(key, 4)
    keys = (jax.random.split(key, steps.num_starts) for key in (key_theta, key_phi))
    state, records = jax.jit(partial(_start, pair, steps.optimizer))(*keys), []
    for index in range(steps.num_records):
        state, bound = advance(key_steps, state, rows, jnp.int32(index * steps.length))
        records.append(np.stack([bound, *evaluate(key_watch, state[0])]))  # [1 + W, R]
        at = (index + 1) * steps.length
        if np.isnan(records[-1][0]).all():
            raise FloatingPointError(
                f"the bound of every start is NaN by step {at}; try a lower rate"
            )
        best = int(np.nanargmax(records[-1][0]))
        on_record(at, records[-1][1:, best])
    p, q = pair(jax.tree.map(lambda leaf: leaf[best], state[0]))
    kept, step = np.stack(records)[:, :, best], steps.length * (1 + np.arange(steps.num_records))
    return Best(p, q, step, kept[:, 0], kept[:, 1:], records[-1][0])


def _start(
    pair: Separate,
    optimizer: optax.GradientTransformation,
    keys_theta: Key[Array, " R"],
    keys_phi: Key[Array, " R"],
) -> Any:
    """Initial parameters and optimiser state of every start."""
    params = Parameters(jax.vmap(pair.model.init)(keys_theta), jax.vmap(pair.guide.init)(keys_phi))
    return params, jax.vmap(optimizer.init)(params)


def _run_steps(
    pair: Separate,
    steps: Steps,
    key: Key[Array, ""],
    state: Any,
    x: Array,
    first: Array,
) -> tuple[Any, Float[Array, " R"]]:
    """Run the steps between two records; return the new state and the mean bound of each start."""

    def one(key: Array, x: Array, parameters: Parameters) -> Scalar:
        now = point(pair, parameters, x)
        return steps.estimate(key, now.p.log_joint(x), now.make_q, now.phi, steps.num_samples)

    def loss(parameters: Parameters, key: Array, batch: Array) -> Scalar:
        keys = jax.random.split(key, batch.shape[0])
        return -jax.vmap(one, in_axes=(0, 0, None))(keys, batch, parameters).mean()

    def update(state: Any, key: Array, batch: Array) -> tuple[Any, Scalar]:
        parameters, inner = state
        value, gradient = jax.value_and_grad(loss)(parameters, key, batch)
        updates, inner = steps.optimizer.update(gradient, inner, parameters)
        return (optax.apply_updates(parameters, updates), inner), -value

    def step(carry: tuple[Any, Array], index: Array) -> tuple[tuple[Any, Array], None]:
        state, total = carry
        key_batch, key_noise = jax.random.split(jax.random.fold_in(key, index))
        rows = jax.random.randint(key_batch, (steps.batch_size,), 0, x.shape[0])
        state, value = jax.vmap(update, in_axes=(0, None, None))(state, key_noise, x[rows])
        return (state, total + value), None

    indices = first + jnp.arange(steps.length, dtype=jnp.int32)
    (state, total), _ = jax.lax.scan(step, (state, jnp.zeros(steps.num_starts)), indices)
    return state, total / steps.length
