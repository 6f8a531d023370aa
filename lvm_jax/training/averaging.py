"""Averages of the parameters, which an optimiser keeps in its state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ScheduleFreeState, schedule_free_eval_params

from lvm_jax._core import checks
from lvm_jax.compiling import bounded_jit
from lvm_jax.typing import Array, Float, Params


class AveragedState(NamedTuple):
    """The state of `with_ema`."""

    inner: Any  # the state of the optimiser
    average: optax.EmaState  # with its bias to zero
    decay: Float[Array, ""]


def with_ema(
    optimizer: optax.GradientTransformation, decay: float
) -> optax.GradientTransformationExtraArgs:
    """The optimiser, whose state also holds a moving average of the parameters after each step:

        (1 - d) sum_{i <= t} d^(t - i) parameters_i / (1 - d^t),   d = decay

    `fit` validates and returns the average. Wrap the whole optimiser: an update that is changed
    after this one is not in the average.

    Raises ValueError for a decay outside (0, 1). Source: Kingma and Ba 2015, section 7.2.
    """
    if not 0 < checks.number(decay, "decay") < 1:
        raise ValueError(f"decay: expected a number between 0 and 1, got {decay}")
    inner, ema = optax.with_extra_args_support(optimizer), optax.ema(decay)

    def init(params: Params) -> AveragedState:
        return AveragedState(inner.init(params), ema.init(params), jnp.asarray(decay, float))

    def update(
        updates: Params, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Params, AveragedState]:
        updates, moved = inner.update(updates, state.inner, params, **extra)
        _, average = ema.update(optax.apply_updates(params, updates), state.average)
        return updates, AveragedState(moved, average, state.decay)

    return optax.GradientTransformationExtraArgs(init, update)


def eval_params(parameters: Params, optimizer_state: Any) -> Params:
    """The parameters to evaluate: the average, if the state of the optimiser has one.

    `optax.contrib.schedule_free` updates the point y at which gradients are taken; its result is
    the average x of its iterates (Defazio et al., The Road Less Scheduled, 2024). An average of a
    subset of the parameters is not used.
    """
    whole: Any = jax.tree.structure(parameters)
    for part in jax.tree.leaves(optimizer_state, is_leaf=_is_average):
        if isinstance(part, ScheduleFreeState) and jax.tree.structure(part.z) == whole:
            return schedule_free_eval_params(part, parameters)
        if isinstance(part, AveragedState) and jax.tree.structure(part.average.ema) == whole:
            return _unbiased(parameters, part)
    return parameters


def _is_average(part: Any) -> bool:
    return isinstance(part, AveragedState | ScheduleFreeState)


@bounded_jit()
def _unbiased(parameters: Params, state: AveragedState) -> Params:
    """Compiled: eager JAX would compile the power again for each value of the count."""
    count, average = state.average
    correction = 1 - state.decay**count

    def one(parameter: Array, average: Array) -> Array:
        return jnp.where(count > 0, average / correction.astype(average.dtype), parameter)

    return jax.tree.map(one, parameters, average)
