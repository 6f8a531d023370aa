"""The bounds experiment, once, small, from end to end."""

import math

import numpy as np
import pytest
from experiment_cycle import check_whole, run_once

from experiments.importance_bounds import measure as measurement
from experiments.importance_bounds.config import Config

FIGURES = ("weights", "bounds", "laws", "noise")
TOY, MIXTURE, MODES = range(3)
SMALL = Config(num_weights=2**14, largest=8, fit_from=2, sumo_draws=2_000)
finished = run_once("importance_bounds", SMALL)


def test_the_run_directory_is_whole(finished):
    _, lines = check_whole(finished, *FIGURES)
    assert len({line["problem"] for line in lines}) == 3
    assert sum(line["bound"] == "IWAE" for line in lines) == 3 * 4  # S = 1, 2, 4, 8


def test_the_laws_are_those_of_the_weights(result):
    for found in result.found:
        assert found.law.moment(1.0) == pytest.approx(0, abs=1e-9)  # E_q[w] = p(x)
        drawn = found.log_weights
        assert abs(drawn.mean() - found.law.mean_log(0.0)) < 5 * drawn.std() / len(drawn) ** 0.5
    toy = result.found[TOY].law
    assert toy.mean_log(0.0) == pytest.approx(-10 * (1 / 3 - math.log(4 / 3)), abs=1e-10)
    assert toy.central_moment(2) == pytest.approx((16 / 15) ** 10 - 1, rel=1e-10)


def test_draws_agree_with_the_exact_expectations(result):
    checked = 0
    for found in result.found:
        for name, curve in found.curves.items():
            known = np.isfinite(curve.exact)
            z = (curve.gap[known] - curve.exact[known]) / curve.standard_error[known]
            assert (np.abs(z) < 5).all(), (found.name, name, z)
            checked += int(known.sum())
    assert checked == 3 * (6 * 4 + 1 + 3 + 2 + 2)  # every S; MIWAE at 8; three jackknives
    gap = result.found[TOY].curves["ELBO"]
    assert gap.standard_error[0] < 0.01  # small enough to distinguish 0.4565 from similar values


def test_bounds_bracket_the_truth(result):
    for found in result.found:
        for name in ("ELBO", "IWAE", "Rényi α = 0.5", "thermodynamic", "MIWAE, 8 groups"):
            curve = found.curves[name]
            assert (curve.gap < 5 * curve.standard_error).all()
            assert not (curve.exact > 0).any()
        upper = found.curves["IWAE + posterior draw"]
        assert (upper.gap > -5 * upper.standard_error).all()
        assert (upper.exact > 0).all()
    # E_q[1 / w] has no value where q is wider than a posterior by more than a factor of 2.
    assert result.found[MODES].curves["Rényi α = 2"].limit == -math.inf
    cubo = result.found[TOY].curves["CUBO, n = 2"]
    assert cubo.gap[0] < -0.4  # with one sample it is the ELBO
    assert cubo.gap[-1] > 0.1
    assert cubo.limit == pytest.approx(5 * math.log(16 / 15), abs=1e-9)  # half log E[w^2] / p^2


def test_measured_slopes_are_the_exact_ones_within_their_errors(result):
    for found, name, law, within in (
        (result.found[TOY], "IWAE", -1.0, 0.01),
        (result.found[MIXTURE], "IWAE", -1.0, 0.3),
        (result.found[MIXTURE], "jackknife 1", -2.0, 0.6),
    ):
        slope = found.slopes[name]
        assert abs(slope.value - slope.exact) < 5 * slope.standard_error + 1e-3
        assert slope.standard_error < 0.1
        assert slope.exact == pytest.approx(law, abs=within)


def test_no_slope_is_fitted_in_the_noise():
    size = 2.0 ** np.arange(2, 8)
    gap, error = 1 / size**2, np.full(6, 1e-3)
    rng = np.random.default_rng(0)
    batches = gap[:, None] + 8e-3 * rng.standard_normal((6, 64))
    curve = measurement.Curve(size, gap, error, gap, size, size, batches, 0.0)
    slope = measurement.fit_slope(curve, 4)
    assert (slope.first, slope.last, slope.floor) == (4, 8, 16)  # 1/256 < 5e-3 < 1/64
    assert slope.value == pytest.approx(-2)
    # d slope = (d log g_8 - d log g_4) / log 2, from independent errors of 1e-3 in each
    expected = 1e-3 * math.hypot(16, 64) / math.log(2)
    assert slope.standard_error == pytest.approx(expected, rel=0.3)
    assert measurement.fit_slope(curve._replace(gap=gap / 100), 4) is None


def test_sumo_is_unbiased_on_bounded_weights(result):
    sumo = result.found[MIXTURE].sumo
    assert abs(sumo.gap) < 5 * sumo.standard_error
    # 1 + sum_k P(K >= k), P = 1/k to 80 and 0.9^(k - 80) / 80 beyond; a long tail, so 10%
    expected = 1 + sum(1 / k for k in range(1, 81)) + 9 / 80
    assert sumo.mean_cost == pytest.approx(expected, rel=0.1)
