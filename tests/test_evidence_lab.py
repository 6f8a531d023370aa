"""The evidence_lab experiment: its bookkeeping against known answers, and what chains cost."""

import jax
import numpy as np
import pytest
from experiment_cycle import check_whole, run_once
from scipy import stats
from scipy.stats import binomtest, norm

from experiments.evidence_lab import figures, methods
from experiments.evidence_lab import measure as measurement
from experiments.evidence_lab.config import Config
from experiments.evidence_lab.methods import Estimates
from lvm_jax import problems
from lvm_jax.evidence import beyond

SMALL = Config(
    models=("two_modes",), num_points=40, num_certified=48, budgets=(90, 600), num_chains=6,
    num_runs=2, num_particles=3, certify_budget=3_000,
)  # fmt: skip
CHAINS, KNOWN = methods.sandwich, {}


def from_prior(key, setting, data, start, budget, config):
    """Chains from the guide are those from the prior, for they take 5 s to compile."""
    if budget not in KNOWN:
        KNOWN[budget] = CHAINS(key, setting, data, start, budget, config)
    return KNOWN[budget]


# Certificates without chains from draws, which test_evidence_tails.py has.
finished = run_once(
    "evidence_lab", SMALL, (methods, "sandwich", from_prior),
    (beyond, "compile_ahead", lambda *_: None),
    (beyond, "extend", lambda run, *_: np.zeros(run.num_points, int)),
)  # fmt: skip


def test_every_method_at_every_budget(finished):
    written, lines = check_whole(
        finished, "certificate", "coverage", "directions", "error", "k_hat"
    )
    (found,) = finished.result.found.values()
    assert {*found.cells, "certify"} == figures.STYLE.keys()
    assert len(lines) == 1 + sum(c is not None for column in found.cells.values() for c in column)
    for name, column in found.cells.items():
        stored = written["two modes"]["methods"][name]
        for budget, cell, row in zip((90, 600), column, stored, strict=True):
            if cell is None:
                assert row is None
                assert budget == 90 or name == "multilevel"  # of which 6 are no sample
                assert name not in ("naive", "importance", "jackknife")
                continue
            assert row["rmse"] == pytest.approx(np.sqrt(np.mean(cell.errors**2)), rel=1e-6)
            assert row["coverage"]["share"] == pytest.approx(cell.holds.mean())
            if not name.startswith(("SUMO", "sandwich")):
                assert 0.5 * budget < cell.cost <= budget
    certified = written["two modes"]["certify"]
    assert certified["holds_within"]["of"] == round(48 * certified["within"])
    points = finished.result.points
    np.testing.assert_array_equal(points["error, naive"], found.cells["naive"][-1].errors)


def test_importance_sampling_misses_the_mode_that_the_guide_does_not_cover(finished):
    (found,) = finished.result.found.values()
    key = jax.random.split(jax.random.key(0), (3, 1))[0, 0]
    x = np.asarray(problems.simulate(key, problems.two_modes(4), 48).x[:40], float)
    # The mass of the wide mode, from the densities of x under either: all that q can find.
    each = np.stack([stats.norm(0, (1 + s**2) ** 0.5).logpdf(x).sum(1) for s in (0.3, 1.0)])
    known = each[1] - np.logaddexp(*each)
    far = (x**2).sum(1) > 7  # from mode to mode: 4.6 standard deviations of q
    errors = found.cells["importance"][-1].errors[far]
    # Each has a standard error of about 0.023, from 600 weights of relative variance 0.3.
    assert abs(np.median(errors - known[far])) < 5 * 1.25 * 0.023 / far.sum() ** 0.5 < 0.045
    assert np.median(known[far]) < -0.2


def test_coverage_is_counted_in_both_directions():
    # log p-hat is normal about the truth; a half-width of one standard deviation holds 68%.
    truth = np.linspace(-50.0, 10.0, 5_000)
    noise = np.random.default_rng(0).normal(0.2, 1.0, size=5_000)
    centre, k_hat = truth + noise, np.where(noise > 0, 0.2, 0.9)
    cost = np.full(5_000, 7.0)
    cell = measurement.cell(Estimates(centre, centre - 1, centre + 1, k_hat, cost), truth)
    for found, chance in (
        (cell.coverage.share, norm.cdf(0.8) - norm.cdf(-1.2)),
        (cell.too_low, norm.cdf(-1.2)),
        (cell.too_high, norm.sf(0.8)),
        (cell.trusted.share, (norm.cdf(0.8) - norm.cdf(-0.2)) / norm.sf(-0.2)),
    ):
        assert abs(found - chance) < 4 * (chance * (1 - chance) / 2_500) ** 0.5
    assert cell.coverage.share + cell.too_low + cell.too_high == pytest.approx(1)
    assert cell.trusted.of == (noise > 0).sum()
    exact = binomtest(int(cell.holds.sum()), 5_000).proportion_ci()
    np.testing.assert_allclose(cell.coverage[1:3], exact)
    assert cell.cost == 7
    assert cell.width == pytest.approx(1)
    np.testing.assert_allclose(cell.rmse, np.sqrt((noise**2).mean()))
    # sd of the squares, 1.56 here (kurtosis 3, mean 0.2), over 2 RMS sqrt(N).
    np.testing.assert_allclose(
        cell.rmse_error, np.std(noise**2) / (2 * cell.rmse * 5_000**0.5), rtol=1e-3
    )


def test_shares_at_the_ends():
    nothing = measurement.share(np.zeros(0, bool))
    assert np.isnan(nothing.share)
    assert nothing[1:] == (0.0, 1.0, 0)
    assert measurement.share(np.ones(20, bool))[:3] == pytest.approx((1, 0.025**0.05, 1))
    assert measurement.share(np.zeros(20, bool))[:2] == (0, 0)
