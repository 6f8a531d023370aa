"""Fits of every method to targets with known log Z, and their errors."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.vi_lab.config import Config
from lvm_jax import problems, vi
from lvm_jax.problems import Target
from lvm_jax.report import Check, Run

MAKE: dict[str, Callable[[], Target]] = {
    "funnel": problems.funnel,
    "wells": partial(problems.wells, 5, 5, 4.0),
    "eight_schools": partial(problems.eight_schools, False),
    "gaussians_40": problems.gaussians_40,
    "credit": problems.credit,
    "credit_likelihood": problems.credit_likelihood,
    "breast_cancer": problems.breast_cancer,
    "lgcp": problems.lgcp,
}
HOW = {  # a method of the page: the family and the method of `vi.fit`
    "mean_field": ("mean_field", "natural_gradient"),
    "full_rank": ("full_rank", "natural_gradient"),
    "laplace": ("full_rank", "laplace"),
    "batch_and_match": ("full_rank", "batch_and_match"),
    "pathfinder": ("full_rank", "pathfinder"),
    "mixture": ("mixture", "modes"),
    "flow": ("flow", "adam"),
    "deterministic": ("mean_field", "deterministic"),
}
ONE_BUDGET = ("laplace", "pathfinder")  # which end long before the smallest budget
PUBLISHED = {  # ELBOs of samplers, quoted; noise can put one above log Z
    "credit": "DBS-GMP -585.145, CMCD-GMP -585.162, DIS -589.636, MCD -1399.2",
    "credit_likelihood": "SCLD -504.46, CMCD -504.58, DDS -514.74, PIS -846.74",
    "breast_cancer": "DBS-GMP -78.160, FAB -78.287, CMCD-GMP -78.402",
    "lgcp": "SMC 497.85, SCLD 486.77, PIS 479.54, CMCD 466.73",
    "funnel": "DIS-GMP -0.058, DDS -0.597, PIS -3.198",
    "gaussians_40": "CMCD -21.94, DBS -30.44",
}
SLOW = 300  # D above which only the families without D^2 programs for each path are fitted
NEAR = 0.05  # nats to the best ELBO of the family, of a fit that converged


class Cell(NamedTuple):
    """One fit; ELBO and log Z in nats."""

    evaluations: int
    seconds: float  # with compilation, and with the draws for ELBO and log Z
    elbo: float
    elbo_error: float  # standard error
    to_best: float  # the best ELBO of the family less this one; NaN: the best is not known
    to_log_evidence: float  # log Z - ELBO, the KL divergence
    error: float  # of the estimate of log Z
    low: float  # the 95% interval of log Z, less the truth
    high: float
    reliable: bool
    k_hat: float
    overlap: float  # sum over the modes of the smaller mass, in q or in the target; NaN: one mode
    reason: str


@dataclass(frozen=True)
class Result:
    """The result of the run."""

    config: Config
    targets: dict[str, dict[str, Any]]  # numbers of each target
    found: dict[str, dict[str, list[Cell]]]  # by target and method, cells of rising budgets

    @property
    def numbers(self) -> dict[str, Any]:
        """Every fit."""
        return {
            name: {
                **self.targets[name],
                **{method: [one._asdict() for one in cells] for method, cells in rows.items()},
            }
            for name, rows in self.found.items()
        }

    def cells(self) -> list[tuple[str, str, Cell]]:
        """Target, method and cell of every fit with the largest budget."""
        return [(t, m, cells[-1]) for t, rows in self.found.items() for m, cells in rows.items()]


def load(config: Config) -> dict[str, Target]:
    """The targets; those with data read them."""
    return {name: MAKE[name]() for name in config.chosen}


def measure(config: Config, run: Run, targets: dict[str, Target]) -> Result:
    """Every method on every target with every budget."""
    pairs = [(t, m) for t in targets for m in config.methods if possible(targets[t], m)]
    run.begin(len(pairs))
    found: dict[str, dict[str, list[Cell]]] = {name: {} for name in targets}
    for name, method in pairs:
        cells = run.stage(f"{name}: {method}", fits, config, name, method)
        found[name][method] = cells
        for cell in cells:
            run.log(target=name, method=method, **cell._asdict())
    return Result(config, {name: facts(one) for name, one in targets.items()}, found)


def possible(target: Target, method: str) -> bool:
    """Whether the method takes the dimension in some minutes."""
    return target.dim <= SLOW or method in ("full_rank", "batch_and_match")


def facts(target: Target) -> dict[str, Any]:
    """The numbers of a target."""
    names = ("name", "dim", "log_evidence", "standard_error", "mean_field_elbo", "full_rank_elbo")
    return {name: getattr(target, name) for name in names}


def fits(config: Config, name: str, method: str) -> list[Cell]:
    """One method on one target with every budget, from the same seed."""
    target, (family, own) = MAKE[name](), HOW[method]
    start = jnp.zeros(target.dim)
    if name == "gaussians_40":  # the modes are uniform on the box, and so are the starts
        start = lambda key: jax.random.uniform(key, (target.dim,), minval=-40.0, maxval=40.0)  # noqa: E731
    cells = []
    for budget in config.budgets[-1:] if method in ONE_BUDGET else config.budgets:
        began, key = time.perf_counter(), jax.random.key(config.seed)
        fit = vi.fit(
            key, target.log_density, start, family=family, method=own, max_evaluations=budget,
            num_draws=config.num_draws, throw=False,
        )  # fmt: skip
        jax.block_until_ready(fit.log_evidence)
        spent = time.perf_counter() - began
        z = jax.jit(lambda key, q=fit.q: q.sample(seed=key, sample_shape=(config.num_draws,)))(key)
        cells.append(cell(target, family, fit, spent, np.asarray(z)))
    return cells


def cell(target: Target, family: str, fit: vi.VariationalFit, spent: float, z: np.ndarray) -> Cell:
    """The errors of one fit."""
    best = {"mean_field": target.mean_field_elbo, "full_rank": target.full_rank_elbo}.get(family)
    truth, elbo = target.log_evidence, float(fit.elbo.value)
    low, high = fit.log_evidence.nominal_interval()
    return Cell(
        int(fit.evaluations), spent, elbo, float(fit.elbo.standard_error),
        np.nan if best is None else best - elbo, truth - elbo,
        float(fit.log_evidence.log_evidence) - truth, float(low) - truth, float(high) - truth,
        not int(fit.log_evidence.failed), float(fit.k_hat), overlap(target, z), fit.reason.name,
    )  # fmt: skip


def overlap(target: Target, z: np.ndarray) -> float:
    """The mass of modes, all of equal mass, that q has: sum_k min(q_k, 1 / K), from draws of q."""
    count = target.facts.get("num_modes")
    if count is None:
        return np.nan
    if "means" in target.facts:
        means = target.facts["means"]
        mode = ((z**2).sum(1)[:, None] - 2 * z @ means.T + (means**2).sum(1)[None]).argmin(1)
    else:
        mode = (z > 0) @ 2 ** np.arange(target.dim)  # wells in every dimension
    shares = np.bincount(mode, minlength=count) / len(z)
    return float(np.minimum(shares, 1 / count).sum())


def covers(one: Cell, target: dict[str, Any]) -> bool:
    """Whether the interval holds log Z, as far as that is known."""
    spare = 2 * target["standard_error"]
    return one.low - spare <= 0 <= one.high + spare


def checks(result: Result) -> list[Check]:
    """No ELBO is above log Z; natural gradients that converged are at the best of their family."""
    rows = []
    for name, method, one in result.cells():
        target = result.targets[name]
        noise = 5 * np.hypot(one.elbo_error, target["standard_error"]) + 1e-3
        if np.isfinite(one.elbo):
            rows.append(Check(f"KL, {name}, {method}", one.to_log_evidence, -noise, np.inf,
                              "at least 0 within 5 standard errors"))  # fmt: skip
        converged = one.reason == "CONVERGED" and np.isfinite(one.to_best)
        if converged and method in ("mean_field", "full_rank"):
            rows.append(Check(f"best ELBO less that of {name}, {method}", one.to_best, -noise,
                              NEAR + noise, f"at most {NEAR} within 5 standard errors"))  # fmt: skip
    return rows
