"""What `certify` runs on the device: draws, scouts and chains of some of the points."""

from functools import partial

import jax
import numpy as np

from lvm_jax import annealing, checks
from lvm_jax.annealing.tuning import MOST
from lvm_jax.batching import batch_size, for_each, plenty
from lvm_jax.evidence.annealed import Annealed, evaluate_annealed
from lvm_jax.evidence.importance import CHUNK_SIZE, importance
from lvm_jax.evidence.modes import Modes, cover, search
from lvm_jax.evidence.result import Evidence
from lvm_jax.guides.base import Guide
from lvm_jax.guides.defensive import defensive
from lvm_jax.inputs import check_problem
from lvm_jax.models.base import Model, log_joint
from lvm_jax.typing import Array, Float, Key, Latent, Params, Scalar

PILOT = 8  # chains that set the step sizes
SCOUT_TEMPERATURES = 1


class Runner:
    """Every method on a subset of the points, with a fresh key for every kind of round."""

    def __init__(
        self,
        key: Key[Array, ""],
        model: Model,
        guide: Guide,
        theta: Params,
        phi: Params,
        x: np.ndarray,
        prior_share: float,
        transition: annealing.Transition | None,
        gradients_per_move: int,
    ) -> None:
        x = np.asarray(check_problem(model, guide, theta, phi, x))
        if checks.number(prior_share, "prior_share") != 0:
            guide, phi = defensive(model, guide, prior_share), (phi, theta)
        self.key, self.model, self.guide, self.theta, self.phi = key, model, guide, theta, phi
        self.x, self.transition, self.per_move = x, transition, gradients_per_move
        self.continuous = transition is None or transition.continuous
        self.modes: Modes | None = None

    def importance(self, points: np.ndarray, num_samples: int, stage: int) -> Evidence:
        """Fresh draws of q, and of the scouts' places where there are some."""
        rows = _padded(points)
        key = self._key(stage, num_samples)
        modes = jax.tree.map(lambda leaf: leaf[rows], self.modes)
        return _importance(
            key, self.theta, self.phi, (rows, self.x[rows], modes), self.model, self.guide,
            num_samples,
            batch_size(plenty(CHUNK_SIZE), min(num_samples, CHUNK_SIZE), len(rows)),
        )  # fmt: skip

    def scout(self, num_scouts: int) -> tuple[np.ndarray, np.ndarray]:
        """Chains from the prior for every point: their largest log-weight, and what they cost."""
        every = np.arange(len(self.x))
        found = self.chains(every, num_scouts, SCOUT_TEMPERATURES, from_prior=True, answers=False)
        rows = _padded(every)
        modes, reach = _look(
            self.theta, self.phi, self.x[rows], found.z, self.model, self.guide,
            self.continuous, batch_size(CHUNK_SIZE, num_scouts, len(rows)),
        )  # fmt: skip
        cost = self.scouting(num_scouts) + np.zeros(len(self.x))
        self.modes = modes
        if modes is not None:
            cost += np.asarray(modes.num_evaluations)[: len(every)]
        return np.asarray(reach)[: len(every)], cost

    def chains(
        self,
        points: np.ndarray,
        chains: int,
        temperatures: int,
        from_prior: bool,
        answers: bool,
    ) -> Annealed:
        """Annealed chains, from the prior or from q; those that answer have keys of their own."""
        guide, phi = (None, None) if from_prior else (self.guide, self.phi)
        plan = annealing.plan(
            annealing.sigmoid(temperatures), self.transition, num_pilot=PILOT, adaptive=True
        )
        rows = _padded(points)
        key = self._key(int(from_prior), int(answers), chains, temperatures)
        return evaluate_annealed(
            key, self.model, guide, self.theta, phi, self.x[rows], chains, plan, index=rows
        )

    def cost(self, chains: int, temperatures: int) -> float:
        """Evaluations that chains take for each point."""
        moves = chains * temperatures + PILOT * min(temperatures, MOST)
        return moves * (1.0 + self.per_move)

    def scouting(self, num_scouts: int) -> float:
        """Evaluations that scouts take for each point, without the search for a mode."""
        return self.cost(num_scouts, SCOUT_TEMPERATURES) + 2 * num_scouts if num_scouts else 0.0

    def _key(self, *round_of: int) -> Key[Array, ""]:
        """One key for each kind of round, whichever rounds the other points have had before."""
        key = self.key
        for number in round_of:
            key = jax.random.fold_in(key, number)
        return key


def _padded(points: np.ndarray) -> np.ndarray:
    """The points, the last repeated up to a power of two."""
    size = 1 << (len(points) - 1).bit_length()
    return np.concatenate([points, np.repeat(points[-1:], size - len(points))])


@partial(jax.jit, static_argnums=(4, 5, 6, 7))
def _importance(
    key: Key[Array, ""],
    theta: Params,
    phi: Params,
    points: tuple[Array, Array, Modes | None],
    model: Model,
    guide: Guide,
    num_samples: int,
    together: int,
) -> Evidence:
    def one(point: tuple[Array, Array, Modes | None]) -> Evidence:
        index, x, modes = point
        q = cover(guide.posterior(phi, x), modes)
        joint = log_joint(model, theta, x)
        return importance(jax.random.fold_in(key, index), joint, q, num_samples)

    return for_each(one, points, together)


@partial(jax.jit, static_argnums=(4, 5, 6, 7))
def _look(
    theta: Params,
    phi: Params,
    x: Array,
    z: Latent,
    model: Model,
    guide: Guide,
    continuous: bool,
    together: int,
) -> tuple[Modes | None, Float[Array, " N"]]:
    """The modes uphill of scouts' places [N, C, ...], and the largest weight that they leave."""

    def one(point: tuple[Array, Latent]) -> tuple[Modes | None, Scalar]:
        x, z = point
        joint, q = log_joint(model, theta, x), guide.posterior(phi, x)
        if continuous:
            return search(joint, q, z)
        return None, jax.vmap(lambda z: joint(z) - q.log_prob(z))(z).max()

    return for_each(one, (x, z), together)
