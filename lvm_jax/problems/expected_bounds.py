"""Exact expectations of bounds on log p(x) from the distribution of the log-weights.

The logarithm of an average of S independent positive numbers v_s has the expectation (Frullani's
integral, with the Laplace transform phi(u) = E[e^(-u v)])

    E[log (1/S) sum_s v_s] = integral over u from 0 to infinity of (e^(-S u) - phi(u)^S) / u du

which replaces an S-fold expectation by one sum. v = w gives the IWAE bound, powers of w give the
Renyi bounds and CUBO. MIWAE and the jackknife are combinations of IWAE for several S.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from lvm_jax._core import checks
from lvm_jax.typing import ArrayLike, Float

STEP = 0.2  # of log u; the integrand is analytic in a strip of pi / 2, so that the error is e^(-49)
NEGLIGIBLE = 1e-25  # relative probability below which a value is dropped
CHUNKS = 64  # of the sum over u, to limit memory


class WeightLaw(NamedTuple):
    """The distribution of log w - log p(x) under q: M values, in nats, and their probabilities."""

    log_w: Float[np.ndarray, " M"]
    log_probs: Float[np.ndarray, " M"]
    is_grid: bool  # whether the values are ordered nodes of a quadrature

    def moment(self, order: float) -> float:
        """log E_q[(w / p)^order]; inf if the largest term of a grid is at one of its ends."""
        terms = self.log_probs + order * self.log_w
        if self.is_grid and int(np.argmax(terms)) in (0, len(terms) - 1):
            return math.inf
        return float(logsumexp(terms))

    def central_moment(self, order: int) -> float:
        """E_q[(w / p - 1)^order]; order 2 is Var(w) / p(x)^2."""
        return float(np.exp(self.log_probs) @ np.expm1(self.log_w) ** order)

    def mean_log(self, beta: float) -> float:
        """The mean of log w - log p(x) under q^(1 - beta) posterior^beta, in nats.

        beta = 0 is ELBO - log p(x), beta = 1 is EUBO - log p(x).
        """
        log_mass = self.log_probs + beta * self.log_w
        return float(np.exp(log_mass - logsumexp(log_mass)) @ self.log_w)

    def iwae_coefficients(self) -> tuple[float, float]:
        """a and b of log p - E[IWAE_S] = a / S + b / S^2 + O(S^-3), by the delta method."""
        second, third = self.central_moment(2), self.central_moment(3)
        return second / 2, 0.75 * second**2 - third / 3


def weight_law(log_w: ArrayLike, log_probs: ArrayLike, is_grid: bool = False) -> WeightLaw:
    """The law of values log w - log p(x), [M], with log-probabilities [M] up to a constant.

    The probabilities are normalised; values of negligible probability are dropped. With `is_grid`
    the values belong to the nodes of an equidistant quadrature, in order, and `log_probs` are
    log-densities at the nodes.

    Raises ValueError for arrays that are not both [M], a value that is not finite, or a NaN.
    """
    values, mass = (np.asarray(part, np.float64) for part in (log_w, log_probs))
    if values.ndim != 1 or values.size == 0 or values.shape != mass.shape:
        raise ValueError(
            f"log_w, log_probs: expected two arrays of shape [M], got {values.shape} and "
            f"{mass.shape}"
        )
    checks.finite(np.where(mass == -np.inf, 0.0, mass), "log_probs")
    keep = mass > mass.max() + math.log(NEGLIGIBLE)
    checks.finite(values[keep], "log_w")
    return WeightLaw(values[keep], mass[keep] - logsumexp(mass[keep]), is_grid)


class LogMean:
    """E[log (1/S) sum_s (w_s / p)^power] / power, in nats, for any S.

    This is bound - log p(x): power 1 is IWAE, 1 - alpha the Renyi bound of order alpha, n CUBO.
    """

    def __init__(self, law: WeightLaw, power: float = 1.0) -> None:
        values = power * law.log_w
        low, high = -values.max() - 50.0, -values.min() + 5.0
        self._power, self._log_u = power, np.arange(low - math.log(1e6), high + STEP, STEP)
        masses = np.exp(np.stack([law.log_probs, law.log_probs + law.log_w], axis=1))
        # 1 - phi(u) under q and under the posterior, without cancellation.
        self._drop = np.concatenate(
            [
                -np.expm1(-np.exp(np.minimum(log_u[:, None] + values[None], 700.0))) @ masses
                for log_u in np.array_split(self._log_u, CHUNKS)
            ]
        )

    def __call__(self, num_samples: int, posterior_draws: int = 0) -> float:
        """The expectation with `posterior_draws` of the S draws from the posterior, others from q.

        Raises ValueError for S < 1 or posterior_draws > S.
        """
        num_samples = checks.integer(num_samples, "num_samples", 1)
        others = checks.integer(posterior_draws, "posterior_draws", 0)
        if others > num_samples:
            raise ValueError(
                f"posterior_draws: expected at most num_samples = {num_samples}, got {others}"
            )
        with np.errstate(divide="ignore", over="ignore"):
            log_phi = np.log1p(-np.minimum(self._drop, 1.0)).T
            counts = (num_samples - others, others)
            joint = sum(count * log for count, log in zip(counts, log_phi, strict=True) if count)
            u = num_samples * np.exp(np.minimum(self._log_u, 700.0))
        integrand = np.expm1(-u) - np.expm1(joint)
        return float(STEP * integrand.sum() / self._power)


def jackknife(log_mean: Callable[[int], float], order: int, num_samples: int) -> float:
    """E[`bounds.jackknife`] - log p(x) = sum_j c_j (E[IWAE_{S-j}] - log p(x)), in nats.

    `log_mean` is a `LogMean`. Raises ValueError unless 0 <= order < S.
    Source: Nowozin (2018), equation 11.
    """
    order = checks.integer(order, "order", 0)
    num_samples = checks.integer(num_samples, "num_samples", order + 1)
    total = 0.0
    for j in range(order + 1):
        c = (-1) ** j * float(num_samples - j) ** order
        total += c / (math.factorial(j) * math.factorial(order - j)) * log_mean(num_samples - j)
    return total
