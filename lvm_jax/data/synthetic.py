"""Synthetic data with a known generating mixture."""

import numpy as np

from lvm_jax.data.dataset import Dataset, Truth


def three_clusters() -> Dataset:
    """Three Gaussian clusters of 500 points each in the plane, the example of the documentation.

    A row is x = z C + mu with z ~ N(0, I), so that a component has covariance C^T C. The draws are
    those of `np.random.seed(0)`. Labels are 0, 1, 2 in the order drawn; units are arbitrary.
    """
    per_cluster = 500
    factors = np.array(
        [[[0.0, -0.1], [1.7, 0.4]], [[0.0, 1.0], [2.0, 0.1]], [[0.7, 0.0], [0.0, 0.7]]]
    )
    means = np.array([[0.0, 0.0], [-2.5, 1.0], [-6.0, 3.0]])
    random = np.random.RandomState(0)
    x1 = np.dot(random.randn(per_cluster, 2), factors[0])
    x2 = np.dot(random.randn(per_cluster, 2), factors[1]) + means[1]
    x3 = 0.7 * random.randn(per_cluster, 2) + means[2]
    return Dataset(
        name="three_clusters",
        source="three Gaussian clusters of 500 points each (seed 0)",
        x=np.vstack([x1, x2, x3]),
        columns=("x1", "x2"),
        units=("arbitrary units", "arbitrary units"),
        labels=np.repeat(np.arange(3), per_cluster),
        truth=Truth(np.full(3, 1 / 3), means, np.einsum("kji,kjl->kil", factors, factors)),
    )
