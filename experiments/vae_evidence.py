"""log p of the test images of the `vae` experiment: by draws of q, by chains, or to a tolerance."""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from scipy.stats import norm

from lvm_jax import annealing, evidence
from lvm_jax.evidence import Certificate, Evidence, Summary
from lvm_jax.evidence.result import describe
from lvm_jax.typing import Array, Key, Params

if TYPE_CHECKING:
    from experiments.vae_setup import Prepared

METHODS = IMPORTANCE, ANNEALED, CERTIFY = ("importance", "annealed", "certify")
NUM_PILOT = 8  # chains that set the step sizes
LEVEL = 0.95


class LogP(NamedTuple):
    """log p of the test images by one method."""

    method: str
    how: str  # in words
    points: Evidence  # leaves [n]
    summary: Summary

    @property
    def reliable(self) -> bool:
        """Whether the errors can be trusted at every image."""
        return not self.summary.num_untrusted

    @property
    def flag(self) -> str:
        """What is added to the number; nothing where it is reliable."""
        summary = self.summary
        if self.reliable:
            return ""
        return f"NOT RELIABLE at {summary.num_untrusted:,} of {summary.num_points:,} images"

    def __str__(self) -> str:
        """The number with its errors, and the flag."""
        value, errors = self.summary.log_evidence, (
            self.summary.monte_carlo_error, self.summary.sampling_error,
        )  # fmt: skip
        number = f"log p {value:.3f} ± {errors[0]:.3f} (Monte Carlo) ± {errors[1]:.3f} (sampling)"
        return f"{number} nats per image{', ' if self.flag else ''}{self.flag}"

    def as_numbers(self) -> dict[str, Any]:
        """What results.json holds."""
        return {
            "method": self.method,
            "how": self.how,
            **self.summary._asdict(),
            "reliable": self.reliable,
            "verdict": describe(np.where(self.points.likely_low, self.points.failed, 0)),
        }


def measure(
    key: Key[Array, ""], prepared: "Prepared", theta: Params, phi: Params, x: np.ndarray
) -> list[LogP]:
    """log p of the rows of x by importance sampling, and by the method of `config.evidence`."""
    found = [by_importance(key, prepared, theta, phi, x)]
    other = {ANNEALED: by_annealing, CERTIFY: by_certifying}.get(prepared.config.evidence)
    if other is not None:
        found.append(other(jax.random.fold_in(key, 1), prepared, theta, phi, x))
    return [log_p(*one) for one in found]


def log_p(method: str, how: str, points: Evidence) -> LogP:
    """With its summary, as numbers of the host."""
    summary = Summary(*(np.asarray(leaf).item() for leaf in evidence.summarize(points)))
    return LogP(method, how, jax.tree.map(np.asarray, points), summary)


def by_importance(
    key: Key[Array, ""], prepared: "Prepared", theta: Params, phi: Params, x: np.ndarray
) -> tuple[str, str, Evidence]:
    """Draws of the guide."""
    (model, _, guide), size = prepared.built, prepared.config.evidence_samples
    points = evidence.evaluate(key, model, guide, theta, phi, x, size)
    return IMPORTANCE, f"importance sampling from the guide with {size:,} draws each", points


def by_annealing(
    key: Key[Array, ""], prepared: "Prepared", theta: Params, phi: Params, x: np.ndarray
) -> tuple[str, str, Evidence]:
    """Annealed chains from the guide, or from the prior where moves cannot differentiate log q."""
    (model, _, guide), config = prepared.built, prepared.config
    chains, temperatures = config.evidence_chains, config.evidence_temperatures
    plan = annealing.plan(annealing.sigmoid(temperatures), num_pilot=NUM_PILOT, adaptive=True)
    start = None if config.guide == "iaf" else guide
    found = evidence.evaluate_annealed(key, model, start, theta, phi, x, chains, plan)
    origin = "prior" if start is None else "guide"
    how = f"{chains} annealed chains each from the {origin} over {temperatures} temperatures"
    return ANNEALED, how, found.evidence


def by_certifying(
    key: Key[Array, ""], prepared: "Prepared", theta: Params, phi: Params, x: np.ndarray
) -> tuple[str, str, Evidence]:
    """The method that each image needs for an interval of `evidence_tolerance`."""
    (model, _, guide), config = prepared.built, prepared.config
    tolerance, budget = config.evidence_tolerance, config.evidence_budget
    found = evidence.certify(
        key, model, guide, theta, phi, x, tolerance=tolerance, level=LEVEL, budget=budget
    )
    how = (
        f"certify to {tolerance:g} nats ({found.num_open} images open after {budget:g} evaluations)"
    )
    return CERTIFY, how, as_evidence(found)


class Difference(NamedTuple):
    """How far importance sampling is below another method, where that is reliable."""

    mean: float  # nats per image
    error: float  # Monte Carlo, by what both methods say of their errors
    num_points: int


def difference(one: LogP, other: LogP) -> Difference | None:
    """log p by `one` minus log p by `other`, over the images where `one` is reliable, if any."""
    where = np.asarray(one.points.failed) == 0
    if not where.any():
        return None
    values = [np.asarray(each.points.log_evidence, np.float64)[where] for each in (one, other)]
    errors = [np.asarray(each.points.standard_error, np.float64)[where] for each in (one, other)]
    number = int(where.sum())
    error = float(np.sqrt((np.square(errors)).sum()) / number)
    return Difference(float((values[0] - values[1]).mean()), error, number)


def as_evidence(found: Certificate) -> Evidence:
    """A certificate's answers; the standard error is the half-width over the normal quantile.

    It is infinite where the interval is not to be trusted.
    """
    half = 0.5 * (found.high - found.low) / norm.ppf(0.5 + found.level / 2)
    none = np.zeros(len(half), np.int32)
    unknown = np.full(len(half), np.nan)
    values = (found.log_evidence, half, unknown, found.k_hat)
    return Evidence(*(v.astype(np.float32) for v in values), none, none, none, none, found.failed)
