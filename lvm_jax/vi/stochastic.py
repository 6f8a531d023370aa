"""The method "adam": stochastic gradients of any estimator, for any family."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lvm_jax._core import checks
from lvm_jax._core.keys import split
from lvm_jax.compiling import bounded_jit
from lvm_jax.distributions.affine import Affine, log_det, solve_transposed
from lvm_jax.gradients.base import Surrogate, find_estimate
from lvm_jax.guides import Family
from lvm_jax.typing import Array, Distribution, Float, Key, Params, Scalar
from lvm_jax.vi.blocks import Iteration, Step
from lvm_jax.vi.density import Density
from lvm_jax.vi.families import as_family
from lvm_jax.vi.gaussian import MAX_DIM
from lvm_jax.vi.method import Found, Method, Task
from lvm_jax.vi.rows import Expansion, expand
from lvm_jax.vi.start import best_diagonal, best_normal
from lvm_jax.vi.stopping import iterate

FIRST_RATE = 0.01  # of Adam
COST_OF_ROWS = 3  # evaluations of a row for one draw: its likelihood and its expansion
LARGEST_NORM = 10.0  # of a gradient, for Adam
NUM_COMPARED = 256  # draws for the distance of two q


class AdamState(NamedTuple):
    """Parameters of q with the state of the optimiser."""

    eta: Params
    inner: Any


def adam(
    *,
    estimate: Any = "sticking_the_landing",
    num_samples: int = 10,
    batch_size: int | None = None,
    optimizer: optax.GradientTransformation | None = None,
    first_rate: float = FIRST_RATE,
) -> Method:
    """Stochastic gradients on the bound of `estimate`, with averaged iterates.

    The families of `vi.FAMILIES` are fitted in the coordinates of a normal along a path of L-BFGS:
    a flow in those of its full covariance, for D <= 5,000, others in those of a diagonal one.
    Another `Family` is fitted in the coordinates of z, from its initial parameters at the start.

    Args:
        estimate: a gradient estimator, its row or its name in `gradients.ESTIMATORS`.
        num_samples: draws of z in each step.
        batch_size: rows of `data` in each step, with the control variate of `vi.rows` at the mean
            of the start; None takes all rows.
        optimizer: an Optax optimiser whose updates are multiplied by the rate of `vi.stopping`;
            None is Adam with a learning rate of 1 on gradients clipped to a global norm of 10.
        first_rate: the rate of the first steps.
    """
    surrogate = find_estimate(estimate)
    num_samples = checks.integer(num_samples, "num_samples", 1)
    if batch_size is not None:
        checks.integer(batch_size, "batch_size", 1)
    if optimizer is None:
        optimizer = optax.chain(optax.clip_by_global_norm(LARGEST_NORM), optax.adam(1.0))

    def run(key: Key[Array, ""], task: Task) -> Found:
        key_start, key_init, key_steps = split(key, 3)
        coordinates, spent = _start(key_start, task)
        family = as_family(task.family, task.density.dim)
        eta = family.init(key_init)
        rows, cost = None, num_samples
        if batch_size is not None:
            rows, more = _rows(task.density, batch_size, coordinates.mean)
            spent += more
            cost = max(round(COST_OF_ROWS * num_samples * rows.share), 1)
        iteration = Iteration(
            partial(_step, surrogate, family, optimizer, num_samples, rows),
            lambda state: state.eta,
            family.build,
            partial(_distance, family),
            cost,
        )
        state = AdamState(eta, optimizer.init(eta))
        moved = task._replace(density=TransformedDensity(task.density, *coordinates))
        found = iterate(key_steps, iteration, state, moved, first_rate, spent)
        return found._replace(flat=Affine(found.flat, *coordinates), method="adam")

    return Method(None, run)


@partial(
    jax.tree_util.register_dataclass, data_fields=["density", "mean", "factor"], meta_fields=[]
)
@dataclass(frozen=True)
class TransformedDensity:
    """A density of v, with u = mean + C^-T v."""

    density: Any  # a Density, or an estimate of it from some rows
    mean: Float[Array, " D"]
    factor: Float[Array, "D D"] | Float[Array, " D"]  # C, or its diagonal

    @property
    def dim(self) -> int:
        """D."""
        return self.density.dim

    def __call__(self, v: Float[Array, " D"]) -> Scalar:
        """log p of v, in nats, with the log-determinant of u."""
        u = self.mean + solve_transposed(self.factor, v[None])[0]
        return self.density(u) - log_det(self.factor)


class Rows(NamedTuple):
    """The minibatches of a fit."""

    batch_size: int
    expansion: Expansion
    share: float  # of the rows


def _rows(density: Density, batch_size: int, mean: Float[Array, " D"]) -> tuple[Rows, int]:
    """The minibatches, and the evaluations of their control variate."""
    posterior = density.posterior
    if posterior is None or batch_size > posterior.num_rows:
        found = "none" if posterior is None else f"{posterior.num_rows:,} rows"
        raise ValueError(f"batch_size: expected `data` of >= {batch_size} rows, got {found}")
    expansion = _expand(density, mean)
    return Rows(batch_size, expansion, batch_size / posterior.num_rows), density.dim + 2


@bounded_jit(lean=True)
def _expand(density: Density, mean: Float[Array, " D"]) -> Expansion:
    return expand(density.posterior, density.constrained(mean))


class Coordinates(NamedTuple):
    """u = mean + C^-T v, the coordinates v of the steps."""

    mean: Float[Array, " D"]
    factor: Float[Array, "D D"] | Float[Array, " D"]  # C, or its diagonal


def _start(key: Key[Array, ""], task: Task) -> tuple[Coordinates, int]:
    """The coordinates of the steps, and the evaluations to find them."""
    dim, dtype = task.density.dim, task.density.dtype
    if isinstance(task.family, Family):
        return Coordinates(jnp.zeros(dim, dtype), jnp.ones(dim, dtype)), 0
    if task.family in ("flow", "full_rank") and dim <= MAX_DIM:
        started = best_normal(key, task.density, task.max_evaluations)
        return Coordinates(*started.state), started.evaluations
    found = best_diagonal(key, task.density, task.max_evaluations)
    return Coordinates(found.mean, jnp.exp(-found.log_scale)), found.evaluations


def _step(
    surrogate: Surrogate,
    family: Family,
    optimizer: optax.GradientTransformation,
    num_samples: int,
    rows: Rows | None,
    density: TransformedDensity,
    key: Key[Array, ""],
    state: AdamState,
    rate: Scalar,
) -> Step:
    """One step of the optimiser, its updates times the rate."""
    if rows is not None:
        estimate = density.density.minibatch(
            jax.random.fold_in(key, 1), rows.batch_size, rows.expansion
        )
        density = replace(density, density=estimate)

    def bound(eta: Params) -> Scalar:
        return surrogate(key, density, family.build, eta, num_samples)

    value, gradient = jax.value_and_grad(bound)(state.eta)
    down = jax.tree.map(jnp.negative, gradient)
    updates, inner = optimizer.update(down, state.inner, state.eta)
    updates = jax.tree.map(lambda leaf: rate.astype(leaf.dtype) * leaf, updates)
    proper = (
        jnp.isfinite(value)
        & jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)]).all()
    )
    new = AdamState(optax.apply_updates(state.eta, updates), inner)
    return Step(jax.tree.map(lambda a, b: jnp.where(proper, a, b), new, state), value[None])


def _distance(family: Family, first: Params, second: Params) -> Scalar:
    """The mean of KL(q_1 || q_2) and KL(q_2 || q_1), from `NUM_COMPARED` draws of each."""
    one, two = family.build(first), family.build(second)
    keys = jax.random.split(jax.random.key(0))
    return (_kl(keys[0], one, two) + _kl(keys[1], two, one)) / 2


def _kl(key: Key[Array, ""], q: Distribution, p: Distribution) -> Scalar:
    z = q.sample(seed=key, sample_shape=(NUM_COMPARED,))
    return jax.vmap(lambda one: q.log_prob(one) - p.log_prob(one))(z).mean()
