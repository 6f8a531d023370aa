"""Training from several random starts in one program; the best start is returned.

For small models: all data and all starts stay on the device, and there are no checkpoints.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lvm_jax._core import checks
from lvm_jax._core.pairs import Parameters, Separate, point
from lvm_jax.gradients import Surrogate
from lvm_jax.guides import Conditional, Guide
from lvm_jax.models import Joint, Model
from lvm_jax.typing import Array, Float, Key, Scalar

Watch = Callable[[Key[Array, ""], Joint, Conditional], Any]  # (key, p, q) -> numbers, a tuple


class Starts(NamedTuple):
    """The start with the highest final training bound, and its T records."""

    p: Joint
    q: Conditional
    step: np.ndarray  # [T]
    bound: np.ndarray  # [T], mean over the minibatches since the last record, nats per point
    watched: np.ndarray  # [T, W], the values of `watch`
    last_bounds: np.ndarray  # [R], the last record's bound of every start


class _Steps(NamedTuple):
    """The settings of the steps."""

    estimate: Surrogate
    num_samples: int
    optimizer: optax.GradientTransformation
    batch_size: int
    num_starts: int
    length: int  # steps between two records


def fit_starts(
    key: Key[Array, ""],
    model: Model,
    guide: Guide,
    x: Float[np.ndarray, "N D"],
    *,
    estimate: Surrogate,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    num_steps: int,
    num_starts: int,
    num_records: int = 1,
    num_samples: int = 1,
    watch: Watch = lambda key, p, q: (),
    on_record: Callable[[int, np.ndarray], None] = lambda step, watched: None,
) -> Starts:
    """Maximise the mean bound of x [N, D] from `num_starts` starts; return the best one.

    Every step draws `batch_size` rows with replacement. All starts share rows and noise: they
    differ in their initial parameters only. `watch` is evaluated at `num_records` evenly spaced
    steps, with one key for all; `on_record(step, watched)` receives the values of the start that is
    best at that step. A start whose bound is NaN is never the best.

    Raises ValueError naming the argument: for counts below 1, and num_steps that num_records does
    not divide. Raises FloatingPointError where the bounds of all starts are NaN.
    """
    checks.key(key)
    counts = {"batch_size": batch_size, "num_starts": num_starts, "num_records": num_records}
    for name, count in {**counts, "num_samples": num_samples}.items():
        checks.integer(count, name, 1)
    if checks.integer(num_steps, "num_steps", 1) % num_records:
        raise ValueError(f"num_steps: expected a multiple of {num_records}, got {num_steps}")
    rows, length = jnp.asarray(checks.points(x, "x", 1)), num_steps // num_records
    steps = _Steps(estimate, num_samples, optimizer, batch_size, num_starts, length)
    pair = Separate(model, guide)
    evaluate = jax.jit(jax.vmap(lambda key, params: watch(key, *pair(params)), (None, 0)))
    advance = jax.jit(partial(_run_steps, pair, steps))
    key_theta, key_phi, key_steps, key_watch = jax.random.split(key, 4)
    keys = jax.random.split(key_theta, num_starts), jax.random.split(key_phi, num_starts)
    state, records = jax.jit(partial(_start, pair, optimizer))(*keys), []
    for index in range(num_records):
        state, bound = advance(key_steps, state, rows, jnp.int32(index * length))
        records.append(np.stack([bound, *evaluate(key_watch, state[0])]))  # [1 + W, R]
        if np.isnan(records[-1][0]).all():
            at = (index + 1) * length
            raise FloatingPointError(
                f"the bound of every start is NaN by step {at}; try a lower rate"
            )
        best = int(np.nanargmax(records[-1][0]))
        on_record((index + 1) * length, records[-1][1:, best])
    p, q = pair(jax.tree.map(lambda leaf: leaf[best], state[0]))
    kept, step = np.stack(records)[:, :, best], length * (1 + np.arange(num_records))  # [T, 1 + W]
    return Starts(p, q, step, kept[:, 0], kept[:, 1:], records[-1][0])


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
    steps: _Steps,
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
