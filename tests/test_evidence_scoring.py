"""Shares and errors of estimates against a truth, and the larger of two estimates."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binomtest

from lvm_jax import evidence
from lvm_jax.evidence import scoring


@pytest.mark.parametrize(("hits", "size"), [(0, 7), (7, 7), (3, 20), (190, 200)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_of_shares_are_scipys_exact_ones(hits, size, level):
    found = scoring.share(np.arange(size) < hits, level)
    want = binomtest(hits, size).proportion_ci(level, method="exact")
    assert found == pytest.approx((hits / size, want.low, want.high, size), abs=1e-9)


def test_the_share_of_no_cases_is_nan_and_wrong_levels_are_refused():
    found = scoring.share(np.zeros(0, bool))
    assert np.isnan(found.share)
    assert found[1:] == (0, 1, 0)
    with pytest.raises(ValueError, match=r"level: expected a probability in \(0, 1\), got 95"):
        scoring.share(np.ones(3, bool), 95)


def test_the_standard_error_of_an_rmse_is_its_spread_over_repeats():
    errors = np.random.default_rng(0).normal(0.3, 1.0, (4_000, 200))
    found, reported = np.array([scoring.rmse(row) for row in errors]).T
    assert found.mean() == pytest.approx(np.sqrt(1.09), abs=3e-3)
    # E e^4 - (E e^2)^2 = 2 sd^4 + 4 sd^2 mean^2
    law = np.sqrt((2 + 4 * 0.09) / 200) / (2 * np.sqrt(1.09))
    assert found.std() == pytest.approx(law, rel=0.04)
    assert reported.mean() == pytest.approx(law, rel=0.04)


def test_the_rmse_of_known_errors():
    assert scoring.rmse(np.array([3.0, -4.0]))[0] == pytest.approx(np.sqrt(12.5), rel=1e-15)
    value, error = scoring.rmse(np.array([-2.0]))
    assert value == 2
    assert np.isnan(error)


def test_the_larger_estimate_keeps_its_error_and_checks():
    log_w = jnp.log(jnp.array([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]))
    low, high = (evidence.from_log_weights(row) for row in log_w[::-1])
    for one in (evidence.larger(low, high), evidence.larger(high, low)):
        for got, want in zip(one, high, strict=True):
            np.testing.assert_array_equal(got, want)
