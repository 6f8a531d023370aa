"""The evidence_lab experiment on a tiny scale: its bookkeeping against known answers, refusals."""

import json

import jax
import numpy as np
import pytest
from experiment_cycle import check_whole
from scipy.stats import binomtest, norm

from experiments import evidence_lab, evidence_lab_measure
from experiments.evidence_lab_methods import METHODS, Answers


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evidence_lab") / "run"
    config = evidence_lab.Config(
        models=("discrete",), num_points=12, num_certified=16, budgets=(300, 4_000),
        num_chains=6, num_runs=2, num_particles=3, certify_budget=3_000, out=folder,
    )  # fmt: skip
    return evidence_lab.main(config), json.loads((folder / "results.json").read_text())


def test_every_method_at_every_budget(run):
    result, written = run
    (found,) = result.found.values()
    assert {*found.cells, "certify"} == set(METHODS)
    for name, column in found.cells.items():
        told = written["discrete"]["methods"][name]
        for budget, cell, said in zip((300, 4_000), column, told, strict=True):
            if cell is None:
                assert said is None
                assert budget == 300
                assert name.startswith(("annealed", "sandwich", "sequential", "SUMO", "multi"))
                continue
            assert said["rmse"] == pytest.approx(np.sqrt(np.mean(cell.errors**2)), rel=1e-6)
            assert said["coverage"]["share"] == pytest.approx(cell.holds.mean())
            assert said["coverage"]["of"] == 12
            if not name.startswith(("SUMO", "multi", "sandwich")):
                assert 0.5 * budget < cell.cost <= budget
    certified = written["discrete"]["certify"]
    assert certified["cell"]["coverage"]["of"] == 16
    assert certified["holds_within"]["of"] == round(16 * certified["within"])
    assert not jax.config.read("jax_disable_most_optimizations")  # as it was before


def test_estimates_are_near_the_truth(run):
    (found,) = run[0].found.values()
    best = {name: column[-1] for name, column in found.cells.items()}
    # The guide's weights have a relative variance near 0.3: 4,000 of them err by 0.01.
    assert best["importance"].rmse < 0.03
    assert abs(best["jackknife"].rmse / best["importance"].rmse - 1) < 0.05
    upper, lower = best["sandwich, prior"], best["annealed, prior"]
    error = np.hypot(upper.mean_error_error, lower.mean_error_error)
    assert upper.mean_error - lower.mean_error > -4 * error


def test_what_is_written(run):
    result, _ = run
    _, rows = check_whole(result, "k_hat", "lab", "sides")
    (found,) = result.found.values()
    assert len(rows) == 1 + sum(c is not None for column in found.cells.values() for c in column)
    page = (result.path / "report.html").read_text()
    assert f"{found.cells['importance'][-1].rmse:.3f}" in page


def test_coverage_is_counted_with_its_sides():
    # log p-hat is normal about the truth; a half-width of one standard deviation holds 68%.
    truth = np.linspace(-50.0, 10.0, 5_000)
    noise = np.random.default_rng(0).normal(0.2, 1.0, size=5_000)
    centre, k_hat = truth + noise, np.where(noise > 0, 0.2, 0.9)
    cost = np.full(5_000, 7.0)
    cell = evidence_lab_measure.cell(Answers(centre, centre - 1, centre + 1, k_hat, cost), truth)
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
    nothing = evidence_lab_measure.share(np.zeros(0, bool))
    assert np.isnan(nothing.share)
    assert nothing[1:] == (0.0, 1.0, 0)
    assert evidence_lab_measure.share(np.ones(20, bool))[:3] == pytest.approx((1, 0.025**0.05, 1))
    assert evidence_lab_measure.share(np.zeros(20, bool))[:2] == (0, 0)
