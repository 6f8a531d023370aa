"""Signal to noise of every gradient estimator against the number of samples S.

More importance samples tighten the bound and yet can ruin the gradient of phi: the signal of IWAE
falls as 1/S, its noise as S^-1/2 only (Rainforth et al. 2018). Doubly-reparameterised gradients
undo that (Tucker et al. 2019). Measured on the toy of both papers, theta apart from phi, with the
slope of log SNR against log S and its standard error for every estimator that takes a Gaussian q.

Leaves a run directory with config.json, metrics.jsonl, results.json, figures and report.html.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments import publish, run_directory
from experiments.progress import progress

if TYPE_CHECKING:  # what needs jax is imported where it is used, so that --help is quick
    from experiments.gradient_snr_toy import Blocks, Toy

GROUPS = ("mu", "A", "b")


@dataclass(frozen=True)
class Config(publish.Options):
    """Options of the experiment."""

    dim: int = 20
    """D, the dimension of both z and x."""
    perturbation: float = 0.01
    """Every parameter is moved off its optimum by this times N(0, 1)."""
    num_samples: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    """Numbers S of importance samples."""
    num_repeats: int = 2000
    """Gradients drawn for each S and estimator."""
    num_blocks: int = 10
    """Independent blocks of these, for the standard errors (delete-one jackknife)."""
    num_groups: int = 4
    """Groups of MIWAE and PIWAE; they need S to be a multiple of it."""
    beta: float = 0.5
    """CIWAE's weight of the ELBO, against 1 - beta of IWAE."""
    fit_from: int = 64
    """Slopes are fitted to the S from here on, where the asymptotic law may hold."""


class Curve(NamedTuple):
    """SNR of one estimator and group against S; NaN where the estimator does not apply."""

    snr: np.ndarray  # [M], |signal| / sqrt(sum of variances)
    error: np.ndarray  # [M], standard error of log SNR
    own: np.ndarray  # [M], the same ratio with the estimator's own mean for its signal
    slope: float  # of log SNR against log S, over the S >= fit_from
    slope_error: float
    own_slope: float
    expected: float  # the law for S -> infinity


class Result(NamedTuple):
    """All that the run found; the report is drawn from it and from nothing else."""

    config: Config
    toy: "Toy"
    curves: dict[str, dict[str, Curve]]  # by group, then estimator
    agreement: dict[str, float]  # estimator: largest |z| of its mean against the reference's
    exact: dict[str, dict[str, np.ndarray]]  # closed forms of the SNR, by group and estimator
    path: Path

    @property
    def sizes(self) -> np.ndarray:
        """The S, [M]."""
        return np.array(self.config.num_samples)


def main(config: Config) -> Result:
    """Draw the gradients, fit the slopes, and write the report."""
    import jax

    from experiments import gradient_snr_toy as toys

    check(config)
    run = run_directory.create("gradient_snr", config.out, config.overwrite)
    run.write_json("config.json", config)
    key_toy, key_draws = jax.random.split(jax.random.key(config.seed))
    toy = toys.make_toy(key_toy, config.dim, config.perturbation)
    drawn: list[Blocks] = []
    with progress("gradient_snr", total=len(config.num_samples) + 1) as bar:
        for place, size in enumerate(config.num_samples):
            bar.note(f"S = {size:,}: {config.num_repeats:,} gradients of every estimator")
            drawn.append(toys.draw(jax.random.fold_in(key_draws, place), toy, size, config))
            bar.done(f"S = {size:,}: {len(drawn[-1].mean)} gradients, each {config.num_repeats:,}×")
        result = analyse(config, toy, drawn, run.path)
        for group, curves in result.curves.items():
            for name, curve in curves.items():
                for size, snr, own in zip(config.num_samples, curve.snr, curve.own, strict=True):
                    run.log(group=group, estimator=name, num_samples=size, snr=snr, own=own)
        finish(result, run)
        bar.done("report written")
    return result


def check(config: Config) -> None:
    """Refuse, before anything is written, numbers that leave nothing to measure."""
    from lvm_jax import checks

    for name, least in (("dim", 1), ("num_blocks", 3), ("num_groups", 2), ("fit_from", 1)):
        checks.integer(getattr(config, name), name, least)
    checks.integer(config.num_repeats, "num_repeats", 2 * config.num_blocks)
    checks.number(config.perturbation, "perturbation")
    if config.perturbation == 0:
        raise ValueError("perturbation: expected a number > 0 (there is no signal at 0), got 0")
    if not 0 <= config.beta <= 1:
        raise ValueError(f"beta: expected a number from 0 to 1, got {config.beta:g}")
    sizes = config.num_samples
    if list(sizes) != sorted(set(sizes)) or sum(size >= config.fit_from for size in sizes) < 2:
        raise ValueError(
            "num_samples: expected rising numbers, at least two of them fit_from = "
            f"{config.fit_from} or more, got {sizes}"
        )
    checks.integer(sizes[0], "num_samples", 1)


def analyse(config: Config, toy: "Toy", drawn: "list[Blocks]", path: Path) -> Result:
    """Curves with jackknife errors: each statistic again without each block in turn."""
    from experiments import gradient_snr_toy as toys

    everything = ratios(config, toy, drawn, None)
    without = [ratios(config, toy, drawn, block) for block in range(config.num_blocks)]
    chosen = np.array(config.num_samples) >= config.fit_from
    curves: dict[str, dict[str, Curve]] = {group: {} for group in GROUPS}
    for (name, group), (snr, own) in everything.items():
        left = np.array([found[name, group][0] for found in without])  # [B, M]
        slopes = [slope(config, values, chosen) for values in left]
        curves[group][name] = Curve(
            snr=snr,
            error=jackknife_error(np.log(left)),
            own=own,
            slope=slope(config, snr, chosen),
            slope_error=float(jackknife_error(np.array(slopes))),
            own_slope=slope(config, own, chosen),
            expected=toys.expected_slope(name, group),
        )
    return Result(
        config, toy, curves, toys.agreement(drawn, toy, config), toys.exact(toy, config), path
    )


def ratios(
    config: Config, toy: "Toy", drawn: "list[Blocks]", leave_out: int | None
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """Per estimator and group: SNR with the best known signal, and with its own mean, each [M]."""
    from experiments import gradient_snr_toy as toys

    pooled = [toys.pool(blocks, leave_out) for blocks in drawn]
    found = {}
    for name in toys.ESTIMATORS:
        for group in GROUPS:
            rows = []
            for size, here in zip(config.num_samples, pooled, strict=True):
                if (name, group) not in here:
                    rows.append((np.nan, np.nan))
                    continue
                mean, variance = here[name, group]
                signal = toys.signal(name, group, size, toy, here, config)
                noise = np.sqrt(variance.sum())
                rows.append((np.linalg.norm(signal) / noise, np.linalg.norm(mean) / noise))
            snr, own = np.array(rows).T
            found[name, group] = (snr, own)
    return found


def slope(config: Config, snr: np.ndarray, chosen: np.ndarray) -> float:
    """Least-squares slope of log SNR against log S over the chosen S."""
    return float(np.polyfit(np.log(config.num_samples)[chosen], np.log(snr[chosen]), 1)[0])


def jackknife_error(left: np.ndarray) -> np.ndarray:
    """Standard error from the statistic without each block in turn, [B, ...] -> [...]."""
    return np.sqrt((len(left) - 1) * left.var(axis=0))


def finish(result: Result, run: run_directory.RunDirectory) -> None:
    """Write the results, the figures and the report."""
    from experiments import gradient_snr_figures as figures
    from experiments import gradient_snr_report as report

    results = {
        "num_samples": result.sizes,
        "curves": result.curves,
        "agreement": result.agreement,
        "exact": result.exact,
        "toy": result.toy,
    }
    publish.publish(run, result, results, figures.draw, report.page)
