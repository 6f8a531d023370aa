"""The toy of discrete gradients: derived means and variances against published and exact values."""

import numpy as np
import pytest

from lvm_jax.problems import one_bit

TARGETS = pytest.mark.parametrize("t", [0.45, 0.499, 0.2])


@pytest.mark.parametrize(
    ("t", "gradient", "reinforce", "arm"),
    [(0.45, 0.025, 0.015939, 2.083e-4), (0.499, 5e-4, 0.015625, 8.33e-8)],
)
def test_published_values(t, gradient, reinforce, arm):
    assert one_bit.exact(t) == pytest.approx((gradient, 0.0))
    assert one_bit.score_function(t) == pytest.approx((gradient, reinforce), rel=1e-4)
    assert one_bit.arm(t) == pytest.approx((gradient, arm), rel=1e-3)


@TARGETS
def test_a_sum_over_the_outcomes_gives_the_moments(t):
    f = np.array([t**2, (1 - t) ** 2])
    for found, draws in (
        (one_bit.score_function(t, 0.25), (f - 0.25) * [-0.5, 0.5]),
        (one_bit.leave_one_out(t), [0, 0, (f[1] - f[0]) / 2, (f[1] - f[0]) / 2]),
        (one_bit.straight_through(t), 2 * (np.array([0, 1]) - t) / 4),
    ):
        assert found == pytest.approx((np.mean(draws), np.var(draws)))


@TARGETS
def test_concrete_at_temperature_one_is_a_polynomial_of_a_uniform(t):
    # s is uniform: integrals of 2 (s - t) s (1 - s) and of its square, by beta functions.
    mean, square = (1 - 2 * t) / 6, 4 * (1 / 105 - t / 30 + t**2 / 30)
    assert one_bit.concrete(t, 1.0) == pytest.approx((mean, square - mean**2), rel=1e-8)


@TARGETS
def test_a_control_adds_no_bias(t):
    nothing = one_bit.controlled(t, np.zeros_like, np.zeros_like)
    assert nothing == pytest.approx(one_bit.score_function(t))
    assert one_bit.rebar(t, 0.5).mean == pytest.approx(one_bit.exact(t).mean, abs=1e-5)
