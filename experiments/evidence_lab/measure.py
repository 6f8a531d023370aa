"""The errors of estimators of log p(x) on exact models, and the coverage of their intervals."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evidence_lab import methods
from experiments.evidence_lab.config import NUM_VALUES, NUM_VARIABLES, Config
from experiments.evidence_lab.methods import Setting
from lvm_jax import annealing, evidence, problems
from lvm_jax.evidence import scoring
from lvm_jax.evidence.scoring import Share, share
from lvm_jax.problems import Simulated
from lvm_jax.report import Check, Run, point_ids
from lvm_jax.typing import Key

MODES, TAILS, DISCRETE = "two modes", "heavy tails", "discrete"  # names of problems
TRUSTED = 0.5  # k-hat below which the weights have a variance, which an interval needs
UNOPTIMISED = "jax_disable_most_optimizations"  # `certify` compiles longer than it runs
AT_ONCE = 2  # problems in parallel: most of the time is compilation, on one core each


class Cell(NamedTuple):
    """One method at one budget on N data sets; errors are log p-hat - log p in nats."""

    cost: float  # mean evaluations of the joint density or its gradient
    errors: np.ndarray  # [N]
    k_hat: np.ndarray  # [N]
    holds: np.ndarray  # [N] booleans: the interval contains log p
    rmse: float
    rmse_error: float  # its standard error over the data sets
    mean_error: float
    mean_error_error: float
    quantiles: np.ndarray  # 5%, 50%, 95% of the errors
    coverage: Share
    too_low: float  # share of intervals below log p
    too_high: float  # share of intervals above log p
    width: float  # median half-width of the intervals
    trusted: Share  # coverage where k-hat <= TRUSTED

    @property
    def numbers(self) -> dict[str, Any]:
        """The fields without those of single data sets, for a file."""
        large = ("errors", "k_hat", "holds")
        return {name: value for name, value in self._asdict().items() if name not in large}


class Certified(NamedTuple):
    """The results of `certify`."""

    cell: Cell  # of all data sets, certified or not
    certified: Cell | None  # of the certified ones; None: fewer than two
    within: float  # share of certified data sets
    holds_within: Share  # coverage among the certified ones
    close: Share  # share with |error| <= tolerance among them
    annealed: float  # share of data sets whose result is from annealed chains
    num_rounds: int
    certificate: evidence.Certificate

    @property
    def numbers(self) -> dict[str, Any]:
        """The fields without those of single data sets, for a file."""
        cells = {"cell": self.cell.numbers, "certified": self.certified and self.certified.numbers}
        own = self._asdict() | cells
        return {name: value for name, value in own.items() if name != "certificate"}


class Found(NamedTuple):
    """The results on one problem."""

    cells: dict[str, list[Cell | None]]  # by method, by budget; None: the budget is too small
    certified: Certified

    @property
    def last(self) -> dict[str, Cell]:
        """Every method at the largest budget, `certify` among them."""
        columns = {**self.cells, "certify": [self.certified.cell]}
        return {name: column[-1] for name, column in columns.items() if column[-1] is not None}


@dataclass(frozen=True)
class Result:
    """The result of the run."""

    config: Config
    found: dict[str, Found]  # by the name of the problem
    points: dict[str, np.ndarray]  # of each data set: its id, and the error of each method

    @property
    def numbers(self) -> dict[str, Any]:
        """Every method at every budget, null where that is too small."""
        return {
            name: {
                "methods": {
                    method: [cell and cell.numbers for cell in column]
                    for method, column in found.cells.items()
                },
                "certify": found.certified.numbers,
            }
            for name, found in self.found.items()
        }


def cell(found: methods.Estimates, truth: np.ndarray) -> Cell:
    """The errors of estimates, and the coverage of their intervals."""
    errors = np.asarray(found.log_evidence, float) - truth
    rmse, rmse_error = scoring.rmse(errors)
    low, high = (np.asarray(end, float) for end in (found.low, found.high))
    # An interval without limits, of a point that `certify` leaves open, does not count.
    holds = (low <= truth) & (truth <= high) & np.isfinite(high - low)
    return Cell(
        cost=float(found.cost.mean()),
        errors=errors,
        k_hat=found.k_hat,
        holds=holds,
        rmse=rmse,
        rmse_error=rmse_error,
        mean_error=float(errors.mean()),
        mean_error_error=float(errors.std(ddof=1) / errors.size**0.5),
        quantiles=np.quantile(errors, [0.05, 0.5, 0.95]),
        coverage=share(holds),
        too_low=float((high < truth).mean()),
        too_high=float((low > truth).mean()),
        width=float(np.median(0.5 * (high - low))),
        trusted=share(holds[found.k_hat <= TRUSTED]),
    )


def load(config: Config) -> list[Setting]:
    """The problems; ValueError if the largest budget is too small for an annealed estimate."""
    hmc = annealing.hmc(config.num_leapfrogs)
    gibbs = annealing.gibbs(NUM_VALUES, NUM_VARIABLES)
    # Logits of a prior that is not uniform, [K, L]: c_k (l - (L - 1) / 2), c_k from -0.8 to 0.8.
    tilt = np.asarray(jnp.linspace(-0.8, 0.8, NUM_VARIABLES))[:, None]
    logits = tilt * (np.arange(NUM_VALUES, dtype=tilt.dtype) - (NUM_VALUES - 1) / 2)
    kinds = {
        "gaussian": lambda: [Setting(problems.linear_gaussian(d), hmc) for d in config.dims],
        "two_modes": lambda: [Setting(problems.two_modes(config.modes_dim), hmc)],
        "heavy_tails": lambda: [Setting(problems.heavy_tails(2), hmc)],
        "discrete": lambda: [Setting(problems.discrete(logits), gibbs)],
    }
    settings = [setting for name in config.models for setting in kinds[name]()]
    size = max(config.num_chains, config.num_runs * config.num_particles)
    move_cost = max(setting.transition.cost for setting in settings)
    least = annealing.pilot_cost(2, move_cost) + annealing.chain_cost(size, 2, move_cost)
    if config.budgets[-1] < least:
        raise ValueError(
            "budgets: expected the last to pay for a pilot and the chains over 2 temperatures, "
            f"{least:,} evaluations, got {config.budgets[-1]:,}"
        )
    return settings


def measure(config: Config, run: Run, settings: list[Setting]) -> Result:
    """Run every method on every problem, two in parallel, and then the certificates."""
    keys = jax.random.split(jax.random.key(config.seed), (3, len(settings)))
    names = [setting.problem.name for setting in settings]
    run.begin(2 * len(settings))
    data = [
        problems.simulate(key, setting.problem, config.num_certified)
        for key, setting in zip(keys[0], settings, strict=True)
    ]

    def every(what: str, function: Callable[..., Any], keys: Key, at_once: int) -> list[Any]:
        stage = lambda name, *of: run.stage(f"{name}: {what}", function, *of, config)  # noqa: E731
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(stage, names, settings, data, keys))

    columns = every("estimates", every_method, keys[1], AT_ONCE)
    # In sequence: its flag is global, and batched Cholesky factors in two threads, as in certify,
    # can deadlock in jaxlib.
    certified = every("certificates", certify, keys[2], 1)
    found = dict(zip(names, map(Found, columns, certified), strict=True))
    for name, one in found.items():
        for method, cells in {**one.cells, "certify": [one.certified.cell]}.items():
            for each in filter(None, cells):
                run.log(problem=name, method=method, **each.numbers)
    return Result(config, found, of_points(found, data, config.num_points))


def every_method(
    setting: Setting, data: Simulated, key: Key, config: Config
) -> dict[str, list[Cell | None]]:
    """Every method at every budget on the first num_points data sets."""
    data = jax.tree.map(lambda leaf: leaf[: config.num_points], data)
    kinds = (methods.by_weights, methods.by_telescopes, methods.by_chains)
    return {
        name: [one and cell(one, data.log_evidence) for one in column]
        for own, kind in zip(jax.random.split(key, len(kinds)), kinds, strict=True)
        for name, column in kind(own, setting, data, config).items()
    }


def certify(setting: Setting, data: Simulated, key: Key, config: Config) -> Certified:
    """`evidence.certify` on all data sets at once; each result is as for one alone."""
    problem, before = setting.problem, jax.config.read(UNOPTIMISED)
    jax.config.update(UNOPTIMISED, True)
    try:
        found = evidence.certify(
            key, problem.p, problem.q, data.x, tolerance=config.tolerance,
            level=config.level, budget=config.certify_budget, transition=setting.transition,
        )  # fmt: skip
    finally:
        jax.config.update(UNOPTIMISED, before)
    estimates = methods.Estimates(
        found.log_evidence, found.low, found.high, found.k_hat, found.cost
    )
    one, sure = cell(estimates, data.log_evidence), np.flatnonzero(found.within)
    alone = methods.Estimates(*(leaf[sure] for leaf in estimates))
    return Certified(
        one,
        cell(alone, data.log_evidence[sure]) if sure.size > 1 else None,
        float(found.within.mean()),
        share(one.holds[found.within]),
        share((np.abs(one.errors) <= config.tolerance)[found.within]),
        float((found.method == "annealed").mean()),
        len(found.rounds),
        found,
    )


def of_points(found: dict[str, Found], data: list[Simulated], size: int) -> dict[str, np.ndarray]:
    """The id of every data set and each method's error at the largest budget."""
    cells = [one.last for one in found.values()]
    columns = {
        "point": [point_ids(one.x[:size]) for one in data],
        "log_evidence": [one.log_evidence[:size] for one in data],
        **{f"error, {name}": [one[name].errors[:size] for one in cells] for name in cells[0]},
    }
    return {name: np.concatenate(column) for name, column in columns.items()}


def checks(result: Result) -> list[Check]:
    """The interval of the sandwich has at least its nominal coverage on every model."""
    level = result.config.level
    words = f"at least {level:.0%} within its 95% interval"
    return [
        Check(f"coverage of the sandwich from the {start}, {name}", high, level, 1.0, words)
        for name, one in result.found.items()
        for start in methods.STARTS
        for high in [one.last[f"sandwich, {start}"].coverage.high]
    ]
