"""What the `inference_gaps` experiment measures: log p(x) in two ways, and the split of its gap."""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.inference_gaps_models import FAMILIES, Inputs, Trained, families
from experiments.progress import Progress
from lvm_jax import annealing, decomposition, evidence
from lvm_jax.decomposition import Account, Average, Gaps, Measured, average
from lvm_jax.evidence import Annealed, Bidirectional, Evidence
from lvm_jax.evidence.result import TRUSTED_K_HAT
from lvm_jax.typing import Array, Bool, Key

if TYPE_CHECKING:
    from experiments.inference_gaps import Config

LEVEL = 0.95  # of the intervals
BEYOND = 3.0  # errors by which an ELBO stands above an estimate of log p, if not by chance


class Found(NamedTuple):
    """One model: log p of N images in two ways, how far it can be trusted, and the gaps."""

    annealed: Annealed  # leaves [N, ...]
    importance: Evidence  # [N]
    bounds: Bidirectional  # of log p, on data of the model's own
    gaps: Gaps  # [N]


def measure(one: Trained, x: np.ndarray, config: "Config", bar: Progress) -> Found:
    """All numbers of one model. Every model gets the same keys, so that differences vary less."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1), 4)
    common = one.model, one.guide, one.theta, one.phi
    bounds = certify(keys[0], one, config)
    bar.done(f"{one.name}: {bounds.lower:.3f} <= log p <= {bounds.upper:.3f} on its own data")
    annealed = evidence.evaluate_annealed(
        keys[1], one.model, start(one, config), one.theta, one.phi, x, config.num_chains,
        plan(config),
    )  # fmt: skip
    bar.done(f"{one.name}: log p {annealed.evidence.log_evidence.mean():.3f} by annealed chains")
    importance = evidence.evaluate(keys[2], *common, x, config.importance_samples)
    bar.done(f"{one.name}: log p {importance.log_evidence.mean():.3f} by importance sampling")
    reference = annealed.evidence
    if config.reference == "larger":
        reference = larger(annealed.evidence, importance)
    gaps = decomposition.gaps(
        keys[3], *common, x, families=families(one.description, config),
        log_evidence=reference, num_samples=config.num_samples, num_steps=config.num_steps,
        num_draws=config.num_draws, num_starts=config.num_starts,
    )  # fmt: skip
    bar.done(f"{one.name}: log p - ELBO = {gaps.inference.value.mean():.3f}")
    return Found(*jax.device_get((annealed, importance, bounds, gaps)))


def plan(config: "Config") -> annealing.Plan:
    """The way of the chains, placed and tuned by pilot chains."""
    moves = annealing.hmc(config.num_leapfrogs)
    return annealing.plan(annealing.sigmoid(config.num_temperatures), moves, adaptive=True)


def start(one: Trained, config: "Config") -> Any:
    """The guide where the chains start there, else None, which is the prior."""
    return one.guide if config.start == "guide" else None


def certify(key: Key[Array, ""], one: Trained, config: "Config") -> Bidirectional:
    """What the same chains miss on data of the model, where an exact posterior draw is known."""
    return evidence.bidirectional(
        key, one.model, start(one, config), one.theta, one.phi, config.num_simulated,
        config.num_chains, plan(config),
    )  # fmt: skip


def larger(first: Evidence, second: Evidence) -> Evidence:
    """Of two estimates of each point, leaves [N], the larger.

    Both are low in expectation, so the larger comes nearer to log p; but the larger of two noisy
    numbers is high by a part of their errors, and is no longer a lower bound in expectation.
    """
    above = first.log_evidence >= second.log_evidence
    return jax.tree.map(lambda one, two: jnp.where(above, one, two), first, second)


def part_of(tree: Any, rows: Bool[np.ndarray, " N"]) -> Any:
    """The points `rows` of leaves [N, ...]; words stay."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, str) else leaf[rows], tree)


def gaps_of(gaps: Gaps, rows: Bool[np.ndarray, " N"]) -> Gaps:
    """The gaps of the points `rows`, the families in their order; jax sorts them by name."""
    part: Gaps = part_of(gaps, rows)
    return part._replace(families={name: part.families[name] for name in FAMILIES})


def measured(found: Evidence) -> Measured:
    """The evidence of N points as numbers with errors."""
    return Measured(found.log_evidence, found.standard_error)


def mean(found: Measured) -> dict[str, float | tuple[float, float]]:
    """A mean over the points, its two errors, and the interval for other points of their kind."""
    from scipy.stats import t

    told = Average(*(float(number) for number in average(found)))
    half = t.ppf(0.5 + LEVEL / 2, len(found.value) - 1) * told.sampling_error
    return {**told._asdict(), "interval": (told.value - half, told.value + half)}


def summary(found: Found, is_train: Bool[np.ndarray, " N"]) -> dict[str, Any]:
    """What results.json holds of one model."""
    bounds = found.bounds
    sides = ("lower", "lower_error", "upper", "upper_error", "gap", "gap_error")
    return {
        "simulated": {name: float(getattr(bounds, name)) for name in sides},
        "acceptance": float(found.annealed.acceptance.mean()),
        **{name: part_summary(found, rows) for name, rows in parts(is_train).items()},
    }


def parts(is_train: Bool[np.ndarray, " N"]) -> dict[str, Bool[np.ndarray, " N"]]:
    """The rows of both parts."""
    return {"train": is_train, "test": ~is_train}


def part_summary(found: Found, rows: Bool[np.ndarray, " N"]) -> dict[str, Any]:
    """log p, ELBO and gaps of the training or the test images, means with their errors."""
    gaps = gaps_of(found.gaps, rows)
    ways = {"annealed": found.annealed.evidence, "importance": found.importance}
    ways["larger"] = larger(*ways.values())
    return {
        "num_points": int(rows.sum()),
        "log_p": {name: mean(measured(part_of(way, rows))) for name, way in ways.items()},
        "untrusted": {name: untrusted(part_of(way, rows)) for name, way in ways.items()},
        "elbo": mean(gaps.elbo),
        "inference": mean(gaps.inference),
        "families": {
            name: {
                "elbo": mean(one.elbo),
                "approximation": mean(one.approximation),
                "amortization": mean(one.amortization),
                "gain": mean(one.gain),
                "above_log_p": above_log_p(one.approximation),
            }
            for name, one in gaps.families.items()
        },
    }


def untrusted(found: Evidence) -> int | None:
    """Points whose k-hat is above 0.7; None where there are too few weights to tell."""
    if np.isinf(found.k_hat).all():
        return None
    return int((~(np.asarray(found.k_hat) <= TRUSTED_K_HAT)).sum())


def above_log_p(approximation: Measured) -> int:
    """Points where an ELBO exceeds the estimate of log p beyond chance: that one is too low."""
    return int((approximation.value < -BEYOND * approximation.standard_error).sum())


def whole_account(one: Trained, found: Found, inputs: Inputs, config: "Config") -> Account:
    """`decomposition.account` of one model over the test images, with the gaps found already."""
    rows = ~inputs.is_train
    gaps = gaps_of(found.gaps, rows)
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    account = decomposition.account(
        key, one.model, one.guide, one.theta, one.phi, inputs.x[rows], families={},
        log_evidence=gaps.log_evidence.value,
    )  # fmt: skip
    return account._replace(gaps=gaps)
