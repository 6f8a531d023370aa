"""What `certify` runs on the device: three programs for any number of points, draws, chains."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import annealing, compiling, distributions, weights
from lvm_jax._core import checks
from lvm_jax._core.batching import batch_size, for_first, num_rows, plenty
from lvm_jax._core.inputs import check_problem
from lvm_jax._core.moments import moments
from lvm_jax.annealing import elastic
from lvm_jax.annealing.path import make_path
from lvm_jax.annealing.tuning import MOST
from lvm_jax.compiling import bounded_jit
from lvm_jax.evidence import pareto
from lvm_jax.evidence.importance import CHUNK_SIZE, from_first, streamed
from lvm_jax.evidence.modes import Modes, cover, search
from lvm_jax.evidence.result import Evidence, check_chains
from lvm_jax.guides.defensive import defensive
from lvm_jax.typing import (
    Array,
    Bool,
    ConditionalDensity,
    Distribution,
    Float,
    Generative,
    Int,
    Key,
    Latent,
    Scalar,
)

START, GROWTH = CHUNK_SIZE, 4  # draws of the first round, and the growth of rounds
CHAINS, TEMPERATURES = 64, 16  # of the first annealed round; chains run 64 at a time
PILOT = 8  # chains that set the step sizes
SCOUT_TEMPERATURES = 1
FEW, TOGETHER = 3, 8  # above 3 points, chains and searches of 8 run together
SHORT = 16 * CHUNK_SIZE  # draws up to which a short tail is kept


class Capacity(NamedTuple):
    """The sizes of a program's arrays: the most that the budget pays for."""

    samples: int
    chains: int
    temperatures: int
    scouts: int  # chains whose ends are kept


class Chains(NamedTuple):
    """Annealed chains of N points."""

    evidence: Evidence  # leaves [N]
    spread: Float[Array, " N"]  # standard deviation of the finite log-weights; inf of fewer than 2
    z: Latent  # the ends of scouts, leaves [N, num_scouts, ...]


class Sizes(NamedTuple):
    """What may change from round to round without another program."""

    chains: Int[Array, ""]
    tail: Int[Array, ""]  # `pareto.tail_size` of them
    temperatures: Int[Array, ""]
    from_prior: Bool[Array, ""]


class Runner:
    """Every method on a subset of the points, with a fresh key for every kind of round."""

    def __init__(
        self,
        key: Key[Array, ""],
        p: Generative,
        q: ConditionalDensity,
        x: Any,
        prior_share: float,
        transition: annealing.Transition | None,
        gradients_per_move: int,
        budget: float,
        num_scouts: int,
    ) -> None:
        x = jax.tree.map(np.asarray, check_problem(p, q, x))
        if checks.number(prior_share, "prior_share") != 0:
            q = defensive(p, q, prior_share)
        self.key, self.p, self.q = key, p, q
        self.x, self.per_move, self.num_scouts = x, gradients_per_move, num_scouts
        self.transition = annealing.hmc() if transition is None else transition
        self.modes: Modes | None = None
        self.num_points = num_rows(x)
        self.size = compiling.bucket(self.num_points)
        self.capacity = _capacity(budget, 1.0 + gradients_per_move, num_scouts)
        rows = plenty(TOGETHER * CHAINS)
        self.together = 1 if self.num_points <= FEW else batch_size(rows, CHAINS, self.size)

    def importance(self, points: np.ndarray, num_samples: int, stage: int) -> Evidence:
        """Fresh draws of q, and of the modes where there are some; for multiples of CHUNK_SIZE."""
        rows = compiling.pad_rows(points, self.size)
        modes = jax.tree.map(lambda leaf: leaf[rows], self.modes)
        longest = SHORT if num_samples <= SHORT else self.capacity.samples
        found = _importance(
            self._key(stage, num_samples), self.p, self.q, (rows, self._of(rows), modes),
            *_traced(len(points), num_samples // CHUNK_SIZE, pareto.tail_size(num_samples)),
            pareto.tail_size(longest),
            batch_size(plenty(CHUNK_SIZE), CHUNK_SIZE, self.size),
        )  # fmt: skip
        return compiling.first_rows(found, len(points))

    def scout(self) -> tuple[np.ndarray, np.ndarray]:
        """Chains from the prior for every point: the largest log-weight left, and their cost."""
        every = np.arange(self.num_points)
        setting = self.num_scouts, SCOUT_TEMPERATURES
        ends = self._chains(every, *setting, from_prior=True, answers=False).z
        found = _look(
            self.p, self.q, (compiling.pad_rows(self.x, self.size), ends),
            *_traced(len(every)), self.transition.continuous, self.together,
        )  # fmt: skip
        self.modes, reach = compiling.first_rows(found, len(every))
        cost = self.scouting(self.num_scouts) + np.zeros(len(every))
        return reach, cost if self.modes is None else cost + self.modes.num_evaluations

    def chains(
        self, points: np.ndarray, chains: int, temperatures: int, from_prior: bool, answers: bool
    ) -> Chains:
        """Annealed chains, from the prior or from q; those that answer have keys of their own."""
        found = self._chains(points, chains, temperatures, from_prior, answers)
        return compiling.first_rows(found, len(points))

    def _chains(
        self, points: np.ndarray, chains: int, temperatures: int, from_prior: bool, answers: bool
    ) -> Chains:
        """`chains` with its leaves on the device, padded."""
        rows = compiling.pad_rows(points, self.size)
        return _chains(
            self._key(int(from_prior), int(answers), chains, temperatures),
            self.p, self.q, (rows, self._of(rows)),
            *_traced(len(points)),
            Sizes._make(_traced(chains, pareto.tail_size(chains), temperatures, from_prior)),
            self.transition, self.capacity, self.together,
        )  # fmt: skip

    def cost(self, chains: int, temperatures: int) -> float:
        """Evaluations that chains take for each point."""
        moves = chains * temperatures + PILOT * min(temperatures, MOST)
        return moves * (1.0 + self.per_move)

    def scouting(self, num_scouts: int) -> float:
        """Evaluations that scouts take for each point, without the search for modes."""
        return self.cost(num_scouts, SCOUT_TEMPERATURES) + 2 * num_scouts if num_scouts else 0.0

    def _of(self, rows: np.ndarray) -> Any:
        """Rows of the data."""
        return jax.tree.map(lambda leaf: leaf[rows], self.x)

    def _key(self, *round_of: int) -> Key[Array, ""]:
        """One key for each kind of round, whichever rounds the other points have had before."""
        key = self.key
        for number in round_of:
            key = jax.random.fold_in(key, number)
        return key


def _capacity(budget: float, per_move: float, num_scouts: int) -> Capacity:
    """What `budget` pays for, rounded down to sizes of rounds, so that few budgets differ."""

    def most(least: int, factor: int, cost: float) -> int:
        size = least
        while factor * size * cost <= budget:
            size *= factor
        return size

    scouts = -(-num_scouts // CHAINS) * CHAINS
    return Capacity(
        most(START, GROWTH, 1.0),
        max(most(CHAINS, 2, TEMPERATURES * per_move), scouts),
        most(TEMPERATURES, GROWTH, CHAINS * per_move),
        num_scouts,
    )


def _traced(*numbers: int) -> list[np.ndarray]:
    """Numbers whose values compile nothing."""
    return [
        np.asarray(number, bool if isinstance(number, bool) else np.int32) for number in numbers
    ]


class _Start(NamedTuple):
    """q, or the prior where `from_prior`, which is traced."""

    q: Distribution
    prior: Distribution
    from_prior: Bool[Array, ""]

    @property
    def discrete(self) -> bool:
        return distributions.is_discrete(self.prior)

    def log_prob(self, value: Latent) -> Scalar:
        found: Scalar = jax.lax.cond(self.from_prior, self.prior.log_prob, self.q.log_prob, value)
        return found

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Latent:
        either = (d.sample(seed=seed, sample_shape=sample_shape) for d in (self.prior, self.q))
        return jax.tree.map(lambda p, q: jnp.where(self.from_prior, p, q), *either)


@bounded_jit(7, 8, lean=True, level=2)
def _importance(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    points: tuple[Array, Any, Modes | None],
    number: Int[Array, ""],
    num_chunks: Int[Array, ""],
    tail: Int[Array, ""],
    longest: int,
    together: int,
) -> Evidence:
    def one(point: tuple[Array, Any, Modes | None]) -> Evidence:
        index, x, modes = point
        own = jax.random.fold_in(key, index)
        return streamed(own, p.log_joint(x), cover(q(x), modes), num_chunks, tail, longest)

    return for_first(one, points, together, number)


@bounded_jit(6, 7, 8, lean=True, level=2)
def _chains(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    points: tuple[Array, Any],
    number: Int[Array, ""],
    sizes: Sizes,
    transition: annealing.Transition,
    capacity: Capacity,
    together: int,
) -> Chains:
    chains, tail, temperatures, from_prior = sizes

    def one(point: tuple[Array, Any]) -> Chains:
        index, x = point
        own, joint = jax.random.fold_in(key, index), p.log_joint(x)
        start = _Start(q(x), p.prior(x), from_prior)
        z, log_w, accepted = _anneal(own, joint, start, chains, temperatures, transition, capacity)
        used = jnp.arange(log_w.size) < chains
        found = from_first(log_w, used, chains, tail)
        found = check_chains(found, log_w, accepted, transition.target is not None, chains)
        variance = moments(log_w, jnp.isfinite(log_w)).variance
        spread = jnp.where(jnp.isnan(variance), jnp.inf, jnp.sqrt(variance))
        return Chains(found, spread, z)

    return for_first(one, points, together, number)


def _anneal(
    key: Key[Array, ""],
    joint: weights.LogJoint,
    q: Distribution,
    chains: Int[Array, ""],
    temperatures: Int[Array, ""],
    transition: annealing.Transition,
    capacity: Capacity,
) -> tuple[Latent, Float[Array, " C"], Float[Array, " T"]]:
    """Ends, log-weights (-inf beyond the chains) and acceptance (1 beyond the last temperature).

    Ends are those of scouts: of more chains than capacity.scouts they are not to be used.
    """
    key_pilot, key_start, key_chains = jax.random.split(key, 3)

    # Traced once, for the shapes and for the loop.
    draw = jax.jit(lambda key: weights.draw(key, q, CHAINS))
    shapes = jax.eval_shape(draw, key_start)
    path = make_path(joint, q, shapes, transition.continuous)
    schedule = elastic.tuned(
        key_pilot, path, q, temperatures, capacity.temperatures, transition, PILOT
    )

    def step(group: Array, state: tuple) -> tuple:
        ends, log_w, accepted = state
        keys = jax.random.split(jax.random.fold_in(key_chains, group), CHAINS)
        first = draw(jax.random.fold_in(key_start, group))
        z, new, rate = elastic.anneal(keys, path, first, schedule, temperatures, transition)
        put = lambda all_, rows: jax.lax.dynamic_update_slice_in_dim(all_, rows, group * CHAINS, 0)  # noqa: E731
        return jax.tree.map(put, ends, z), put(log_w, new), accepted + rate

    rows = max(-(-capacity.scouts // CHAINS), 1) * CHAINS
    ends = jax.tree.map(lambda leaf: jnp.zeros((rows, *leaf.shape[1:]), leaf.dtype), shapes)
    betas = schedule.temperatures
    groups = (chains + CHAINS - 1) // CHAINS
    start = ends, jnp.full(capacity.chains, -jnp.inf, betas.dtype), jnp.zeros_like(betas[1:])
    ends, log_w, accepted = jax.lax.fori_loop(0, groups, step, start)
    log_w = jnp.where(jnp.arange(log_w.size) < chains, log_w, -jnp.inf)
    accepted = jnp.where(jnp.arange(accepted.size) < temperatures, accepted / groups, 1.0)
    return jax.tree.map(lambda leaf: leaf[: capacity.scouts], ends), log_w, accepted


@bounded_jit(4, 5, lean=True, level=2)
def _look(
    p: Generative,
    q: ConditionalDensity,
    points: tuple[Any, Latent],
    number: Int[Array, ""],
    continuous: bool,
    together: int,
) -> tuple[Modes | None, Float[Array, " N"]]:
    """The modes uphill of scouts' places [N, C, ...], and the largest weight that they leave."""

    def one(point: tuple[Any, Latent]) -> tuple[Modes | None, Scalar]:
        x, z = point
        joint, at_x = p.log_joint(x), q(x)
        if continuous:
            return search(joint, at_x, z)
        return None, jax.vmap(lambda z: joint(z) - at_x.log_prob(z))(z).max()

    return for_first(one, points, together, number)
