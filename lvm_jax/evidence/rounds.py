"""What `certify` runs on the device: draws, scouts and chains of some of the points."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import annealing, checks
from lvm_jax.annealing.tuning import MOST
from lvm_jax.batching import batch_size, for_each, plenty
from lvm_jax.evidence.annealed import Annealed, evaluate_annealed
from lvm_jax.evidence.dataset import check_data, check_guide
from lvm_jax.evidence.importance import CHUNK_SIZE, importance
from lvm_jax.evidence.result import Evidence
from lvm_jax.guides.base import Guide
from lvm_jax.guides.defensive import Mixed, defensive
from lvm_jax.guides.laplace import Laplace, laplace
from lvm_jax.models.base import Model, log_joint
from lvm_jax.typing import Array, Distribution, Float, Key, Latent, Params, Scalar

PILOT = 8  # chains that set the step sizes
SCOUT_TEMPERATURES = 1
SHARE, WIDEN = 0.3, 1.2  # of the draws at the place that a scout found, and their width


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
        check_data(model, theta, x)
        check_guide(model, guide, theta, phi, x)
        if checks.number(prior_share, "prior_share") != 0:
            guide, phi = defensive(model, guide, prior_share), (phi, theta)
        self.key, self.model, self.guide, self.theta, self.phi = key, model, guide, theta, phi
        self.x, self.transition, self.per_move = x, transition, gradients_per_move
        self.continuous = transition is None or transition.continuous
        self.places: Laplace | None = None

    def importance(self, points: np.ndarray, num_samples: int, stage: int) -> Evidence:
        """Fresh draws of q, and of the scouts' places where there are some."""
        rows = _padded(points)
        key = self._key(stage, num_samples)
        places = jax.tree.map(lambda leaf: leaf[rows], self.places)
        return _importance(
            key, self.theta, self.phi, (rows, self.x[rows], places), self.model, self.guide,
            num_samples,
            batch_size(plenty(CHUNK_SIZE), min(num_samples, CHUNK_SIZE), len(rows)),
        )  # fmt: skip

    def scout(self, num_scouts: int) -> tuple[np.ndarray, np.ndarray]:
        """Chains from the prior for every point: their largest log-weight, and what they cost."""
        every = np.arange(len(self.x))
        found = self.chains(every, num_scouts, SCOUT_TEMPERATURES, from_prior=True, answers=False)
        rows = _padded(every)
        together = tuple(
            batch_size(CHUNK_SIZE, size, len(rows)) for size in (num_scouts, self._dim(found.z))
        )
        reach, places = _look(
            self.theta, self.phi, self.x[rows], found.z, self.model, self.guide,
            self.continuous, together,
        )  # fmt: skip
        cost = self.scouting(num_scouts) + np.zeros(len(self.x))
        self.places = places
        if places is not None:
            cost += np.asarray(places.num_evaluations)[: len(every)]
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

    @staticmethod
    def _dim(z: Latent) -> int:
        return sum(leaf[0, 0].size for leaf in jax.tree.leaves(z))


def _padded(points: np.ndarray) -> np.ndarray:
    """The points, the last repeated up to a power of two."""
    size = 1 << (len(points) - 1).bit_length()
    return np.concatenate([points, np.repeat(points[-1:], size - len(points))])


def _widened(q: Distribution, place: Laplace | None) -> Distribution:
    """q with a share of its draws at a place, where that is a maximum."""
    if place is None:
        return q
    found = place.found
    identity = jnp.eye(place.factor.shape[0], dtype=place.factor.dtype)
    factor = jnp.where(found, place.factor, identity)
    mode = jax.tree.map(lambda leaf: jnp.where(found, leaf, 0.0), place.mode)
    return Mixed(q, place._replace(mode=mode, factor=factor), jnp.where(found, SHARE, 0.0))


@partial(jax.jit, static_argnums=(4, 5, 6, 7))
def _importance(
    key: Key[Array, ""],
    theta: Params,
    phi: Params,
    points: tuple[Array, Array, Laplace | None],
    model: Model,
    guide: Guide,
    num_samples: int,
    together: int,
) -> Evidence:
    def one(point: tuple[Array, Array, Laplace | None]) -> Evidence:
        index, x, place = point
        q = _widened(guide.posterior(phi, x), place)
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
    together: tuple[int, int],
) -> tuple[Float[Array, " N"], Laplace | None]:
    """The places [N, C, ...] of scouts: where q has the least of the mass, and what remains."""

    def ratios(x: Array, z: Latent, place: Laplace | None) -> Float[Array, " C"]:
        joint, q = log_joint(model, theta, x), _widened(guide.posterior(phi, x), place)
        log_w: Array = jax.vmap(lambda z: joint(z) - q.log_prob(z))(z)
        return log_w

    def best(point: tuple[Array, Latent]) -> Latent:
        most = ratios(*point, None).argmax()
        return jax.tree.map(lambda leaf: leaf[most], point[1])

    def climb(point: tuple[Array, Latent]) -> Laplace:
        return laplace(log_joint(model, theta, point[0]), point[1], widen=WIDEN)

    def most(point: tuple[Array, Latent, Laplace | None]) -> Scalar:
        return ratios(*point).max()

    places = None
    if continuous:
        places = for_each(climb, (x, for_each(best, (x, z), together[0])), together[1])
    return for_each(most, (x, z, places), together[0]), places
