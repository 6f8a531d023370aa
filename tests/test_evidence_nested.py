"""Nested sampling against exact evidences, one of them behind a phase transition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit
from scipy.stats import multivariate_normal

from lvm_jax import distributions, evidence, guides, problems
from lvm_jax.evidence import Check, rounds
from lvm_jax.evidence.nested import _evidence

KEY = jax.random.key(4)
X, SCALE = np.array([0.5, -1.0], np.float32), 0.2
TRUTH = multivariate_normal(cov=1 + SCALE**2).logpdf(X).sum()
NORMAL = distributions.normal(jnp.zeros(2), jnp.ones(2))


def spike(z):
    """A narrow peak with nearly all of the mass, 4 nats of volume within a broad one."""
    broad, narrow = -0.5 * (z**2).sum(), np.log(2e4) - 0.5 * (z / 0.02) ** 2 @ jnp.ones(2)
    return jnp.logaddexp(broad, narrow)


SPIKE = np.log((2 * np.pi * (1 + 2e4 * 0.02**2)) / 100)  # prior uniform on [-5, 5]^2


@pytest.fixture(scope="module")
def runs():
    """24 runs of the Gaussian with few live points, and 4 of the spike."""
    log_likelihood = lambda z: distributions.normal(z, jnp.full(2, SCALE)).log_prob(X)  # noqa: E731
    flat = distributions.uniform(jnp.full(2, -5.0), jnp.full(2, 5.0))

    @quick_jit
    def run(key):
        return (
            evidence.nested(key, log_likelihood, NORMAL, 60, num_runs=24),
            evidence.nested(key, spike, flat, 200, num_runs=4),
        )

    return run(KEY)


def test_log_p_is_the_mean_of_runs_within_its_error(runs):
    for found, truth in zip(runs, (TRUTH, SPIKE), strict=True):
        one = found.evidence
        assert abs(one.log_evidence - truth) < 4 * one.standard_error
        assert one.log_evidence == pytest.approx(float(found.log_evidences.mean()), rel=1e-5)
        assert one.reliable
        assert (found.remaining < 1e-8).all()


def test_the_information_predicts_the_spread_of_runs(runs):
    found, _ = runs
    kl = -TRUTH + (-np.log(2 * np.pi * SCALE**2) - posterior_square() / (2 * SCALE**2))
    assert found.information.mean() == pytest.approx(kl, rel=0.1)
    predicted = np.sqrt(found.information.mean() / 60)
    assert found.log_evidences.std(ddof=1) == pytest.approx(predicted, rel=0.35)


def posterior_square():
    """E |x - z|^2 under the posterior of the Gaussian."""
    mean, variance = X / (1 + SCALE**2), SCALE**2 / (1 + SCALE**2)
    return ((X - mean) ** 2).sum() + 2 * variance


def test_checks_withdraw_the_verdict():
    quiet, unfinished = np.full(4, 0.01, np.float32), np.zeros(4, bool)
    near = np.array([0.0, 0.1, -0.1, 0.05], np.float32)
    assert _evidence(near, quiet, unfinished).failed == 0
    assert _evidence(10 * near, quiet, unfinished).failed == Check.SPREAD
    assert _evidence(near, quiet, unfinished | [0, 0, 1, 0]).failed == Check.BUDGET
    nothing = _evidence(np.array([-np.inf, 0, 0, 0], np.float32), quiet, unfinished)
    assert nothing.failed & Check.NONFINITE
    assert nothing.num_negative_infinite == 1


def test_bad_arguments_are_refused():
    labels = distributions.categorical(jnp.zeros((2, 3)))
    with pytest.raises(TypeError, match="prior: expected one of a real-valued z"):
        evidence.nested(KEY, spike, labels)
    with pytest.raises(ValueError, match="num_live: expected .* got 5"):
        evidence.nested(KEY, spike, NORMAL, 5)
    with pytest.raises(ValueError, match="num_runs: expected .* got 1"):
        evidence.nested(KEY, spike, NORMAL, num_runs=1)
    with pytest.raises(ValueError, match="remaining: expected a share"):
        evidence.nested(KEY, spike, NORMAL, remaining=1.0)


def test_a_second_opinion_withdraws_a_wrong_certificate(monkeypatch):
    """q covers the wider of two modes, or both; without a search the certificate has those of q.

    Nested sampling does not use q, and runs once.
    """
    monkeypatch.setattr(rounds, "NUM_LIVE", 300)
    own, known = rounds.Runner.nested, []

    def nested(run, num_runs):
        known.append(known[0] if known else own(run, num_runs))
        return known[0]

    monkeypatch.setattr(rounds.Runner, "nested", nested)
    problem = problems.two_modes(4)
    data = problems.simulate(jax.random.key(6), problem, 64)
    square = (np.asarray(data.x) ** 2).sum(1)
    # Apart, with 40% of the mass in the narrow mode.
    rows = np.flatnonzero((square > 7) & (square < 9))[:1]
    x, truth = np.asarray(data.x)[rows], np.asarray(data.log_evidence)[rows]
    for q, covers in ((problem.q, False), (guides.exact(problem.p), True)):
        found = evidence.certify(
            KEY, problem.p, q, x, tolerance=0.05, budget=1e5, num_nested=6, num_scouts=0
        )
        assert found.rounds[-1].method == "nested"
        error = np.asarray(found.nested.standard_error)
        assert (abs(found.nested.log_evidence - truth) < 4 * error).all()
        missed = abs(found.log_evidence - truth) > 0.3
        assert missed.all() != covers
        np.testing.assert_array_equal((found.failed & Check.NESTED) != 0, missed)
        assert (found.within != missed).all()
    assert len(known) == 2


def test_bad_numbers_of_nested_runs_are_refused():
    problem = problems.two_modes(2)
    x = np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match="num_nested: expected 0 or at least 2 runs, got 1"):
        evidence.certify(KEY, problem.p, problem.q, x, tolerance=0.1, num_nested=1)
