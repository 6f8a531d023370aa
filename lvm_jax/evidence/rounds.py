"""The rounds of `certify` on the host: every method on a subset of the points."""

from functools import reduce
from typing import Any

import jax
import numpy as np

from lvm_jax import annealing, compiling
from lvm_jax._core import checks
from lvm_jax._core.batching import batch_size, num_rows, rows_for_device, rows_of
from lvm_jax._core.inputs import check_problem
from lvm_jax.annealing.tuning import MOST
from lvm_jax.evidence import pareto, programs
from lvm_jax.evidence.importance import CHUNK_SIZE
from lvm_jax.evidence.modes import Modes
from lvm_jax.evidence.programs import CHAINS, PILOT, Capacity, Chains, Sizes
from lvm_jax.evidence.result import Evidence
from lvm_jax.guides.defensive import defensive
from lvm_jax.typing import Array, ConditionalDensity, Generative, Key

START, GROWTH = CHUNK_SIZE, 4  # draws of the first round, and the growth of rounds
TEMPERATURES = 16  # of the first annealed round
SCOUT_TEMPERATURES = 1
FEW, TOGETHER = 3, 8  # with more than 3 points, chains and searches of 8 points run together
SHORT = 16 * CHUNK_SIZE  # the most draws for which the short tail is used


class Runner:
    """The methods of `certify` on a subset of the points, each round with its own key."""

    def __init__(
        self,
        key: Key[Array, ""],
        p: Generative,
        q: ConditionalDensity,
        x: Any,
        prior_share: float,
        transition: annealing.Transition | None,
        budget: float,
        num_scouts: int,
    ) -> None:
        x = jax.tree.map(np.asarray, check_problem(p, q, x))
        if checks.number(prior_share, "prior_share") != 0:
            q = defensive(p, q, prior_share)
        self.key, self.p, self.q = key, p, q
        self.x, self.num_scouts = x, num_scouts
        self.transition = annealing.hmc() if transition is None else transition
        self.per_move = 1.0 + self.transition.cost
        self.modes: Modes | None = None
        self.num_points = num_rows(x)
        self.size = compiling.bucket(self.num_points)
        self.capacity = _capacity(budget, self.per_move, num_scouts)
        rows = rows_for_device(TOGETHER * CHAINS)
        self.together = 1 if self.num_points <= FEW else batch_size(rows, CHAINS, self.size)

    def importance(self, points: np.ndarray, num_samples: int, stage: int) -> Evidence:
        """Importance sampling from q and the modes, if any; num_samples in multiples of 1,000."""
        rows = compiling.pad_rows(points, self.size)
        modes = rows_of(self.modes, rows)
        longest = SHORT if num_samples <= SHORT else self.capacity.samples
        found = programs.importance(
            self._key(stage, num_samples), self.p, self.q, (rows, rows_of(self.x, rows), modes),
            *_traced(len(points), num_samples // CHUNK_SIZE, pareto.tail_size(num_samples)),
            pareto.tail_size(longest),
            batch_size(rows_for_device(CHUNK_SIZE), CHUNK_SIZE, self.size),
        )  # fmt: skip
        return compiling.first_rows(found, len(points))

    def scout(self) -> tuple[np.ndarray, np.ndarray]:
        """Run the scouts and find the modes; return the largest log-weight and the cost, [N]."""
        every = np.arange(self.num_points)
        setting = self.num_scouts, SCOUT_TEMPERATURES
        ends = self._chains(every, *setting, from_prior=True, answers=False).z
        found = programs.find_modes(
            self.p, self.q, (compiling.pad_rows(self.x, self.size), ends),
            *_traced(len(every)), self.transition.continuous, self.together,
        )  # fmt: skip
        self.modes, reach = compiling.first_rows(found, len(every))
        cost = self.scouting(self.num_scouts) + np.zeros(len(every))
        return reach, cost if self.modes is None else cost + self.modes.num_evaluations

    def chains(
        self, points: np.ndarray, chains: int, temperatures: int, from_prior: bool, answers: bool
    ) -> Chains:
        """Annealed chains from the prior or from q; pilots and final rounds use different keys."""
        found = self._chains(points, chains, temperatures, from_prior, answers)
        return compiling.first_rows(found, len(points))

    def _chains(
        self, points: np.ndarray, chains: int, temperatures: int, from_prior: bool, answers: bool
    ) -> Chains:
        """`chains` with its leaves on the device, padded."""
        rows = compiling.pad_rows(points, self.size)
        return programs.chains(
            self._key(int(from_prior), int(answers), chains, temperatures),
            self.p, self.q, (rows, rows_of(self.x, rows)),
            *_traced(len(points)),
            Sizes._make(_traced(chains, pareto.tail_size(chains), temperatures, from_prior)),
            self.transition, self.capacity, self.together,
        )  # fmt: skip

    def cost(self, chains: int, temperatures: int) -> float:
        """Evaluations of the joint density per point in an annealed round."""
        moves = chains * temperatures + PILOT * min(temperatures, MOST)
        return moves * self.per_move

    def scouting(self, num_scouts: int) -> float:
        """Evaluations of the joint density per point by scouts, without the search for modes."""
        return self.cost(num_scouts, SCOUT_TEMPERATURES) + 2 * num_scouts if num_scouts else 0.0

    def _key(self, *round_of: int) -> Key[Array, ""]:
        """The key of a round; it does not depend on the rounds of other points."""
        return reduce(jax.random.fold_in, round_of, self.key)


def _capacity(budget: float, per_move: float, num_scouts: int) -> Capacity:
    """The largest sizes within `budget`, rounded down to sizes of rounds."""

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
    """Numbers as arrays, so that another value does not compile."""
    return [np.asarray(n, bool if isinstance(n, bool) else np.int32) for n in numbers]
