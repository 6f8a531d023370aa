"""Exact second moments of importance weights, against quadrature."""

import math

import numpy as np
import pytest
from scipy import stats

from lvm_jax.distributions import FullRankNormal
from lvm_jax.problems import second_moment


def of_mean_field(correlation, mean=(0.0, 0.0)):
    """Of the normal with unit variances and the best mean-field q, whose variances are 1 - r^2."""
    cholesky = np.linalg.cholesky(np.array([[1.0, correlation], [correlation, 1.0]]))
    q = FullRankNormal(np.asarray(mean), np.sqrt(1 - correlation**2) * np.eye(2))
    return second_moment.of_normals(FullRankNormal(np.zeros(2), cholesky), q)


def test_a_mean_field_q_has_no_variance_where_it_is_too_narrow():
    # 2 V^-1 - diag(V^-1) is positive definite while the correlation is below 1/2.
    assert of_mean_field(0.49) < math.inf
    assert of_mean_field(0.51) == math.inf


@pytest.mark.parametrize("mean", [(0.0, 0.0), (0.3, -0.2)])
def test_the_second_moment_is_its_integral(mean):
    post = stats.multivariate_normal(np.zeros(2), [[1.0, 0.3], [0.3, 1.0]])
    q = stats.multivariate_normal(mean, np.eye(2) * (1 - 0.3**2))
    axis = np.linspace(-9, 9, 601)
    grid = np.stack(np.meshgrid(axis, axis), -1)
    value = np.exp(2 * post.logpdf(grid) - q.logpdf(grid)).sum() * (axis[1] - axis[0]) ** 2
    assert of_mean_field(0.3, mean) == pytest.approx(math.log(value), abs=1e-6)
