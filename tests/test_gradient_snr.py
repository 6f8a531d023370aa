"""The signal-to-noise experiment, once, small, from end to end: closed forms, laws, equal means."""

import numpy as np
import pytest
from experiment_cycle import check_whole, run_once

from experiments.gradient_snr.config import Config

# Each S is a program of 14 estimators, whose compilation is nearly all of the time.
SMALL = Config(num_samples=(16, 64), num_repeats=800, num_blocks=8, fit_from=16)
finished = run_once("gradient_snr", SMALL)


def test_the_run_is_whole(finished, result):
    found, lines = check_whole(finished, "snr", "slopes", "floor")
    assert found["curves"]["b"]["DReG"]["slope"] == result.curves["b"]["DReG"].slope
    assert len(lines) == 3 * 14 * 2  # groups, estimators, S


def test_linear_gradients_have_the_derived_signal_to_noise(result):
    for group, names in result.exact.items():
        for name, derived in names.items():
            curve = result.curves[group][name]
            assert (curve.error < 0.02).all()
            assert (np.abs(np.log(curve.snr / derived)) < 5 * curve.error).all(), (group, name)


@pytest.mark.parametrize(
    ("group", "name", "law", "short"),
    [
        ("b", "reparameterised ELBO", 0.5, 0.0),
        ("b", "STL", 0.5, 0.0),
        ("mu", "STL", 0.5, 0.0),
        # IWAE's laws are for S -> infinity; what is missing at S = 16 to 64 is of order 1/S
        ("b", "reparameterised IWAE", -0.5, 0.03),
        ("b", "DReG", 0.5, 0.08),
        ("mu", "DReG", 0.5, 0.03),
        ("b", "VIMCO", -0.5, 0.06),
        ("b", "MIWAE", -0.5, 0.05),
        ("b", "RWS", 0.5, 0.06),
    ],
)
def test_slopes_follow_the_laws(result, group, name, law, short):
    curve = result.curves[group][name]
    assert curve.expected == law
    assert curve.slope_error < 0.03
    assert abs(curve.slope - law) < 5 * curve.slope_error + short


def test_an_own_mean_shows_the_repeats_and_not_the_estimator(result):
    # E|mean|^2 = |signal|^2 + sum of variances / R: with R = 800 the floor is at 0.035.
    curve = result.curves["b"]["reparameterised IWAE"]
    expected = np.hypot(curve.snr, 1 / np.sqrt(800))
    # sum of 20 squares: relative sd of its root below sqrt(1 / 40)
    np.testing.assert_allclose(curve.own, expected, rtol=5 * 0.16)
    assert curve.own[-1] > 2 * curve.snr[-1]
    assert curve.own_slope > curve.slope + 0.15


def test_estimators_of_the_same_mean_agree(result):
    # Of 40 standard normals (20 coordinates, 2 S) the largest is beyond 5 once in 40,000 times.
    for name, z in result.agreement.items():
        assert z < 5, name


def test_the_gradient_of_a_is_that_of_b_times_x(result):
    for name, curve in result.curves["b"].items():
        np.testing.assert_allclose(result.curves["A"][name].snr, curve.snr, rtol=1e-4)
