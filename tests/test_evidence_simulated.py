"""`certify_on_simulated`: coverage against closed forms, and the bridge identity without them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax import annealing, distributions, evidence, problems
from lvm_jax.evidence import beyond, simulated
from lvm_jax.models import Model

PROBLEM = problems.two_modes(4)
SETTINGS = {"tolerance": 0.1, "budget": 2e4}


def run(num_points=64, p=PROBLEM.p, q=PROBLEM.q, **settings):
    return evidence.certify_on_simulated(
        jax.random.key(0), p, q, num_points, **(SETTINGS | settings)
    )


def one_normal(**options):
    """z ~ N(0, 1), x | z ~ N(z, 1), without a closed form of log p(x)."""
    model = Model(
        lambda key: (),
        lambda theta: distributions.normal(jnp.zeros(1), jnp.ones(1)),
        lambda theta, z: distributions.normal(z, jnp.ones(1)),
        **options,
    )
    return model(())


@pytest.fixture(scope="module")
def found():
    """Without chains from draws, which test_evidence_tails.py has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beyond, "compile_ahead", lambda *_: None)
        patch.setattr(beyond, "extend", lambda run, *_: np.zeros(run.num_points, int))
        return run()


def test_intervals_hold_and_the_ratio_is_one(found):
    assert found.certified.share > 0.9
    assert found.held.low <= 0.95 <= found.held.high
    assert found.held.of == found.certificate.within.sum()
    assert abs(found.ratio.value - 1) < 4 * found.ratio.standard_error < 0.1
    truth = problems.log_evidence(PROBLEM, found.x)
    np.testing.assert_allclose(found.log_evidence, truth, rtol=1e-5)
    words = f"Simulated({found.certified.share:.1%} [{found.certified.low:.1%}, "
    assert repr(found).startswith(words)
    assert "of 64 data sets certified; " in repr(found)


def test_the_ratio_shows_what_a_search_misses():
    """Draws of q alone miss a mode: p-hat / p is the mass of the other."""
    dear = annealing.hmc()._replace(cost=1_000)  # chains beyond the budget
    blind = run(200, num_scouts=0, transition=dear)
    kept = blind.certificate.within
    assert kept.sum() > 50
    assert blind.held.high < 0.5
    actual = np.exp(blind.certificate.log_evidence - blind.log_evidence)[kept]
    error = blind.ratio.standard_error
    assert blind.ratio.value + 4 * error < 1
    # The r of the bridge is a mean of p-hat / p with weights: between the extremes.
    assert np.quantile(actual, 0.1) < blind.ratio.value < np.quantile(actual, 0.9)


def test_a_model_without_a_closed_form_has_a_ratio(found, monkeypatch):
    """With the certificate of the model that has one."""
    assert simulated._truth(one_normal(), found.x[:, :1]) is None
    monkeypatch.setattr(simulated, "_truth", lambda p, x: None)
    monkeypatch.setattr(simulated, "certify", lambda *args, **options: found.certificate)
    without = run()
    assert without.held is None
    assert without.log_evidence is None
    assert without.ratio == found.ratio
    assert "hold log p(x)" not in repr(without)


def test_the_bridge_recovers_a_known_ratio():
    """pi = N(0, 1), g = N(0.3, 1.2^2), p-hat = 0.8 p, and g of another normalisation."""
    rng = np.random.default_rng(0)
    z, drawn = rng.normal(size=4_000), 0.3 + 1.2 * rng.normal(size=(4_000, 16))

    def log_ratio(z):
        return -0.5 * z**2 + 0.5 * ((z - 0.3) / 1.2) ** 2 + np.log(1.2) - np.log(0.8)

    found = simulated._bridge(log_ratio(z), log_ratio(drawn))
    assert found.standard_error < 0.01
    assert abs(found.value - 0.8) < 4 * found.standard_error
    nothing = simulated._bridge(np.zeros(0), np.zeros((0, 16)))
    assert np.isnan(nothing.value)


def test_refusals():
    with pytest.raises(ValueError, match="num_points: expected an integer >= 2"):
        run(1)
    with pytest.raises(ValueError, match="tolerance: expected a"):
        run(4, tolerance=0.0)
    with pytest.raises(ValueError, match="a model that draws whole data points"):
        run(4, one_normal(observed="x"))
