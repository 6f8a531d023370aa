"""Fits from the labels of another clustering."""

import jax
import numpy as np
import pytest
from scipy.cluster import hierarchy

from lvm_jax import data, em

KEY = jax.random.key(0)
FAITHFUL = np.asarray(data.old_faithful().x, np.float64)


def ward(x, number):
    """Ward's clusters of the rows in mclust's coordinates: principal axes, scaled."""
    standard = (x - x.mean(0)) / x.std(0, ddof=1)
    _, lengths, axes = np.linalg.svd(standard, full_matrices=False)
    tree = hierarchy.linkage(standard @ axes.T / np.sqrt(lengths), "ward")
    return hierarchy.fcluster(tree, number, "maxclust") - 1


def test_ward_s_clusters_lead_to_mclusts_three_components(x64):
    """And its tolerance, 1e-5 of the log-likelihood, to the statistic that it prints."""
    size, two = len(FAITHFUL), -1130.264
    options = {"start": ward(FAITHFUL, 3), "regularization": 0.0, "max_steps": 2000}
    fit = em.fit(KEY, FAITHFUL, 3, tolerance=1e-5 * (1 - two) / size, **options)
    early = fit.info.restart_objectives[0] * size
    assert abs(2 * (early - two) - 6.13) < 0.005  # mclustBootstrapLRT
    fit = em.fit(KEY, FAITHFUL, 3, tolerance=1e-10, **options)
    assert abs(fit.info.log_likelihood * size + 1127.0717) < 1e-4


def test_labels_are_the_responsibilities_of_the_first_m_step(x64):
    """With weights; a missing entry is the mean of its column."""
    labels, weight = ward(FAITHFUL, 3), np.arange(len(FAITHFUL)) % 3 + 1.0
    x = FAITHFUL.copy()
    x[:5, 1] = np.nan
    options = {"sample_weight": weight, "regularization": 0.0, "max_steps": 0, "throw": False}
    fit = em.fit(KEY, x, 3, "diag", start=labels, **options)
    filled = np.where(np.isnan(x), np.nanmean(x, 0), x)
    hot = (labels[:, None] == np.arange(3)) * weight[:, None]
    means = hot.T @ filled / hot.sum(0)[:, None]
    np.testing.assert_allclose(fit.mixture.means, means, rtol=1e-10)
    variances = hot.T @ filled**2 / hot.sum(0)[:, None] - means**2
    np.testing.assert_allclose(fit.mixture.components.scale**2, variances, rtol=1e-6)
    np.testing.assert_allclose(fit.mixture.weights, hot.sum(0) / weight.sum(), rtol=1e-12)
    options = {"sample_weight": weight, "regularization": 0.0}
    begun = em.initialize(KEY, x, 3, "diag", start=labels, **options)
    np.testing.assert_allclose(begun.means, means[None], rtol=1e-10)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (np.zeros(272, int), r"start: expected a label 0 to 2 for each row, .* got \[0\]"),
        (np.arange(272) % 4 - 1, r"start: expected a label 0 to 2 .* got \[-1, 0, 1, 2\]"),
        (np.arange(272) % 4, "start: expected labels 0 to 2, .* got 3 at row 3"),
        (np.arange(9) % 3, "start: expected shape"),
    ],
)
def test_labels_are_refused_by_name(start, words):
    with pytest.raises(ValueError, match=words):
        em.fit(KEY, FAITHFUL, 3, start=start)
    with pytest.raises(TypeError, match="start: expected integers, .* got float64"):
        em.fit(KEY, FAITHFUL, 3, start=np.zeros(272))
