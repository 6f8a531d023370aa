"""Training from several keys in one compiled program."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lvm_jax._core import checks
from lvm_jax._core.batching import num_rows
from lvm_jax._core.pairs import Pair
from lvm_jax.compiling import bounded_jit
from lvm_jax.gradients.base import Estimator, Surrogate
from lvm_jax.guides.base import Guide
from lvm_jax.models.base import Model
from lvm_jax.training.averaging import eval_params
from lvm_jax.training.given import prepare
from lvm_jax.training.objective import Objective
from lvm_jax.training.options import SEGMENT
from lvm_jax.training.rows import Rows, padded_rows
from lvm_jax.training.step import Keys, Program, State, Transform, advance, initialize
from lvm_jax.typing import Array, Float, Key, Params


class Fits(NamedTuple):
    """R trainings. The leaves of p and q are [R, ...]: `jax.vmap` maps over them."""

    p: Any
    q: Any
    params: Params  # leaves [R, ...]
    bound: Float[np.ndarray, "R E"]  # the true bound, averaged over each epoch, nats per point
    objective: Float[np.ndarray, "R E"]


def fit_many(
    keys: Key[Array, " R"],
    model: Model | Pair,
    guide: Guide | Params,
    x: Any,
    *,
    estimate: Surrogate | Estimator | Objective | str,
    num_samples: int,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    num_epochs: int,
    transform: Transform | None = None,
) -> Fits:
    """`fit` of every key in `keys` [R], all in one program on one device.

    Run r equals `fit(keys[r], model, guide, x, ...)` to rounding: its key gives its initial
    parameters (those of a pair with parameters are the same for all r), its order of the rows and
    its noise. For small models, whose steps leave a device idle, R runs take little longer than
    one. There are no checkpoints, no validation and no early stopping; the data are on the device.

        fits = fit_many(jax.random.split(key, 8), model, guide, x, ...)
        jax.vmap(lambda p: p.log_evidence(x[0]))(fits.p)                    # [8]

    Raises ValueError and TypeError as `fit`, and FloatingPointError naming the runs whose bound or
    parameters are not finite, and the steps.
    """
    checks.host("training.fit_many", "an estimator with jax.grad and jax.vmap", keys, x, guide)
    if not (isinstance(keys, jax.Array) and keys.ndim == 1 and keys.shape[0] >= 1):
        raise ValueError(
            "keys: expected typed keys [R], as jax.random.split(key, R) gives, got "
            f"{getattr(keys, 'shape', type(keys).__name__)}"
        )
    checks.key(keys[0], "keys")
    program, start, x = prepare(
        *(model, guide, x, estimate), *(num_samples, optimizer, batch_size, transform, None)
    )
    streams = Keys(*jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 5))(keys), 1, 0))
    rows = padded_rows(keys[0], x)
    per_epoch = num_rows(x) // batch_size
    state = jax.vmap(lambda own: initialize(program, own, start))(streams)
    last = checks.integer(num_epochs, "num_epochs", 0) * per_epoch
    trace: list[Any] = []
    for first in range(0, last, SEGMENT):
        stop = min(first + SEGMENT, last)
        state, terms, healthy = _advance(program, streams, state, rows, np.int32(stop))
        _check_health(healthy, state)
        trace.append(jax.tree.map(lambda leaf, n=stop - first: np.asarray(leaf)[:, :n], terms))
    params = jax.vmap(eval_params)(state.parameters, state.optimizer)
    p, q = jax.vmap(lambda one: program.pair(one))(params)
    size = (keys.shape[0], num_epochs, per_epoch)
    bound, climbed = (
        np.concatenate([getattr(part, name) for part in trace], 1).reshape(size).mean(2)
        if trace
        else np.zeros(size[:2])
        for name in ("bound", "objective")
    )
    return Fits(p, q, params, bound, climbed)


@bounded_jit(0)
def _advance(
    program: Program, streams: Keys, state: State, rows: Rows, stop: Array
) -> tuple[State, Any, Array]:
    """`step.advance` of every run."""

    def one(own: Keys, state: State) -> tuple[State, Any, Array]:
        run = advance(program, own, state, rows, stop)
        return run.state, run.trace, run.healthy

    return jax.vmap(one)(streams, state)


def _check_health(healthy: Array, state: State) -> None:
    bad = np.flatnonzero(~np.asarray(healthy))
    if len(bad):
        steps = np.asarray(state.step)[bad].tolist()
        raise FloatingPointError(
            f"training diverged in runs {bad.tolist()} at steps {steps}: a bound or a parameter is "
            "not finite. `fit` with the key of one of them names the parameters; lower the "
            "learning rate, or clip gradients"
        )
