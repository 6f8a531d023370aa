"""Chains of `certify` from draws: mass beyond them, its share, and the component that covers it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import annealing, distributions, evidence
from lvm_jax.evidence import Check, beyond, modes
from lvm_jax.evidence.fitting import Edge
from lvm_jax.evidence.modes import Modes
from lvm_jax.evidence.programs import Proposal, importance
from lvm_jax.evidence.state import State
from lvm_jax.evidence.tails import explore
from lvm_jax.guides import Guide
from lvm_jax.models import Model

WIDE, SHARE = 10.0, 0.2  # the second normal of p(x, z)
NUM_STARTS = 512


class Given(NamedTuple):
    """p(x | z) that does not depend on x."""

    z: Any
    log_likelihood: Any

    def sample(self, *, seed, sample_shape=()):
        return jnp.zeros((*sample_shape, 1))

    def log_prob(self, x):
        return self.log_likelihood(self.z)


def pair(target, dim):
    """p(x, z) = target(z) with the prior N(0, I), and the prior as q."""
    prior = distributions.normal(jnp.zeros(dim), jnp.ones(dim))

    def likelihood(z):
        return target(z) - prior.log_prob(z)

    model = Model(lambda key: (), lambda theta: prior, lambda theta, z: Given(z, likelihood))
    return model(()), Guide(lambda key: (), lambda phi, x: prior)(())


def two_scales(z):
    """0.8 N(0, I) + 0.2 N(0, 100 I)."""
    parts = [jax.scipy.stats.norm.logpdf(z, 0, scale).sum() for scale in (1.0, WIDE)]
    return jnp.logaddexp(jnp.log(1 - SHARE) + parts[0], jnp.log(SHARE) + parts[1])


def cauchy(z):
    """Of log Z = 0; under the prior N(0, 1) the weights have no bound."""
    return jax.scipy.stats.cauchy.logpdf(z).sum()


# Made once, so that their programs are compiled once.
TWO_SCALES, CAUCHY = pair(two_scales, 2), pair(cauchy, 1)


def certified(**options):
    """32 points of the Cauchy density; annealed chains are beyond the budget."""
    dear = annealing.hmc()._replace(cost=1_000)
    x = np.zeros((32, 1), np.float32)
    return evidence.certify(jax.random.key(1), *CAUCHY, x, transition=dear, **options)


def explored(starts, moves):
    """Chains from `starts`, where the proposal is the normal of the one slot."""
    slots = Modes(jnp.zeros((1, 1, 2)), jnp.eye(2)[None, None], jnp.zeros((1, 1)))
    proposal = Proposal(slots, jnp.log(jnp.array([[0.0, 0.0, 1.0, 0.0]])))
    edge = Edge(jnp.log(jnp.array([10.0])), jnp.asarray(starts, jnp.float32)[None])
    points = np.arange(1), np.zeros((1, 1), np.float32), proposal, edge
    return explore(jax.random.key(0), *TWO_SCALES, points, (np.int32(1), np.int32(moves)), 1)


def test_the_share_of_states_is_the_mass_that_the_draws_miss():
    """w > 10 where r^2 > 2 log(46 x 100) / 0.99; the exact mass there is that of the wide normal."""
    rng = np.random.default_rng(0)
    scale = np.where(rng.random((NUM_STARTS, 1)) < SHARE, WIDE, 1.0)
    found = explored(scale * rng.normal(size=(NUM_STARTS, 2)), 16)
    square = 2 * np.log(9.2 / SHARE * WIDE**2) / (1 - WIDE**-2)
    mass = SHARE * np.exp(-square / 2 / WIDE**2) + (1 - SHARE) * np.exp(-square / 2)
    error = (mass * (1 - mass) / NUM_STARTS) ** 0.5
    assert abs(float(found.share[0]) - mass) < 4 * error
    # The second moments beyond r of the wide normal: E[r^2 | r^2 > a] = a + 2 x 100, half of each.
    covariance = np.linalg.inv(np.asarray(found.component.factors[0, 0], float))
    covariance = covariance.T @ covariance
    np.testing.assert_allclose(np.diag(covariance), square / 2 + WIDE**2, rtol=0.25)


def test_chains_from_the_narrow_normal_reach_the_wide_one():
    starts = np.random.default_rng(1).normal(size=(NUM_STARTS, 2))
    assert 0.05 < float(explored(starts, 16).share[0]) < 0.3


def test_missed_mass_raises_the_upper_limit():
    """Z / (1 - share) is the evidence with a share of it that the draws miss."""
    own = State(2, 0.1, 0.95)
    own.answer["low"][:], own.answer["high"][:] = -0.09, 0.09
    own.within[:] = True
    own.widen(np.arange(2), np.array([0.01, 0.05]))
    np.testing.assert_allclose(own.answer["high"], 0.09 - np.log([0.99, 0.95]))
    np.testing.assert_array_equal(own.answer["low"], [-0.09, -0.09])
    np.testing.assert_array_equal(own.within, [True, False])  # half-widths 0.095 and 0.116


def test_a_certificate_holds_where_the_prior_does_not_dominate(store, monkeypatch):
    """Where chains leave the draws, a component joins the proposal, and a fresh run answers."""
    ahead, compile_in = [], explore.compile_in
    monkeypatch.setattr(
        explore, "compile_in", lambda *args: (ahead.append(set(store._entries)), compile_in(*args))
    )
    found = certified(tolerance=0.1, budget=3e4)
    assert len(ahead) == 1
    assert not any(key[0] is importance for key in ahead[0])  # which compiles at the same time
    assert sum(key[0] is explore for key in store._entries) == 1  # the program that was used
    kept = found.within
    assert kept.mean() > 0.6
    assert (found.high < 0)[kept].mean() <= 0.15
    methods = [now.method for now in found.rounds]
    assert "importance" in methods[methods.index("chains") :]
    # A budget that does not pay for chains is named.
    short = certified(tolerance=1.0, budget=3_100)
    assert (short.failed & Check.BUDGET != 0).all()
    assert not short.within.any()


def test_without_chains_the_intervals_are_too_low(store, monkeypatch):
    """With four degrees of freedom, where the weights of the Cauchy density have a longer tail."""
    monkeypatch.setattr(modes, "FREEDOM", 4.0)
    guarded = certified(tolerance=0.1, budget=3e4)
    monkeypatch.setattr(beyond, "extend", lambda run, *_: np.zeros(run.num_points, int))
    bare = certified(tolerance=0.1, budget=3e4)
    missed = [(found.high < 0)[found.within].mean() for found in (guarded, bare)]
    assert guarded.within.mean() > 0.6
    assert missed[0] <= 0.2 < missed[1]
