"""The slope of a line through points with noise."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from toys.line.config import Config

from lvm_jax.report import Check, Run, near


class Fit(NamedTuple):
    slope: float
    slope_error: float
    residuals: np.ndarray


@dataclass(frozen=True)
class Result:
    config: Config
    fits: list[Fit]
    slope: float
    slope_error: float
    points: dict[str, np.ndarray]


def measure(config: Config, run: Run) -> Result:
    run.begin(config.num_steps)
    fits = []
    for step in range(config.num_steps):
        if step == config.kill_at and not (run.path / "killed").exists():
            Path(run.path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        fits.append(run.stage(f"step {step}", fit, config, step))
        run.log(rule=config.rule, step=step, slope=fits[-1].slope, missing=np.nan)
    ids = config.first + np.arange(50)
    points = {"point": ids, "log_evidence": -(fits[-1].residuals ** 2)}
    return Result(config, fits, fits[-1].slope, fits[-1].slope_error, points)


def fit(config: Config, step: int) -> Fit:
    x = (config.first + np.arange(50)) / 50
    rng = np.random.default_rng((config.seed, step))
    y = 2 * x + config.noise * rng.standard_normal(50)
    slope = float(x @ y / (x @ x))
    return Fit(slope, config.noise / float(np.sqrt(x @ x)), y - slope * x)


def checks(result: Result) -> list[Check]:
    expected = 2.0 if result.config.expected is None else result.config.expected
    return [near("slope", result.slope, expected, 5 * result.slope_error, "the truth")]
