"""The programs of `certify`: traced sizes give what static ones give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit
from scipy import stats

from lvm_jax import annealing, distributions, evidence
from lvm_jax.evidence import particles
from lvm_jax.evidence.modes import cover
from lvm_jax.evidence.result import Check
from lvm_jax.evidence.rounds import Runner
from lvm_jax.guides.base import Guide
from lvm_jax.models import Model

NUM_POINTS = 5
MODEL = Model(
    lambda key: (),
    lambda theta: distributions.normal(jnp.zeros(2), jnp.ones(2)),
    lambda theta, z: distributions.normal(z, jnp.ones(2)),
)
EXACT = Guide(lambda key: (), lambda phi, x: distributions.normal(0.5 * x, jnp.full(2, 0.5**0.5)))
WIDE = Guide(lambda key: (), lambda phi, x: distributions.normal(0.5 * x, jnp.full(2, 1.1)))
X = np.random.default_rng(0).normal(size=(NUM_POINTS, 2)).astype(np.float32)
TRUTH = -(X**2).sum(1) / 4 - np.log(4 * np.pi)


def stay(key, density, place, scale, step_size):
    """Leaves every density invariant, and reports an acceptance of 3 of 100."""
    return place, jnp.asarray(0.03, step_size.dtype)


STAY = annealing.Transition(stay, target=0.5, cost=2)


def runner(guide):
    parts = jax.random.key(7), MODEL(()), guide(()), X
    return Runner(*parts, STAY, 2e4, 0)


@pytest.fixture(scope="module")
def chained():
    return runner(EXACT)


@pytest.mark.parametrize("num_samples", [1_000, 4_000])
def test_draws_are_those_of_importance(num_samples):
    run, points = runner(WIDE), np.array([1, 4])
    found, _, _ = run.importance(points, num_samples, 1)
    key = run._key(1, num_samples)

    @quick_jit
    def static(index, x):
        joint, q = MODEL(()).log_joint(x), WIDE.posterior((), x)
        proposal = cover(q, MODEL(()).prior(), None, jnp.array([0.0, -jnp.inf]))
        return evidence.importance(jax.random.fold_in(key, index), joint, proposal, num_samples)

    for place, point in enumerate(points):
        want = static(point, X[point])
        for name, value, plain in zip(want._fields, found, want, strict=True):
            if name not in ("k_hat", "failed"):  # k-hat is 0: w <= 2.4 E[w]
                np.testing.assert_allclose(value[place], plain, rtol=2e-4, atol=1e-6, err_msg=name)
    assert (found.k_hat == 0).all()
    other, _, _ = run.importance(points, num_samples, 0)
    assert (other.log_evidence != found.log_evidence).all()


def test_chains_from_the_posterior_and_from_the_prior(chained):
    every = np.arange(NUM_POINTS)
    exact = chained.chains(every, 128, 4, from_prior=False, resamples=False, answers=True)
    np.testing.assert_allclose(exact.evidence.log_evidence, TRUTH, atol=1e-5)
    assert (exact.spread < 1e-5).all()
    prior = chained.chains(every, 192, 4, from_prior=True, resamples=False, answers=True)
    off = (prior.evidence.log_evidence - TRUTH) / prior.evidence.standard_error
    assert np.abs(off).max() < 4.5
    assert prior.evidence.num_samples.tolist() == [192] * NUM_POINTS
    # Of chains that stay, log w = log p(x | z), of variance sum_d (1/2 + x_d^2) under the prior.
    variance = 1 + (X**2).sum(1)
    error = (prior.spread**2 / variance - 1) / (2 / 191 * 3) ** 0.5
    assert np.abs(error).max() < 4.5
    pilot = chained.chains(every, 192, 4, from_prior=True, resamples=False, answers=False)
    assert (pilot.evidence.log_evidence != prior.evidence.log_evidence).all()
    alone = chained.chains(every[:2], 1, 4, from_prior=True, resamples=False, answers=True)
    assert np.isinf(alone.spread).all()


def test_runs_of_particles_are_unbiased_and_have_one_weight_each(chained):
    every = np.arange(NUM_POINTS)
    run = lambda chains, prior: chained.chains(  # noqa: E731
        every, chains, 4, from_prior=prior, resamples=True, answers=True
    )
    np.testing.assert_allclose(run(128, False).evidence.log_evidence, TRUTH, atol=1e-5)
    # Particles that stay are copied and not moved, and still unbiased.
    found = run(512, True)
    assert found.evidence.num_samples.tolist() == [64] * NUM_POINTS
    off = (found.evidence.log_evidence - TRUTH) / found.evidence.standard_error
    assert np.abs(off).max() < 4.5
    chains = chained.chains(every, 512, 4, from_prior=True, resamples=False, answers=True)
    assert (found.spread < chains.spread).all()  # of means of 8 weights


def test_particles_are_resampled_within_their_run_and_keep_its_mean():
    equal, unequal = jnp.zeros(8), jnp.log(jnp.array([5.0, 2, 1, 1e-9, 1e-9, 1e-9, 1e-9, 1e-9]))
    none = jnp.full(8, -jnp.inf)
    log_w = jnp.concatenate([equal, unequal, none])
    resample = quick_jit(particles.resample)
    rows, after = resample(jnp.array(True), jax.random.key(0), log_w)
    assert rows[:8].tolist() == list(range(8))
    assert np.bincount(rows[8:16] - 8, minlength=8).tolist() == [5, 2, 1, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(after[8:16], np.zeros(8), atol=1e-6)  # all 1 = 8 / 8
    np.testing.assert_array_equal(after[:8], equal)
    np.testing.assert_array_equal(after[16:], none)
    rows, after = resample(jnp.array(False), jax.random.key(0), log_w)
    assert rows.tolist() == list(range(24))
    np.testing.assert_array_equal(after, log_w)


def test_acceptance_is_the_mean_over_the_chains(chained):
    # 0.03 of each group of chains, below the least of 0.05; their sum is above it.
    found = chained.chains(np.arange(2), 128, 4, from_prior=False, resamples=False, answers=True)
    assert (found.evidence.failed == Check.ACCEPTANCE).all()


def test_scouts_of_a_discrete_z_are_draws_of_the_prior_after_a_move():
    uniform = distributions.categorical(jnp.zeros((4, 3)))
    model = Model(
        lambda key: (),
        lambda theta: uniform,
        lambda theta, z: distributions.normal(z.astype(jnp.float32), jnp.ones(4)),
    )
    guide = Guide(lambda key: (), lambda phi, x: uniform)
    x = np.zeros((2, 4), np.float32)

    def one_up(key, density, place, scale, step_size):
        return density.at((place.z + 1) % 3), jnp.ones(())

    move = annealing.Transition(one_up, continuous=False)
    run = Runner(jax.random.key(8), model(()), guide(()), x, move, 2e4, 4_000)
    run.move_scouts()
    z = np.asarray(run.loose.z)
    assert z.shape == (2, 4_000, 4)
    share = np.stack([(z == value).mean((0, 1)) for value in range(3)])
    assert np.abs(share - 1 / 3).max() < 4.5 * (2 / 9 / 8_000) ** 0.5
    log_p = -4 * np.log(3) + stats.norm.logpdf(z).sum(2)
    np.testing.assert_allclose(run.loose.log_p, log_p, rtol=1e-5)
