"""The slow drift of averages that noise hides: an unbiased estimate of a squared slope.

G vectors x_i = a + b i + noise, whose noise correlates neighbours only, have

    E[sum_ij A_ij x_i x_j] = |b|^2    for A 1 = 0, sum_ij A_ij i j = 1, A_ij = 0 where |i - j| < 2

Where steps follow the natural gradient, |b|^2 per unit of time in the metric of the Fisher
information is the rate at which the ELBO rises, in a direction of small curvature too.
"""

from functools import cache

import numpy as np

from lvm_jax.typing import Float

NUM_GROUPS = 8  # G


def squared_slope(products: Float[np.ndarray, "G G"]) -> tuple[float, float]:
    """|b|^2 from the inner products x_i x_j, and its standard error.

    The error is from the products of the residuals of a straight line, which have the mean 0.
    """
    number = len(products)
    weights = _weights(number)
    line = np.stack([np.ones(number), np.arange(number)], 1)
    rest = np.eye(number) - line @ np.linalg.pinv(line)
    residual = rest @ products @ rest
    square = (residual[weights != 0] ** 2).mean()
    return float((weights * products).sum()), float(np.sqrt(2 * square * (weights**2).sum()))


@cache
def _weights(number: int) -> Float[np.ndarray, "G G"]:
    """The symmetric A of least norm with the three conditions above."""
    rows, columns = np.triu_indices(number, 2)
    place = np.arange(number) - (number - 1) / 2
    pair = np.arange(rows.size)
    conditions = np.zeros((number + 1, rows.size))
    conditions[rows, pair] = conditions[columns, pair] = 1
    conditions[number] = 2 * place[rows] * place[columns]
    found = np.zeros((number, number))
    found[rows, columns] = np.linalg.lstsq(conditions, np.eye(number + 1)[number], rcond=None)[0]
    return found + found.T
