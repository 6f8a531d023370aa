"""The library's own contestants of the benchmarks still call it as it is, at a tiny size."""

import pkgutil
from importlib import import_module

import jax
import numpy as np
import pytest

import benchmarks
from benchmarks import (
    coverage,
    coverage_methods,
    coverage_problems,
    evidence_contestants,
    evidence_models,
    evidence_tolerance,
    training_contestants,
    vi_contestants,
)
from benchmarks import evidence as evidence_benchmark
from benchmarks import vi as vi_benchmark


def test_every_module_can_be_imported():
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    assert {"training", "coverage", "evidence", "vi"} <= set(names)
    for name in names:
        import_module(f"benchmarks.{name}")


def test_a_training_has_the_bound_of_the_scan_by_hand():
    x = np.random.default_rng(0).random((8, 784)).astype(np.float32)
    case = {"seed": 0, "epochs": 2, "samples": 2, "batch": 4}
    by_fit, by_hand = training_contestants.pair(case, x)
    with jax.numpy_rank_promotion("allow"):  # the loop by hand adds biases to rows
        assert by_fit() == pytest.approx(by_hand(), rel=1e-5)


def test_annealed_chains_are_near_the_exact_evidence():
    """The mean of four estimates of this budget spreads by 0.15 nats; 128 temperatures miss by 2.6."""
    case = {"model": "linear-Gaussian", "points": 4, "chains": 16, "temperatures": 2_048}
    case |= {"leapfrogs": 10, "seed": 0}
    problem = evidence_models.make(case)
    found = evidence_contestants.PROGRAMS["annealed, HMC"](case, problem)(jax.random.key(0))
    assert abs(np.mean(np.asarray(found) - np.asarray(evidence_models.exact(problem)))) < 0.6


@pytest.mark.parametrize(
    "name", ["Cauchy likelihood", "Student likelihood", "gamma-Poisson", "beta-binomial"]
)
def test_the_truth_of_a_coverage_problem_is_that_of_importance_sampling(name):
    problem = coverage_problems.PROBLEMS[name]()(jax.random.key(0), 4)
    method = coverage_methods.make("importance, prior", problem, 20_000)
    found, checked = coverage_methods.program(problem, method)(jax.random.key(1))
    assert (checked == 0).all()
    assert (np.abs(found.log_evidence - problem.truth) < 5 * found.standard_error).all()
    z = problem.p.prior(problem.x[0]).sample(seed=jax.random.key(2), sample_shape=(4_000,))
    mapped = problem.from_unit(np.random.default_rng(0).random(z.shape))
    error = np.sqrt((z.var(0) + mapped.var(0)) / 4_000)
    assert (np.abs(z.mean(0) - mapped.mean(0)) < 5 * error).all()


def test_coverage_counts_reliable_runs_and_their_intervals():
    case = {"part": "methods", "problem": "beta-binomial", "number": 40, "seed": 0}
    case |= {"methods": ["importance, prior", "importance, guide"], "budgets": [500]}
    (row,) = coverage.child(case)["rows"]  # the guide is the prior, and has no row of its own
    assert 10 < row["held"]["of"] == round(40 * row["reliable"])
    assert row["held"]["low"] < 0.95 < row["held"]["high"]
    line = coverage.method_lines({"case": case, "found": {"rows": [row]}})[0]
    assert line[:4] == ["beta-binomial", "importance, prior", "500", "0"]


def test_the_first_setting_within_the_tolerance_counts():
    case = {"problem": "Gaussian, D = 2", "points": 10, "seed": 0, "most_seconds": 9.0}
    case |= {"contestant": "importance, guide", "tolerances": [0.1]}
    found = evidence_benchmark.child(case)
    assert [rung["evaluations"] for rung in found["curve"]] == [evidence_tolerance.BUDGETS[0]]
    assert evidence_benchmark.reached({"rounds": [found]}, 0.1) == found["curve"][0]
    assert evidence_benchmark.reached({"rounds": [found]}, 1e-9) is None


VI_CASE = {"target": "gaussian", "budgets": [500, 1_000], "more": [], "rates": [0.1], "repeats": 1}


def curve(contestant, family):
    found = vi_contestants.run(VI_CASE | {"contestant": contestant, "family": family, "seed": 0})
    assert [row["evaluations"] for row in found["curve"]] == sorted(
        row["evaluations"] for row in found["curve"]
    )
    return found


@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_a_fit_comes_near_the_best_normal(family):
    """The best ELBO of the diagonal family is the closed form 0.5 log(1 - correlation^2)."""
    found = curve("lvm_jax", family)
    assert abs(found["curve"][-1]["gap"]) < 0.01
    assert max(row["evaluations"] for row in found["curve"]) <= 1_000
    count, _ = vi_benchmark.reached({"rounds": [found]}, 0.1)
    assert count <= 1_000


def test_a_peer_comes_near_the_best_normal():
    assert curve("NumPyro", "mean_field")["curve"][-1]["gap"] < 0.3


def test_the_elbo_of_a_normal_is_its_kl_divergence():
    target = vi_contestants.TARGETS["gaussian"]()
    mean, factor = np.array([0.2, 1.3]), np.array([[0.7, 0.0], [0.4, 0.3]])
    precision = np.linalg.inv([[2.0, 0.8], [0.8, 0.5]])
    covariance, away = factor @ factor.T, 1 - mean
    log_det = np.linalg.slogdet(covariance @ precision)[1]
    kl = 0.5 * (np.trace(precision @ covariance) - 2 + away @ precision @ away - log_det)
    fitted = vi_contestants.Fitted(0, 0.0, mean, factor)
    assert vi_contestants.elbo_of(target, fitted) == pytest.approx(-kl, abs=5 * 0.002)
