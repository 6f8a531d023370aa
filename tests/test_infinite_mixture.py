"""The infinite-mixture experiment, once and small, against densities computed another way."""

import dataclasses

import jax
import numpy as np
import pytest
from experiment_cycle import check_whole, run_once
from scipy.stats import norm

from experiments.infinite_mixture import measure
from experiments.infinite_mixture.config import Config
from lvm_jax import models

# One model: every other costs as many seconds of compilation again.
SMALL = Config(
    data="banana", num_points=400, hidden=0, num_steps=210, num_starts=2, num_restarts=2,
    num_nodes=80, evidence_samples=400,
)  # fmt: skip
finished = run_once("infinite_mixture", SMALL, (measure, "GRID", 60))  # a coarser picture


def test_the_folder_is_whole(finished):
    found, lines = check_whole(finished, "densities", "samples", "maps", "training")
    assert found["num_train"] + found["num_held_out"] == 400
    assert [line["step"] for line in lines] == list(range(7, 211, 7))


def test_quadrature_and_importance_sampling_agree(finished):
    (one,) = finished.result.deep
    found = one.importance
    assert abs(found.log_evidence - one.density.log_p.mean()) < 5 * found.monte_carlo_error + 1e-3
    assert one.quadrature_change < 1e-2


def test_densities_have_mass_one_in_the_units_of_the_data(finished):
    result = finished.result
    for density in result.densities:
        num = density.grid.shape[0]
        cell = np.prod((result.plane.high - result.plane.low) / (num - 1))
        assert 0.8 < np.exp(density.grid).sum() * cell < 1.01  # the window cuts the tails


def test_held_out_log_p_is_recomputed_from_the_parameters(finished):
    (one,), plane = finished.result.deep, finished.result.plane
    a, b, c, d = jax.tree.map(np.asarray, one.theta)
    z = np.random.default_rng(0).normal(size=(20_000, 2))
    mean = plane.restore(z @ a.T + b)
    sd = np.exp(3 * np.tanh((z @ c.T + d) / 6)) * plane.sd
    for n in range(5):
        w = np.exp(norm.logpdf(plane.test[n], mean, sd).sum(1))  # naive Monte Carlo
        error = w.std(ddof=1) / np.sqrt(len(w)) / w.mean()
        assert abs(np.log(w.mean()) - one.density.log_p[n]) < 5 * error


def test_checks_fail_for_a_bound_above_log_p_and_a_density_above_the_truth(finished):
    result = finished.result
    (one,) = result.deep
    higher = one.density._replace(log_p=result.truth.log_p + 0.01)
    wrong = one._replace(density=higher, elbo=higher.log_p + 0.1)
    found = measure.checks(dataclasses.replace(result, deep=[wrong]))
    failed = [check.name for check in found if not check.holds]
    assert failed == ["ELBO less log p, one layer", "one layer less truth"]


def test_parameters_are_counted(finished):
    result = finished.result
    assert result.deep[0].density.num_parameters == 2 * (2 * 2 + 2)  # A, b, C, d
    assert result.mixtures[0].num_parameters == 6 * 2 - 1
    hidden = jax.eval_shape(models.two_layer_gaussian(2, 2, 6).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(hidden)) == 6 * 2 + 6 + 2 * (2 * 6 + 2)


def test_the_start_kept_has_the_highest_final_bound(finished):
    curve = finished.result.deep[0].curve
    assert curve.bound[-1] == pytest.approx(curve.starts.max(), abs=1e-6)
    assert len(curve.starts) == 2
