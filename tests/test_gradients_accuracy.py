"""Bias and variance of gradients from blocks: a known bias, and none."""

import numpy as np
import pytest

from lvm_jax import gradients


def test_a_known_bias_is_found_without_its_noise():
    # 20 blocks of means with standard error 1 around a bias of length 5 in 50 dimensions
    rng = np.random.default_rng(0)
    exact, bias = np.full(50, 2.0), np.full(50, 5 / np.sqrt(50))
    scale = np.linalg.norm(exact)
    means = exact + bias + rng.normal(size=(20, 50))
    found = gradients.accuracy(means, np.full(20, 9.0), exact)
    assert found.is_seen
    # of an average of 20: sd along the bias 1 / sqrt(20)
    assert abs(found.bias.value * scale - 5) < 5 / np.sqrt(20)
    assert 0.5 / np.sqrt(20) < found.bias.standard_error * scale < 2 / np.sqrt(20)
    assert found.variance.value == pytest.approx(9 / scale**2, rel=1e-12)
    assert not gradients.accuracy(means - bias, np.full(20, 9.0), exact).is_seen


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="means: expected at least 3 blocks, got 2"):
        gradients.accuracy(np.ones((2, 4)), np.ones(2), np.ones(4))
    with pytest.raises(ValueError, match="exact: expected a gradient that is not 0"):
        gradients.accuracy(np.ones((3, 4)), np.ones(3), np.zeros(4))
