"""What the estimators of the `evidence_lab` experiment answer, beside the truth."""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from experiments import evidence_lab_methods as methods
from experiments.evidence_lab_beds import Bed, Data
from experiments.marginal_likelihood_figures import error_bar
from lvm_jax import evidence
from lvm_jax.typing import Array, Key

if TYPE_CHECKING:
    from collections.abc import Callable

    from experiments.evidence_lab import Config

TRUSTED = 0.5  # k-hat: below it the weights have a variance, on which an interval stands


class Share(NamedTuple):
    """A share of n cases, and its Clopper-Pearson 95% interval."""

    share: float
    low: float
    high: float
    of: int


class Cell(NamedTuple):
    """One method at one budget on N data sets; errors are log p-hat - log p in nats."""

    cost: float  # mean evaluations of the joint density or its gradient
    errors: np.ndarray  # [N]
    k_hat: np.ndarray  # [N]
    holds: np.ndarray  # [N] booleans: is log p in the interval?
    rmse: float
    rmse_error: float  # its standard error over the data sets
    mean_error: float
    mean_error_error: float
    quantiles: np.ndarray  # 5%, 50%, 95% of the errors
    coverage: Share
    too_low: float  # share of intervals that lie below log p
    too_high: float  # and above it
    width: float  # median half-width of the intervals
    trusted: Share  # coverage where k-hat <= TRUSTED

    def numbers(self) -> dict[str, Any]:
        """All but what every data set has, for a file."""
        large = ("errors", "k_hat", "holds")
        plain = {name: value for name, value in self._asdict().items() if name not in large}
        return {**plain, "coverage": self.coverage._asdict(), "trusted": self.trusted._asdict()}


class Certified(NamedTuple):
    """What `certify` answered, and how."""

    cell: Cell
    within: float  # share of data sets that it certifies
    holds_within: Share  # coverage of those
    close: Share  # |error| <= tolerance, of those
    annealed: float  # share that annealed chains answered
    num_rounds: int

    def numbers(self) -> dict[str, Any]:
        """For a file."""
        shares = {name: getattr(self, name)._asdict() for name in ("holds_within", "close")}
        return {**self._asdict(), **shares, "cell": self.cell.numbers()}


def share(good: np.ndarray) -> Share:
    """Of booleans [n]; of none it is unknown, NaN, and its interval [0, 1]."""
    from scipy.stats import beta

    hits, size = int(good.sum()), good.size
    low = beta.ppf(0.025, hits, size - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, size - hits) if hits < size else 1.0
    return Share(hits / size if size else np.nan, float(low), float(high), size)


def cell(found: methods.Answers, truth: np.ndarray) -> Cell:
    """The answers beside the truth."""
    errors = np.asarray(found.log_evidence, float) - truth
    low, high = (np.asarray(side, float) for side in (found.low, found.high))
    # An interval without limits, of a point that `certify` does not answer for, states nothing.
    holds = (low <= truth) & (truth <= high) & np.isfinite(high - low)
    one = Cell(
        cost=float(found.cost.mean()),
        errors=errors,
        k_hat=found.k_hat,
        holds=holds,
        rmse=float(np.sqrt((errors**2).mean())),
        rmse_error=0.0,
        mean_error=float(errors.mean()),
        mean_error_error=float(errors.std(ddof=1) / errors.size**0.5),
        quantiles=np.quantile(errors, [0.05, 0.5, 0.95]),
        coverage=share(holds),
        too_low=float((high < truth).mean()),
        too_high=float((low > truth).mean()),
        width=float(np.median(0.5 * (high - low))),
        trusted=share(holds[found.k_hat <= TRUSTED]),
    )
    return one._replace(rmse_error=error_bar(one))


def measure(
    bed: Bed, data: Data, key: Key[Array, ""], config: "Config", told: "Callable[[str], None]"
) -> dict[str, list[Cell | None]]:
    """Every method at every budget; None where a budget is too small for a method."""
    columns: dict[str, methods.Column] = {}
    kinds = (methods.by_weights, methods.by_telescopes, methods.by_chains)
    for own, kind in zip(jax.random.split(key, len(kinds)), kinds, strict=True):
        columns |= kind(own, bed, data, config)
        told(f"{bed.name}: {kind.__name__.removeprefix('by_')}")
    return {
        name: [one and cell(one, data.log_evidence) for one in columns[name]]
        for name in methods.METHODS
        if name in columns
    }


def certify(bed: Bed, data: Data, key: Key[Array, ""], config: "Config") -> Certified:
    """`evidence.certify` on all data sets at once, each of which it answers as if alone."""
    found = evidence.certify(
        key, bed.model, bed.guide, bed.theta, (), data.x, tolerance=config.tolerance,
        level=config.level, budget=config.certify_budget, transition=bed.transition,
        gradients_per_move=bed.move_cost,
    )  # fmt: skip
    answers = methods.Answers(found.log_evidence, found.low, found.high, found.k_hat, found.cost)
    one = cell(answers, data.log_evidence)
    return Certified(
        one,
        float(found.within.mean()),
        share(one.holds[found.within]),
        share((np.abs(one.errors) <= config.tolerance)[found.within]),
        float((found.method == "annealed").mean()),
        len(found.rounds),
    )
