"""The test problem of discrete gradients: minimise E[(b - t)^2], b ~ Bernoulli(sigmoid(l)), over l.

The functions return the exact mean and variance of one gradient of each estimator at l = 0, for t
in (0, 1). The derivative there is (1 - 2 t) / 4, which vanishes for t near 1/2, where the variance
of REINFORCE does not. No units; float64.

Source: Tucker et al. (2017, REBAR), section 5; Yin and Zhou (2019, ARM); Dong, Mnih and Tucker
(2020, DisARM).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import expit

Function = Callable[[np.ndarray], np.ndarray]
NODES = 1_500  # of the midpoint rule for each of two uniforms


class Gradient(NamedTuple):
    """Mean and variance of one draw of the gradient in l, at l = 0."""

    mean: float
    variance: float


def exact(t: float) -> Gradient:
    """Enumeration of b, and DisARM: sigmoid'(0) (f(1) - f(0)) = (1 - 2 t) / 4, variance 0."""
    return Gradient((1 - 2 * t) / 4, 0.0)


def score_function(t: float, baseline: float = 0.0) -> Gradient:
    """(f(b) - c) (b - 1/2), c = baseline: (f(1) - c) / 2 or -(f(0) - c) / 2, equally likely."""
    return Gradient(exact(t).mean, (((1 - t) ** 2 + t**2 - 2 * baseline) / 4) ** 2)


def leave_one_out(t: float) -> Gradient:
    """RLOO of two draws: 0 if they are equal, otherwise (f(1) - f(0)) / 2."""
    return Gradient(exact(t).mean, exact(t).mean ** 2)


def arm(t: float) -> Gradient:
    """ARM with one u: (1 - 2 t) |u - 1/2|."""
    return Gradient(exact(t).mean, exact(t).mean ** 2 / 3)


def straight_through(t: float) -> Gradient:
    """f'(b) / 4 = (b - t) / 2, which is unbiased at l = 0 for a quadratic f."""
    return Gradient(exact(t).mean, 1 / 16)


def concrete(t: float, temperature: float) -> Gradient:
    """f'(s) s (1 - s) / temperature, s = sigmoid(z / temperature), z logistic; by quadrature."""
    u = (np.arange(1_000_000) + 0.5) / 1_000_000
    s = expit(np.log(u / (1 - u)) / temperature)
    return _gradient(2 * (s - t) * s * (1 - s) / temperature)


def controlled(t: float, control: Function, derivative: Function) -> Gradient:
    """(f(b) - c(z')) (b - 1/2) + c'(z) - c'(z') dz'/dl over two uniforms; by quadrature.

    z is logistic, b = [z > 0], and z' given b is sign(b - 1/2) log(1 + 2 exp(n)), n logistic,
    with derivative sigmoid(n + log 2) / 2 in l. `control` is c and `derivative` is c', elementwise.
    """
    u = (np.arange(NODES) + 0.5) / NODES
    z, n = np.meshgrid(np.log(u / (1 - u)), np.log(u / (1 - u)), indexing="ij")
    b = (z > 0).astype(float)
    tied = (2 * b - 1) * np.logaddexp(0, n + np.log(2))
    path = derivative(z) - derivative(tied) * expit(n + np.log(2)) / 2
    return _gradient(((b - t) ** 2 - control(tied)) * (b - 0.5) + path)


def rebar(t: float, temperature: float) -> Gradient:
    """`controlled` with the relaxed objective c(z) = (sigmoid(z / temperature) - t)^2."""
    soft = lambda z: expit(z / temperature)  # noqa: E731
    return controlled(
        t,
        lambda z: (soft(z) - t) ** 2,
        lambda z: 2 * (soft(z) - t) * soft(z) * (1 - soft(z)) / temperature,
    )


def _gradient(draws: np.ndarray) -> Gradient:
    return Gradient(float(draws.mean()), float(draws.var()))
