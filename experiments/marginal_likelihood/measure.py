"""Repeated estimates of log p(x), the truth, and the exact variance of the weights."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_ndtr, logsumexp

from experiments.marginal_likelihood.config import Config
from lvm_jax import distributions, evidence, problems, weights
from lvm_jax.distributions import MAX_SUPPORT, FullRankNormal
from lvm_jax.evidence import scoring
from lvm_jax.problems import second_moment
from lvm_jax.report import Check, Run
from lvm_jax.typing import Array, Distribution, Float, Key
from lvm_jax.weights import LogJoint

PRIOR, UNIFORM, GOOD, MEAN_FIELD = "prior", "uniform", "q", "mean-field q"
METHODS = {"gaussian": (PRIOR, UNIFORM, GOOD, MEAN_FIELD), "discrete": (PRIOR, UNIFORM, GOOD)}
WITHIN = 0.1  # nats: the largest error of a good estimate
SORTED_REPEATS = 20  # repeats for the concentration of the weights
PLANE_DRAWS = 300
EXACT = 1e-9  # log E[w^2] / p^2 below which q is the posterior, and all errors are rounding


class Case(NamedTuple):
    """One data point x of a model with a known log p(x), and the distributions of z."""

    x: np.ndarray
    log_joint: LogJoint  # in the precision of the run
    methods: dict[str, Distribution]
    posterior: Any  # FullRankNormal or Table, in float64
    log_evidence: float  # in float64, in nats
    log_second_moment: dict[str, float]  # log E_q[w^2] / p(x)^2, exact; inf where it diverges
    outside_box: float = 0.0  # an upper limit of the posterior mass outside the box


class Cell(NamedTuple):
    """The errors of R estimates of log p(x) by one method with S draws each."""

    num_samples: int
    errors: np.ndarray  # log p-hat - log p, [R], in nats
    mean_error: float
    sd_error: float
    rmse: float
    quantiles: np.ndarray  # 10%, 50%, 90% of the errors
    reported_error: float  # median of the reported standard errors
    coverage: float  # share of intervals, +- 2 reported standard errors, that contain log p
    share_within: float  # share of estimates within WITHIN of log p
    ess: float  # median
    k_hat: float  # median


class Measured(NamedTuple):
    """The results for one size of z."""

    size: int  # dimensions, or variables
    x: np.ndarray
    log_evidence: float
    outside_box: float
    log_second_moment: dict[str, float]
    methods: dict[str, list[Cell]]  # a cell for each S
    shares: dict[str, np.ndarray]  # of the n largest weights in the total, n = 1, ..., S


class Plane(NamedTuple):
    """Draws of the Gaussian z in two dimensions."""

    mean: np.ndarray  # of the posterior
    covariance: np.ndarray
    z: dict[str, np.ndarray]  # [300, 2]
    log_weights: dict[str, np.ndarray]  # [300]


@dataclass(frozen=True)
class Result:
    """The result of the run."""

    config: Config
    found: dict[str, list[Measured]]  # by kind (gaussian, discrete), one for each size
    plane: Plane

    def last(self, kind: str, method: str, field: str) -> np.ndarray:
        """A field of every size, at the largest S."""
        return np.array([getattr(one.methods[method][-1], field) for one in self.found[kind]])

    @property
    def numbers(self) -> dict[str, Any]:
        """The content of results.json: the truth and every estimator for each size."""
        return {
            kind: [
                {name: value for name, value in one._asdict().items() if name != "shares"}
                | {"methods": {name: numbers(cells) for name, cells in one.methods.items()}}
                for one in sizes
            ]
            for kind, sizes in self.found.items()
        }


def numbers(cells: list[Cell]) -> list[dict[str, Any]]:
    """The fields without the single errors."""
    return [{n: v for n, v in cell._asdict().items() if n != "errors"} for cell in cells]


def load(config: Config) -> None:
    """Refuse a discrete z with too many values to enumerate."""
    most = config.num_values ** config.num_variables[-1]
    if most > MAX_SUPPORT:
        raise ValueError(
            f"num_variables: expected at most {MAX_SUPPORT:,} values of z, so that the truth can "
            f"be enumerated, got {config.num_values}^{config.num_variables[-1]} = {most:,}"
        )


def measure(config: Config, run: Run, loaded: None) -> Result:
    """Every method on every size of both models."""
    sizes = {"gaussian": config.dims, "discrete": config.num_variables}
    run.begin(sum(map(len, sizes.values())) + 1)
    found = {
        kind: [
            run.stage(f"{kind} z of {size}", one_size, config, kind, stream, size, run)
            for size in sizes[kind]
        ]
        for stream, kind in enumerate(sizes)
    }
    return Result(config, found, run.stage("draws in two dimensions", in_plane, config))


def one_size(config: Config, kind: str, stream: int, size: int, run: Run) -> Measured:
    """Every method on one model; `stream` is part of the key."""
    key = jax.random.key(config.seed)
    for part in (stream, size):
        key = jax.random.fold_in(key, part)
    case = {"gaussian": gaussian, "discrete": discrete}[kind](size, config)
    log_w = draw_all(key, case, config.num_samples[-1], config.num_repeats)
    methods = {
        name: [cell(rows[:, :s], case.log_evidence) for s in config.num_samples]
        for name, rows in log_w.items()
    }
    for name, cells in methods.items():
        for row in numbers(cells):
            run.log(**row, model=f"{kind} z of {size}", method=name)
    shares = {name: top_shares(np.asarray(rows)) for name, rows in log_w.items()}
    moments = case.log_second_moment
    return Measured(size, case.x, case.log_evidence, case.outside_box, moments, methods, shares)


def gaussian(dim: int, config: Config) -> Case:
    """z ~ N(0, I), x | z ~ N(W z, s^2 I); x is drawn from the model."""
    problem = problems.linear_gaussian(dim, config.coupling, config.noise)
    z, noise = draws(dim, config.seed)
    x = problem.theta.loadings @ z + config.noise * noise
    posterior, log_evidence = problems.truth(problem, x)
    with jax.enable_x64(True):
        exact = FullRankNormal(*map(jnp.asarray, posterior))
        narrow = np.asarray(problems.mean_field(exact).distribution.scale)
    normals = {
        PRIOR: FullRankNormal(np.zeros(dim), np.eye(dim)),
        GOOD: problems.widened(posterior, config.widen, config.shift),
        MEAN_FIELD: FullRankNormal(posterior.mean, np.diag(narrow)),
    }
    moments = {name: second_moment.of_normals(posterior, q) for name, q in normals.items()}
    # The second moment is |Z| times the integral of the squared posterior density.
    log_det = np.log(np.diagonal(posterior.cholesky)).sum()
    moments[UNIFORM] = dim * (math.log(2 * config.box) - 0.5 * math.log(4 * math.pi)) - log_det
    sd = np.sqrt((posterior.cholesky**2).sum(1))
    tails = [log_ndtr((sign * posterior.mean - config.box) / sd) for sign in (-1, 1)]
    corner = jnp.full(dim, config.box)
    mean, narrow, good = jax.tree.map(jnp.asarray, (posterior.mean, narrow, normals[GOOD]))
    methods = {
        PRIOR: problem.p.prior(),
        UNIFORM: distributions.uniform(-corner, corner),
        GOOD: good,
        MEAN_FIELD: distributions.normal(mean, narrow),
    }
    outside = float(np.exp(np.concatenate(tails)).sum())
    joint = problem.p.log_joint(jnp.asarray(x))
    return Case(x, joint, methods, posterior, log_evidence, moments, outside)


def discrete(num_variables: int, config: Config) -> Case:
    """z_k in {1, ..., L}, x | z ~ N(W v(z), s^2 I), v(l) = l - (L + 1) / 2; x from the model."""
    size = config.num_values
    rng = np.random.default_rng([config.seed, 5])
    logits = 0.5 * rng.standard_normal((max(num_variables, 64), size))[:num_variables]
    z = np.array([rng.choice(size, p=np.exp(row - logsumexp(row))) for row in logits])
    problem = problems.discrete(logits, config.coupling, config.noise)
    parts = problem.theta.likelihood
    noise = draws(num_variables, config.seed)[1]
    x = parts["weight"] @ parts["values"][z] + config.noise * noise
    posterior, log_evidence = problems.truth(problem, x)
    with jax.enable_x64(True):
        good = np.asarray(problems.marginals(posterior, size).distribution.logits)
    logits_of = {PRIOR: logits, UNIFORM: np.zeros_like(logits), GOOD: good}
    methods = {n: distributions.categorical(jnp.asarray(rows)) for n, rows in logits_of.items()}
    moments = {name: second_moment.of_tables(posterior, rows) for name, rows in logits_of.items()}
    return Case(x, problem.p.log_joint(jnp.asarray(x)), methods, posterior, log_evidence, moments)


def draws(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays [size] of standard normals for z and x; a larger size extends them."""
    latent, noise = np.random.default_rng([seed, 3]), np.random.default_rng([seed, 4])
    return latent.standard_normal(size), noise.standard_normal(size)


def draw_all(
    key: Key[Array, ""], case: Case, num_samples: int, num_repeats: int
) -> dict[str, Float[Array, "R S"]]:
    """The log-weights of every method, by one program; repeats run in sequence, to fit the cache."""

    @jax.jit
    def run(keys: Key[Array, " R"]) -> list[Float[Array, "R S"]]:
        def one(key: Key[Array, ""]) -> list[Float[Array, " S"]]:
            own = jax.random.split(key, len(case.methods))
            return [
                weights.log_weights(k, case.log_joint, q, num_samples)
                for k, q in zip(own, case.methods.values(), strict=True)
            ]

        return jax.lax.map(one, keys)

    rows = run(jax.random.split(key, num_repeats))
    return dict(zip(case.methods, rows, strict=True))


estimates = jax.jit(jax.vmap(evidence.from_log_weights))


def cell(log_w: Float[Array, "R S"], log_evidence: float) -> Cell:
    """The errors of the estimates of every repeat."""
    found = jax.tree.map(partial(np.asarray, dtype=np.float64), estimates(log_w))
    errors = found.log_evidence - log_evidence
    return Cell(
        num_samples=log_w.shape[1],
        errors=errors,
        mean_error=float(errors.mean()),
        sd_error=float(errors.std(ddof=1)),
        rmse=scoring.rmse(errors)[0],
        quantiles=np.quantile(errors, [0.1, 0.5, 0.9]),
        reported_error=float(np.median(found.standard_error)),
        coverage=float((np.abs(errors) <= 2 * found.standard_error).mean()),
        share_within=float((np.abs(errors) <= WITHIN).mean()),
        ess=float(np.median(found.ess)),
        k_hat=float(np.median(found.k_hat)),
    )


def top_shares(log_w: Float[np.ndarray, "R S"]) -> Float[np.ndarray, " S"]:
    """The share of the n largest weights in the total, n = 1, ..., S, mean of a few repeats."""
    rows = log_w[:SORTED_REPEATS].astype(np.float64)
    w = np.sort(np.exp(rows - rows.max(1, keepdims=True)), axis=1)[:, ::-1]
    return (np.cumsum(w, axis=1) / w.sum(1, keepdims=True)).mean(0)


def in_plane(config: Config) -> Plane:
    """A few draws of every method in two dimensions, with their weights."""
    case, key = gaussian(2, config), jax.random.key(config.seed)
    drawn = {
        name: jax.jit(lambda key, q=q: weights.weigh(key, case.log_joint, q, PLANE_DRAWS))(key)
        for name, q in case.methods.items()
    }
    covariance = case.posterior.cholesky @ case.posterior.cholesky.T
    z, log_w = ({n: getattr(d, f) for n, d in drawn.items()} for f in ("z", "log_weights"))
    return Plane(case.posterior.mean, covariance, z, log_w)


def log10_needed(log_second_moment: float) -> float:
    """log10 of S = max((E_q[w^2] / p^2 - 1) / WITHIN^2, 1); inf where it diverges."""
    if log_second_moment == math.inf:
        return math.inf
    log_excess = log_second_moment + math.log(max(-math.expm1(-log_second_moment), 1e-300))
    return max((log_excess - 2 * math.log(WITHIN)) / math.log(10), 0.0)


def checks(result: Result) -> list[Check]:
    """E[p-hat / p] = 1 and its exact variance, for the estimators with small errors."""
    means, spreads = [], []
    repeats = result.config.num_repeats
    for one in (one for sizes in result.found.values() for one in sizes):
        for name, cells in one.methods.items():
            ratio, size = np.exp(cells[-1].errors), cells[-1].num_samples
            sd = math.sqrt(math.expm1(min(one.log_second_moment[name], 700.0)) / size)
            if 1e-3 < sd < WITHIN:  # below: rounding; above: ratios are not normal
                means.append(abs(ratio.mean() - 1) * math.sqrt(repeats) / sd)
                spreads.append(abs(math.log(ratio.std(ddof=1) / sd)))
    of, most = f"of {len(means)} estimators", 6 / math.sqrt(2 * repeats)
    return [
        Check(f"largest |z| of the mean of p-hat / p, {of}", max(means, default=0.0), 0.0, 5.0,
              "at most 5 standard errors"),
        Check(f"largest |log| of its sd over the exact one, {of}", max(spreads, default=0.0), 0.0,
              most, f"at most 6 standard errors, {most:.2g}"),
    ]  # fmt: skip
