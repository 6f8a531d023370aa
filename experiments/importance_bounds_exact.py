"""Expectations of bounds without sampling: log-weights as a list of values with probabilities.

A bound that is the logarithm of an average of independent positive numbers has the expectation
(Frullani's integral, with phi the Laplace transform of the distribution of one of them)

    E[log (1/S) sum_s w_s] = integral over u from 0 to infinity of (e^(-S u) - phi(u)^S) / u du

which turns S-fold expectations into one sum. It gives IWAE, and with powers of w the Renyi bounds and
CUBO, for every S; MIWAE and the jackknife of any order are combinations of IWAE at several S.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from lvm_jax.typing import Float

STEP = 0.2  # of log u: the integrand is analytic in a strip of pi / 2, so this leaves e^(-49)
NEGLIGIBLE = 1e-25  # probability of a value that no expectation here would miss


class Atoms(NamedTuple):
    """The distribution under q of log w - log p(x), as M values and their log-probabilities."""

    log_w: Float[np.ndarray, " M"]
    log_probs: Float[np.ndarray, " M"]
    is_grid: bool  # nodes of a quadrature, in order, and not all the values that there are

    def moment(self, order: float) -> float:
        """log E_q[(w / p)^order]; inf where the integral grows to the end of its grid."""
        terms = self.log_probs + order * self.log_w
        if self.is_grid and int(np.argmax(terms)) in (0, len(terms) - 1):
            return math.inf
        return float(logsumexp(terms))

    def central_moment(self, order: int) -> float:
        """E_q[(w / p - 1)^order]."""
        return float(np.exp(self.log_probs) @ np.expm1(self.log_w) ** order)

    def mean_log(self, beta: float) -> float:
        """The mean of log w - log p(x) under q^(1 - beta) posterior^beta."""
        log_mass = self.log_probs + beta * self.log_w
        return float(np.exp(log_mass - logsumexp(log_mass)) @ self.log_w)


def make_atoms(log_w: np.ndarray, log_probs: np.ndarray, is_grid: bool) -> Atoms:
    """Atoms without those of negligible probability, normalised."""
    keep = log_probs > log_probs.max() + math.log(NEGLIGIBLE)
    kept = log_probs[keep]
    return Atoms(log_w[keep], kept - logsumexp(kept), is_grid)


class LogMean:
    """E[log (1/S) sum_s w_s^power] / power for any S, from one pass over the atoms."""

    def __init__(self, atoms: Atoms, power: float = 1.0) -> None:
        self.atoms, self.power = atoms, power
        values = power * atoms.log_w
        low, high = -values.max() - 50.0, -values.min() + 5.0
        self.log_u = np.arange(low - math.log(1e6), high + STEP, STEP)
        probs = np.exp(atoms.log_probs)
        tilted = np.exp(atoms.log_probs + atoms.log_w)  # the posterior, where the atoms are q
        drop = [
            self._drop(log_u, values, (probs, tilted)) for log_u in np.array_split(self.log_u, 64)
        ]
        self.drop_q, self.drop_posterior = np.concatenate(drop, axis=1)

    @staticmethod
    def _drop(
        log_u: np.ndarray, values: np.ndarray, masses: Sequence[np.ndarray]
    ) -> Float[np.ndarray, "2 U"]:
        """1 - phi(u) under each of the masses, with all digits where it is small."""
        inner = -np.expm1(-np.exp(np.minimum(log_u[:, None] + values[None], 700.0)))
        return np.stack([inner @ mass for mass in masses])

    def __call__(self, num_samples: int, posterior_draws: int = 0) -> float:
        """The expectation where `posterior_draws` of the S come from the posterior, not from q."""
        with np.errstate(divide="ignore", over="ignore"):
            log_phi = np.log1p(-np.minimum(self.drop_q, 1.0))
            log_other = np.log1p(-np.minimum(self.drop_posterior, 1.0))
            counts = ((num_samples - posterior_draws, log_phi), (posterior_draws, log_other))
            joint = sum(count * log for count, log in counts if count)
            u = num_samples * np.exp(np.minimum(self.log_u, 700.0))
        integrand = np.expm1(-u) - np.expm1(joint)
        return float(STEP * integrand.sum() / self.power)


def jackknife(log_mean: Callable[[int], float], order: int, num_samples: int) -> float:
    """The expectation of the jackknife: sum_j c_j E[L_{S-j}] (Nowozin 2018, equation 11)."""
    total = 0.0
    for j in range(order + 1):
        c = (-1) ** j * float(num_samples - j) ** order
        total += c / (math.factorial(j) * math.factorial(order - j)) * log_mean(num_samples - j)
    return total


def iwae_coefficients(atoms: Atoms) -> tuple[float, float]:
    """a and b of log p - E[L_S] = a / S + b / S^2 + O(S^-3): delta method to fourth order."""
    second, third = atoms.central_moment(2), atoms.central_moment(3)
    return second / 2, 0.75 * second**2 - third / 3
