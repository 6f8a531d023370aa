"""Expectations of bounds without sampling, against closed forms and enumeration."""

import math

import numpy as np
import pytest
from scipy import stats

from lvm_jax.problems.expected_bounds import LogMean, jackknife, weight_law

Q, W = np.array([0.6, 0.4]), np.array([0.4, 1.9])
TWO = weight_law(np.log(W / (W @ Q)), np.log(Q))  # E_q[w] = p
DIM = 20


def of_rainforth():
    """log w - log p = 10 log 4/3 - c / 6, c chi-squared of 20 degrees (problems.rainforth)."""
    root = np.linspace(0.0, 12.5, 1_501)[1:]
    log_probs = stats.chi2(DIM).logpdf(root**2) + np.log(root)
    return weight_law(DIM / 2 * math.log(4 / 3) - root**2 / 6, log_probs, is_grid=True)


def test_moments_are_closed_forms():
    law = of_rainforth()
    assert law.mean_log(0.0) == pytest.approx(-10 * (1 / 3 - math.log(4 / 3)), abs=1e-10)
    assert law.central_moment(2) == pytest.approx((16 / 15) ** 10 - 1, rel=1e-10)
    assert law.iwae_coefficients()[0] == pytest.approx(0.45336, abs=1e-5)
    for order in (-1.0, 0.5, 1.0, 2.0):
        closed = 10 * (order * math.log(4 / 3) - math.log1p(order / 3))
        assert law.moment(order) == pytest.approx(closed, abs=1e-9)
    assert law.moment(-3.0) == math.inf  # E[e^(c / 2)] of a chi-squared c


@pytest.mark.parametrize("power", [1.0, 0.5, -1.0, 2.0])
def test_the_mean_of_a_logarithm_is_that_of_enumeration(power):
    outcomes = np.stack(np.meshgrid(*[[0, 1]] * 3), -1).reshape(-1, 3)  # of three draws
    mass, w = Q[outcomes].prod(1), np.exp(TWO.log_w)
    values = np.log((w**power)[outcomes].mean(1)) / power
    log_mean = LogMean(TWO, power)
    assert log_mean(3) == pytest.approx(mass @ values, abs=1e-12)
    first = mass * w[outcomes[:, 0]]  # the first draw from the posterior
    assert log_mean(3, 1) == pytest.approx(first @ values, abs=1e-12)


def test_one_draw_gives_the_elbo_and_the_posteriors_mean():
    law = of_rainforth()
    log_mean = LogMean(law)
    assert log_mean(1) == pytest.approx(law.mean_log(0.0), abs=1e-12)
    assert log_mean(1, 1) == pytest.approx(law.mean_log(1.0), abs=1e-12)


def test_gaps_have_the_coefficients_and_the_rates_of_theory():
    log_mean, (a, b) = LogMean(TWO), TWO.iwae_coefficients()
    assert -64 * log_mean(64) == pytest.approx(a + b / 64, rel=2e-4)
    assert abs(b / 64) > 2e-3 * a  # the second coefficient is seen
    for order, within in ((0, 0.02), (1, 0.08), (2, 0.15)):
        gaps = [abs(jackknife(log_mean, order, size)) for size in (64, 128)]
        assert math.log2(gaps[1] / gaps[0]) == pytest.approx(-(order + 1), abs=within)


def test_values_of_negligible_probability_are_dropped():
    law = weight_law(np.array([0.0, 1.0, math.inf]), np.array([-1.0, -1.0, -math.inf]))
    np.testing.assert_allclose(law.log_w, [0.0, 1.0])
    np.testing.assert_allclose(law.log_probs, [-math.log(2)] * 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: weight_law(np.array([0.0, 1.0]), np.array([0.0])),
            r"log_w, log_probs: expected two arrays of shape",
        ),
        (lambda: weight_law(np.array([0.0, math.nan]), np.array([0.0, 0.0])), "log_w: "),
        (lambda: weight_law(np.array([0.0, 1.0]), np.array([0.0, math.nan])), "log_probs: "),
        (lambda: LogMean(TWO)(0), "num_samples: expected an integer >= 1, got 0"),
        (lambda: LogMean(TWO)(2, 3), "posterior_draws: expected at most num_samples = 2, got 3"),
        (lambda: jackknife(LogMean(TWO), 2, 2), "num_samples: expected an integer >= 3, got 2"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
