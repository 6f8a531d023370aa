"""Modes of near data points as starts: which points are near, and what the search gains."""

import jax
import jax.numpy as jnp
import numpy as np
from model_cases import quick_jit

from lvm_jax import distributions, evidence, problems
from lvm_jax.evidence import neighbours, scouting
from lvm_jax.evidence.modes import Modes
from lvm_jax.evidence.scouting import FOLLOWED, follow_point
from lvm_jax.models import Model


def test_the_nearest_points_are_those_in_standard_deviations():
    rng = np.random.default_rng(0)
    x = {
        "a": rng.normal(size=(300, 2)),
        "b": 1_000 * rng.normal(size=(300, 3, 1)),
        "c": np.ones(300),
    }
    found = neighbours.nearest(x)
    rows = np.concatenate([x["a"] / x["a"].std(0), x["b"][..., 0] / x["b"].std(0)[:, 0]], 1)
    away = np.linalg.norm(rows[:, None] - rows, axis=2)
    np.fill_diagonal(away, np.inf)
    want = np.sort(away, axis=1)[:, : neighbours.NEAREST]
    np.testing.assert_allclose(np.take_along_axis(away, found, 1), want, rtol=1e-4)
    assert neighbours.nearest(np.zeros((3, 1))).shape == (3, 2)


def test_modes_are_followed_from_simulated_data_and_from_other_points(monkeypatch, without_tails):
    """A narrow mode in 12 dimensions, whose basin has 0.2% of the prior: 512 draws often miss it."""
    problem = problems.two_modes(12)
    data = problems.simulate(jax.random.key(0), problem, 16)

    def run():
        return evidence.certify(
            jax.random.key(1), problem.p, problem.q, data.x, tolerance=0.1, budget=2e4
        )

    followed = run()
    assert (followed.search.num_modes == 2).all()
    assert followed.within.mean() > 0.8
    assert np.abs(followed.log_evidence - data.log_evidence)[followed.within].max() < 0.1
    monkeypatch.setattr(scouting, "simulates", lambda p, x: False)
    found = run()
    monkeypatch.setattr(neighbours, "TURNS", 0)
    alone = run()
    missed = alone.search.num_modes == 1
    assert 3 < missed.sum() < 16
    assert (found.search.num_modes == 2).all()
    errors, before = (np.abs(one.log_evidence - data.log_evidence) for one in (found, alone))
    assert errors[missed].max() < 0.1 < np.median(before[missed])
    # They are no independent starts, which Good and Turing's estimate counts; but they cost.
    np.testing.assert_array_equal(found.search.starts, alone.search.starts)
    np.testing.assert_array_equal(found.search.reached[missed, 1], 0)
    assert (found.cost > alone.cost)[missed].all()


class Poisson:
    """Independent counts."""

    def __init__(self, rate):
        self.rate = rate

    def sample(self, *, seed, sample_shape=()):
        return jax.random.poisson(seed, self.rate, (*sample_shape, *self.rate.shape))

    def log_prob(self, x):
        return jax.scipy.stats.poisson.logpmf(x, self.rate).sum()


def test_modes_of_discrete_data_climb_from_where_they_are():
    """z ~ N(0, 9), x | z ~ Poisson(z^2 + 0.1): modes at +-2 for x = 4; the start is at x = 5."""
    model = Model(
        lambda key: (),
        lambda theta: distributions.normal(jnp.zeros(1), jnp.full(1, 3.0)),
        lambda theta, z: Poisson(z**2 + 0.1),
    )
    x, z = np.array([4], np.int32), np.full((FOLLOWED, 1), 5**0.5, np.float32)
    known = Modes(*(leaf.at[0].set(one) for leaf, one in zip(
        Modes.none(jnp.zeros(1)), (-1.96, 2.0, -2.0), strict=True)))  # fmt: skip
    run = quick_jit(lambda x, known, z: follow_point(model(()), x, known, z, None, jnp.int32(999)))
    modes, cost = run(x, known, z)
    assert modes.number == 2
    np.testing.assert_allclose(modes.means[:2, 0], [-1.96, 1.92], atol=0.05)
    assert cost < 400
