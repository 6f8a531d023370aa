"""Bidirectional Monte Carlo: two bounds of log p(x) that close as the annealed chains grow longer.

On data that a model simulated itself an exact posterior draw is at hand, so chains can run both
ways: from q forwards, a lower bound of log p(x), and from the posterior back, an upper one. First
on a linear-Gaussian model whose log p(x) is known, then on a decoder trained on the digits, from
the prior and from its guide; and what that certifies about held-out digits.

Leaves a run directory with config.json, metrics.jsonl, results.json, figures and report.html.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments import publish, run_directory
from experiments.progress import progress

if TYPE_CHECKING:  # what needs jax is imported where it is used, so that --help is quick
    from experiments.bdmc_beds import Bed
    from lvm_jax.evidence import Bidirectional


@dataclass(frozen=True)
class Config(publish.Options):
    """Options of the experiment."""

    num_temperatures: tuple[int, ...] = (4, 16, 64, 256)
    """Lengths of the chains, T."""
    num_chains: int = 8
    """Chains each way for every point."""
    num_points: int = 64
    """Points that each model simulates, and held-out digits."""
    latent_dim: int = 10
    """Dimensions of z, in both models."""
    dim: int = 30
    """Dimensions of the linear-Gaussian model's x."""
    noise: float = 0.4
    """Standard deviation of the linear-Gaussian model's noise."""
    transition: str = "hmc"
    """hmc, mala or random_walk."""
    num_leapfrogs: int = 5
    """Steps of each HMC move."""
    decoder: Path | None = None
    """A run directory of the `vae` experiment; None trains a small VAE on the digits."""
    epochs: int = 60
    """Of that small VAE."""


class Found(NamedTuple):
    """One model, one start of the path, one length of the chains."""

    num_temperatures: int
    bounds: "Bidirectional"
    truth: np.ndarray | None  # log p of the simulated points, where it is known
    seconds: float  # of the whole, compiling included


class Held(NamedTuple):
    """Held-out images at the longest chains, and at importance sampling of the guide."""

    log_p: np.ndarray  # [N], annealed
    standard_error: np.ndarray
    importance: np.ndarray
    importance_error: np.ndarray
    k_hat: np.ndarray


class Result(NamedTuple):
    """All that the run found; the report is drawn from it and from nothing else."""

    config: Config
    beds: "list[Bed]"
    found: dict[str, list[Found]]  # by the name of the bed
    held: dict[str, Held]  # the decoder's two starts, on held-out images
    path: Path


def main(config: Config) -> Result:
    """Sandwich every model at every length, and write the report."""
    from experiments import bdmc_beds

    check(config)
    run = run_directory.create("bdmc", config.out, config.overwrite)
    run.write_json("config.json", config)
    total = 3 * len(config.num_temperatures) + 4
    with progress("bdmc", total=total) as bar:
        beds = bdmc_beds.make(config)
        bar.done("models ready")
        found: dict[str, list[Found]] = {}
        for bed in beds:
            found[bed.name] = []
            for number in config.num_temperatures:
                one = bdmc_beds.measure(bed, number, config)
                found[bed.name].append(one)
                run.log(bed=bed.name, num_temperatures=number, gap=one.bounds.gap)
                bar.done(
                    f"{bed.name}, T = {number}: {one.bounds.lower:.3f} <= log p <= "
                    f"{one.bounds.upper:.3f}"
                )
        held = {}
        for bed in beds[1:]:
            held[bed.name] = bdmc_beds.held_out(bed, config)
            bar.done(f"{bed.name}: {held[bed.name].log_p.mean():.3f} nats on held-out images")
        result = Result(config, beds, found, held, run.path)
        finish(result, run)
        bar.done("report written")
    return result


def check(config: Config) -> None:
    """Refuse, before anything is written, what no chain could use."""
    from lvm_jax import checks

    numbers = config.num_temperatures
    if len(numbers) < 2 or list(numbers) != sorted(set(numbers)):
        raise ValueError(f"num_temperatures: expected rising numbers, as 4 16 64, got {numbers}")
    checks.integer(numbers[0], "num_temperatures", 1)
    for name in ("num_chains", "latent_dim", "dim", "num_leapfrogs", "epochs"):
        checks.integer(getattr(config, name), name, 1)
    checks.integer(config.num_points, "num_points", 2)
    if not checks.number(config.noise, "noise") > 0:
        raise ValueError(f"noise: expected a number > 0, got {config.noise:g}")
    checks.choice(config.transition, "transition", ("hmc", "mala", "random_walk"))


def finish(result: Result, run: run_directory.RunDirectory) -> None:
    """Write the results, the figures and the report."""
    from experiments import bdmc_report as report

    publish.publish(run, result, numbers(result), report.draw, report.page)


def numbers(result: Result) -> dict[str, Any]:
    """What results.json holds."""
    return {
        "simulated": {
            name: [
                {
                    "num_temperatures": one.num_temperatures,
                    **{
                        field: getattr(one.bounds, field)
                        for field in (
                            "lower", "lower_error", "upper", "upper_error", "gap", "gap_error"
                        )
                    },
                    "truth": None if one.truth is None else one.truth.mean(),
                    "covered": coverage(one),
                    "forward_acceptance": one.bounds.sandwich.forward_acceptance.mean(0),
                    "seconds": one.seconds,
                }
                for one in found
            ]
            for name, found in result.found.items()
        },
        "held_out": {
            name: {
                "annealed": held.log_p.mean(),
                "importance": held.importance.mean(),
                "sampling_error": held.log_p.std(ddof=1) / len(held.log_p) ** 0.5,
                "untrusted": int((~(held.k_hat <= 0.7)).sum()),
            }
            for name, held in result.held.items()
        },
    }  # fmt: skip


def coverage(one: Found, level: float = 0.95) -> float | None:
    """Share of the points whose interval holds the truth; None where that is not known."""
    if one.truth is None:
        return None
    low, high = one.bounds.sandwich.interval(level)
    return float(np.mean((np.asarray(low) <= one.truth) & (one.truth <= np.asarray(high))))
