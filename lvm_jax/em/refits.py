"""EM on B data sets or B weightings of one at once, by one compiled program, in float64."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core.outcome import Outcome
from lvm_jax.em import grouped, loop, squarem, starts
from lvm_jax.em.compiling import over_data
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.gaussian import Gaussian
from lvm_jax.em.state import Controls, State
from lvm_jax.em.statistics import (
    Data,
    MixtureParameters,
    chunk_rows,
    exact_pass,
    fast_pass,
)
from lvm_jax.typing import Array, Float, Int

FLAT = 1e-4  # of the mixture's variance in a direction: less is spurious on a few points
BATCH = 128  # fits of a program: those that have converged wait for the slowest
ROUND = 30  # steps of the first round, ten cycles of SQUAREM
BATCH_FLOATS = 2**26  # of the responsibilities and rows of a program


class Way(NamedTuple):
    """The static part of a program: the family, its pass over the rows, and rows per chunk."""

    family: ExponentialFamily
    exact: bool
    rows: int


class Refits(NamedTuple):
    """The fits to B data sets."""

    parameters: MixtureParameters  # leaves [B, ...]
    log_likelihood: Any  # [B], total, nats
    outcome: Any  # [B], of Outcome
    num_steps: Any  # [B]


def way(
    family: ExponentialFamily, parameters: MixtureParameters, num_rows: int, num_fits: int
) -> Way:
    """The pass for fits near a mixture [K], with parameters of float64."""
    exact = family.has_exact_path and not bool(family.is_safe(parameters.components))
    k, dim = len(parameters.log_weights), family.means(parameters.components).shape[1]
    floats = num_fits * (2 * dim + k * family.floats_per_component(dim))
    return Way(family, exact, chunk_rows(num_rows, floats, 8, max(64, family.block)))


def batch_size(number: int, num_rows: int, floats_per_row: int) -> int:
    """The number of fits of a program: `number` in batches of one size."""
    most = max(1, min(BATCH, BATCH_FLOATS // max(1, num_rows * floats_per_row)))
    return -(-number // -(-number // most))


def batches(number: int, size: int) -> list[np.ndarray]:
    """The numbers 0, ..., number - 1, `size` at a time; the last batch repeats its last number."""
    return [np.minimum(np.arange(size) + i, number - 1) for i in range(0, number, size)]


def run(
    way: Way,
    begin: MixtureParameters,
    rows_of: Callable[[np.ndarray], tuple[Any, Any]],
    size: int,
    controls: Controls,
    max_steps: int,
) -> Refits:
    """EM from `begin` [n, ...] until every fit has ended, in batches of `size` fits.

    rows_of(numbers [b]) are the rows and the weights of these fits. Fits that have not ended after
    ROUND steps go on in later rounds, each twice as long, so that few fits wait for the slowest.
    """
    begin = jax.tree.map(lambda leaf: np.array(leaf, np.float64), begin)
    number, done, length = len(begin.log_weights), 0, ROUND
    found = Refits(begin, np.full(number, np.nan), np.full(number, 2), np.zeros(number, int))
    pending = np.arange(number)
    while len(pending) and done < max_steps:
        steps = np.int32(min(length, max_steps - done))
        for places in batches(len(pending), size):
            group = pending[places]
            start = jax.tree.map(lambda leaf: leaf[group], found.parameters)  # noqa: B023
            part = refit(way, start, *rows_of(group), controls, steps)
            part = part._replace(num_steps=found.num_steps[group] + np.asarray(part.num_steps))
            for whole, new in zip(jax.tree.leaves(found), jax.tree.leaves(part), strict=True):
                whole[group] = new
        done, length = done + length, 2 * length
        pending = pending[found.outcome[pending] == Outcome.MAX_STEPS]
    return found


def one_pass(way: Way, parameters: MixtureParameters, x: Array, weight: Array) -> tuple[Any, Array]:
    """The summary of one mixture on one data set, and the log-likelihood."""
    lifted = jax.tree.map(lambda leaf: leaf[None], parameters)
    data = Data(x, weight, jnp.zeros(x.shape[1], x.dtype))
    if not way.family.has_fast_path:
        shape = (1, way.rows, len(parameters.log_weights))
        given = (jnp.array(False), lambda rows, begin: (jnp.zeros(shape), jnp.zeros(shape[:2])))
        found = grouped.expected_pass(way.family, lifted, data, way.rows, given)
    else:
        found = (exact_pass if way.exact else fast_pass)(way.family, lifted, data, way.rows)
    return jax.tree.map(lambda leaf: leaf[0], found)


def over_sets(function: Any, parameters: Any, x: Array, weight: Array) -> Any:
    """function(parameters, x, weight) of B data sets; x [N, D] and weight [N] may be shared."""
    axes = (0, 0 if x.ndim == 3 else None, 0 if weight.ndim == 2 else None)
    return jax.vmap(function, axes)(parameters, x, weight)


@over_data(0)
def refit(
    way: Way,
    begin: MixtureParameters,
    x: Float[Array, "... N D"],
    weight: Float[Array, "... N"],
    controls: Controls,
    max_steps: Int[Array, ""],
) -> Refits:
    """EM with SQUAREM from `begin` [B, ...] until every fit has ended."""
    begin = jax.tree.map(jnp.asarray, begin)
    number = len(begin.log_weights)

    def sums(parameters: MixtureParameters) -> tuple[Any, Array]:
        return over_sets(partial(one_pass, way), parameters, x, weight)

    def unfinished(state: State) -> Array:
        return (state.outcome == Outcome.RUNNING).any() & (state.step < max_steps)

    def advance(state: State) -> State:
        summary, log_likelihood = sums(state.parameters)
        new = jax.vmap(lambda s, p: starts.maximize(way.family, s, p, controls.settings))(
            summary, state.parameters.components
        )
        value = jax.vmap(lambda p, v: loop.objective(way.family, p, v, controls))(
            state.parameters, log_likelihood
        )
        return loop.accept(way.family, controls, state, new, value, jnp.array(way.exact))[0]

    none = jnp.zeros(number, jnp.int32)
    state = State(
        begin, jnp.full(number, -jnp.inf), none, none, jnp.int32(0), jnp.int32(0),
        jax.tree.map(jnp.asarray, squarem.start(begin)),
    )  # fmt: skip
    state = loop.measured(jax.lax.while_loop(unfinished, advance, state))
    left = state.outcome == Outcome.RUNNING
    outcome = jnp.where(left, Outcome.MAX_STEPS, state.outcome).astype(jnp.int32)
    return Refits(state.parameters, sums(state.parameters)[1], outcome, state.num_steps)


def assigned(
    way: Way,
    controls: Controls,
    components: Any,
    x: Float[Array, "N D"],
    resp: Float[Array, "N K"],
) -> MixtureParameters:
    """The M-step from given responsibilities; `components` give the missing entries of x."""
    family = way.family
    if family.has_fast_path:
        summary = family.summarize_assigned(x, resp)
    else:
        complete: Any = family
        summary = complete.summarize_expected(components, complete.expectation(components, x), resp)
    return starts.maximize(family, summary, components, controls.settings)


@over_data(3)
def simulate(
    keys: Array, parameters: MixtureParameters, missing: Array, family: ExponentialFamily
) -> Float[Array, "B N D"]:
    """Rows of a mixture about its origin for each key, with the missing entries given, [N, D]."""
    log_weights, components = jax.tree.map(jnp.asarray, parameters)

    def row(key: Array, missing: Array) -> Array:
        key_z, key_x = jax.random.split(key)
        component = family.select(components, jax.random.categorical(key_z, log_weights))
        return jnp.where(missing, jnp.nan, family.sample_one(key_x, component))

    return jax.vmap(lambda key: jax.vmap(row)(jax.random.split(key, len(missing)), missing))(keys)


@over_data(0)
def posterior(
    family: ExponentialFamily, parameters: MixtureParameters, x: Float[Array, "N D"]
) -> Float[Array, "B N K"]:
    """Responsibilities of B mixtures for the same rows."""

    def one(each: MixtureParameters) -> Array:
        joint = family.exact_log_prob(each.components, x) + each.log_weights[None]
        return jax.nn.softmax(joint, axis=1)

    return jax.vmap(one)(jax.tree.map(jnp.asarray, parameters))


def is_proper(
    family: ExponentialFamily, reference: MixtureParameters, found: Refits, controls: Controls
) -> np.ndarray:
    """Whether fits have finite likelihoods, no empty component and no spurious one, [n].

    A Gaussian is spurious if half of its variance in a direction is the regularization, or if it
    has fewer than 2 (D + 1) points and less than FLAT of the reference's variance in a direction.
    """
    weights = np.exp(found.parameters.log_weights)
    good = (found.outcome < Outcome.DEGENERATE) & (weights > 0).all(1)
    good &= np.isfinite(found.log_likelihood)
    if not isinstance(family, Gaussian):
        return good
    covariances = np.array(matrices(family, found.parameters.components))
    dim = covariances.shape[-1]
    covariances[~good] = np.eye(dim)
    components = jax.tree.map(lambda leaf: leaf[None], reference.components)
    means, share = family.means(reference.components), np.exp(reference.log_weights)
    centred = means - (share @ means)[None]
    whole = np.tensordot(share, matrices(family, components)[0], 1) + (centred.T * share) @ centred
    factor = np.linalg.inv(np.linalg.cholesky(whole))
    least = np.linalg.eigvalsh(factor @ covariances @ factor.T)[..., 0]
    few = weights * float(controls.total_weight) < 2 * (dim + 1)
    bound = 2 * float(controls.settings.regularization)
    held = np.linalg.eigvalsh(covariances)[..., 0] <= bound
    return good & ~(held | (few & (least < FLAT))).any(1)


@over_data(0)
def matrices(family: Gaussian, components: Any) -> Float[Array, "n K D D"]:
    """The covariances of n mixtures."""
    return jax.vmap(family.covariances)(jax.tree.map(jnp.asarray, components))
