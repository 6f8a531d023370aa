"""Bounds from one set of log-weights: means, errors, slopes, and exact values."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.importance_bounds.cases import DIM, Case, make_cases
from experiments.importance_bounds.config import Config
from lvm_jax import bounds, evidence, weights
from lvm_jax.bounds import Reduction
from lvm_jax.problems.expected_bounds import LogMean, WeightLaw, jackknife
from lvm_jax.report import Check, Run, near
from lvm_jax.typing import Array, Float, Key

BETAS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the thermodynamic bound
GROUPS = 8  # of MIWAE
IWAE, UPPER = "IWAE", "IWAE + posterior draw"
JACKKNIFE = {f"jackknife {order}": order for order in (1, 2, 3)}
RATES = {IWAE: -1.0, **{name: -float(order + 1) for name, order in JACKKNIFE.items()}}
NUM_BATCHES = 64  # of draws, whose spread gives every standard error
WORK = 2**26  # the most logarithms of a jackknife at one S
ORDERS = 6  # of the control variates
LIGHT = 10.0  # the largest Var(w) / p^2 for which draws can estimate their coefficients
SIGNIFICANT = 5.0  # the smallest significant gap, in standard errors


class Curve(NamedTuple):
    """A bound minus log p(x) against S, from draws; leaves [n]."""

    num_samples: np.ndarray
    gap: np.ndarray  # mean over repeats, in nats
    standard_error: np.ndarray
    exact: np.ndarray  # the exact expectation; NaN if no formula is known
    sd: np.ndarray  # of one draw of the bound
    num_repeats: np.ndarray
    batches: np.ndarray  # [n, B], means over B parts of the draws
    limit: float  # of the expectation as S grows


class Slope(NamedTuple):
    """d log |gap| / d log S by weighted least squares over S from `first` to `last`."""

    value: float
    standard_error: float
    exact: float  # the same fit to the exact gaps
    first: int
    last: int
    floor: int  # the first S whose gap is not significant; 0 if there is none


class Sumo(NamedTuple):
    """Mean of SUMO minus log p(x), its standard deviation, and the cost of a draw."""

    start: int
    gap: float
    standard_error: float
    sd: float
    mean_cost: float
    largest_cost: int


class Found(NamedTuple):
    """The results on one problem."""

    name: str
    log_evidence: float
    law: WeightLaw
    curves: dict[str, Curve]  # by bound
    slopes: dict[str, Slope | None]  # of the bounds with a rate; None with too few points
    sumo: Sumo
    log_weights: np.ndarray  # log w - log p(x) of some draws from q
    posterior_log_weights: np.ndarray  # of as many from the posterior


@dataclass(frozen=True)
class Result:
    """The result of the run."""

    config: Config
    found: list[Found]

    @property
    def numbers(self) -> dict[str, Any]:
        """The content of results.json, by problem."""
        return {
            one.name: {
                "log_evidence": one.log_evidence,
                "relative_variance": one.law.central_moment(2),
                "iwae_coefficients": one.law.iwae_coefficients(),
                "bounds": {
                    name: {key: part for key, part in curve._asdict().items() if key != "batches"}
                    for name, curve in one.curves.items()
                },
                "slopes": one.slopes,
                "sumo": one.sumo,
            }
            for one in self.found
        }


def measure(config: Config, run: Run) -> Result:
    """Draw the log-weights of each problem, compute the bounds, and fit the slopes."""
    # A jackknife of order m loses a factor S^m of the precision, too much for float32.
    with jax.enable_x64(True):
        key, cases = jax.random.key(config.seed), make_cases(config.seed)
        run.begin(2 * len(cases))
        keys = [jax.random.fold_in(key, index) for index in range(len(cases))]
        found = [measure_one(*pair, config, run) for pair in zip(keys, cases, strict=True)]
    return Result(config, found)


def measure_one(key: Key[Array, ""], case: Case, config: Config, run: Run) -> Found:
    """Every bound on one problem, the slopes of those with a rate, and SUMO."""
    key_weights, key_sumo = jax.random.split(key)
    curves, *drawn = run.stage(f"{case.name}: bounds", measure_bounds, key_weights, case, config)
    for name, curve in curves.items():
        columns = ("num_samples", "gap", "standard_error", "exact")
        for row in zip(*(getattr(curve, column) for column in columns), strict=True):
            run.log(problem=case.name, bound=name, **dict(zip(columns, row, strict=True)))
    slopes = {name: fit_slope(curves[name], config.fit_from) for name in RATES if name in curves}
    options = (config.sumo_start, config.sumo_draws)
    sumo = run.stage(f"{case.name}: SUMO", draw_sumo, key_sumo, case, *options)
    return Found(case.name, case.log_evidence, case.law, curves, slopes, sumo, *drawn)


def checks(result: Result) -> list[Check]:
    """Every mean over draws against its exact expectation, and the ELBO of the Gaussian."""
    z = agreement(result)
    words = "below 6 standard errors"  # of about 200 means that share draws
    elbo = result.found[0].curves["ELBO"]
    closed = -DIM / 2 * (1 / 3 - math.log(4 / 3))
    wide = 5 * float(elbo.standard_error[-1])
    return [
        Check("largest |z| of a mean over draws", float(z.max()), 0.0, 6.0, words),
        near("ELBO - log p(x), Gaussian", elbo.gap[-1], closed, wide, "closed form"),
    ]


def agreement(result: Result) -> np.ndarray:
    """|mean over draws - exact expectation| in standard errors, where both are known."""
    curves = [curve for found in result.found for curve in found.curves.values()]
    z = np.concatenate([(c.gap - c.exact) / c.standard_error for c in curves])
    return np.abs(z[np.isfinite(z)])


def reductions(alphas: tuple[float, ...]) -> dict[str, Reduction]:
    """The bounds as functions of S log-weights of q, by the names of the figures."""
    return {
        "ELBO": bounds.elbo,
        IWAE: bounds.iwae,
        **{f"Rényi α = {alpha:g}": bounds.renyi(alpha) for alpha in alphas},
        "thermodynamic": bounds.thermodynamic(BETAS),
        f"MIWAE, {GROUPS} groups": bounds.miwae(GROUPS),
        "CUBO, n = 2": bounds.cubo(2),
        "EUBO": bounds.eubo,
    }


def measure_bounds(
    key: Key[Array, ""], case: Case, config: Config
) -> tuple[dict[str, Curve], np.ndarray, np.ndarray]:
    """The curves of all bounds, and log w - log p(x) of some draws of q and of the posterior."""

    def relative(z: Array) -> Array:
        return case.log_joint(z) - case.q.log_prob(z) - case.log_evidence

    @jax.jit
    def draw(key: Key[Array, ""]) -> tuple[Array, Array]:
        key_q, key_posterior = jax.random.split(key)
        size = min(config.num_weights, 2**14)

        def chunk(index: Array) -> tuple[Array, Array]:
            own = jax.random.fold_in(key_q, index)
            log_w = weights.log_weights(own, case.log_joint, case.q, size)
            other = jax.random.fold_in(key_posterior, index)
            z = case.posterior.sample(seed=other, sample_shape=(size,))
            return log_w - case.log_evidence, jax.vmap(relative)(z)

        log_w, log_v = jax.lax.map(chunk, jnp.arange(config.num_weights // size))
        return log_w.ravel(), log_v.ravel()

    log_w, log_v = draw(key)
    curves = reduce_weights(case.law, log_w, log_v, config)
    return curves, *(np.asarray(part[:100_000]) for part in (log_w, log_v))


def controls(row: Float[Array, " S"]) -> Float[Array, " C"]:
    """Control variates of the bounds near log p, with expectation 0.

    The averages of products of m distinct y_s = w_s / p - 1, m up to ORDERS, by Newton's
    identities. They are the noise of the bounds, order by order in 1/sqrt(S).
    """
    y, size = jnp.expm1(row), row.shape[0]
    orders = range(1, min(size, ORDERS) + 1)
    power = {i: (y**i).sum() for i in orders}
    symmetric = [jnp.ones_like(y[0])]
    for m in orders:
        signed = ((-1) ** (i - 1) * symmetric[m - i] * power[i] for i in range(1, m + 1))
        symmetric.append(sum(signed, jnp.zeros_like(y[0])) / m)
    return jnp.stack([symmetric[m] / math.comb(size, m) for m in orders])


@functools.cache
def program(names: tuple[str, ...], alphas: tuple[float, ...]) -> Callable[..., Array]:
    """A jitted function of rows [R, S]: the named bounds and controls of each, [R, B + C]."""
    table = reductions(alphas) | {name: bounds.jackknife(m) for name, m in JACKKNIFE.items()}

    def one(row: Float[Array, " S"], own: Float[Array, ""]) -> Float[Array, " B+C"]:
        values = [
            bounds.iwae(row.at[0].set(own)) if name == UPPER else table[name](row) for name in names
        ]
        return jnp.concatenate([jnp.stack(values), controls(row)])

    def every(rows: Float[Array, "R S"], own: Float[Array, " R"]) -> Float[Array, "R B+C"]:
        size = rows.shape[1]
        chunk = min(rows.shape[0], max(1, 2**13 // size))
        split = rows.reshape(-1, chunk, size), own.reshape(-1, chunk)
        found = jax.lax.map(lambda part: jax.vmap(one)(*part), split)
        return found.reshape(rows.shape[0], -1)

    return jax.jit(every)


def batch_means(found: np.ndarray, num_bounds: int, is_light: bool) -> np.ndarray:
    """Means of every bound over NUM_BATCHES parts of the rows, minus the regression on controls."""
    values, known = found[:, :num_bounds], found[:, num_bounds:]
    if is_light:
        scale = known.std(axis=0)
        white = known / np.where(scale > 0, scale, 1.0)
        centred = (white - white.mean(0), values - values.mean(0))
        values = values - white @ np.linalg.lstsq(*centred, rcond=None)[0]
    return values.reshape(NUM_BATCHES, -1, num_bounds).mean(1).T


def reduce_weights(
    law: WeightLaw, log_w: Float[Array, " T"], log_v: Float[Array, " T"], config: Config
) -> dict[str, Curve]:
    """Every bound at S = 1, 2, 4, ..., `largest`, all from the same draws."""
    is_light = law.central_moment(2) <= LIGHT
    found: dict[str, list[tuple]] = {}
    for size in 2 ** np.arange(int(math.log2(config.largest)) + 1):
        for repeats, names in programs(int(size), log_w.shape[0], config.alphas).items():
            rows = log_w[: repeats * size].reshape(repeats, size)
            raw = np.asarray(program(tuple(names), config.alphas)(rows, log_v[:repeats]))
            columns = zip(names, batch_means(raw, len(names), is_light), raw.T, strict=False)
            for name, means, draws in columns:
                point = (size, draws.std(ddof=1), repeats, means)
                found.setdefault(name, []).append(point)
    exact, curves = exact_gaps(law, config.alphas), {}
    for name, points in found.items():
        sizes, sds, repeats, batches = map(np.array, zip(*points, strict=True))
        error = batches.std(1, ddof=1) / NUM_BATCHES**0.5
        known = np.array([exact[name][0](int(size)) for size in sizes])
        curves[name] = Curve(
            sizes, batches.mean(1), error, known, sds, repeats, batches, exact[name][1]
        )
    return curves


def programs(size: int, num_weights: int, alphas: tuple[float, ...]) -> dict[int, list[str]]:
    """The bounds in one program at this S, by the number of rows; a jackknife costs S^(m + 1)."""
    num_repeats = min(num_weights // size, 2**18)
    plain = [name for name in reductions(alphas) if size % GROUPS == 0 or "MIWAE" not in name]
    found = {num_repeats: [*plain, UPPER]}
    for name, order in JACKKNIFE.items():
        subsets = math.comb(size, order)
        if size > order and subsets <= 600:
            afford = 2 ** int(math.log2(WORK / (subsets * size)))
            found.setdefault(min(num_repeats, afford), []).append(name)
    return found


def exact_gaps(
    law: WeightLaw, alphas: tuple[float, ...]
) -> dict[str, tuple[Callable[[int], float], float]]:
    """The function S -> E[bound] - log p(x) of every bound, and its limit."""
    own = LogMean(law)
    log_mean = functools.cache(own)
    elbo = law.mean_log(0.0)
    inner = np.diff(BETAS) @ [law.mean_log(beta) for beta in BETAS[:-1]]
    powers = {f"Rényi α = {alpha:g}": 1 - alpha for alpha in alphas} | {"CUBO, n = 2": 2.0}
    return {
        "ELBO": (lambda size: elbo, elbo),
        IWAE: (log_mean, 0.0),
        UPPER: (lambda size: own(size, 1), 0.0),
        f"MIWAE, {GROUPS} groups": (lambda size: log_mean(size // GROUPS), 0.0),
        "thermodynamic": (lambda size: math.nan, float(inner)),
        "EUBO": (lambda size: math.nan, law.mean_log(1.0)),
        **{name: (LogMean(law, n), law.moment(n) / n) for name, n in powers.items()},
        **{n: (functools.partial(jackknife, log_mean, m), 0.0) for n, m in JACKKNIFE.items()},
    }


def fit_slope(found: Curve, first: int) -> Slope | None:
    """The slope from S = `first` to the last significant gap, or None for fewer than two points.

    Gaps of different S share their draws, so the standard error is the spread over batches.
    """
    later = found.num_samples >= first
    noisy = later & (np.abs(found.gap) < SIGNIFICANT * found.standard_error)
    stop = int(np.argmax(noisy)) if noisy.any() else len(noisy)
    use = np.flatnonzero(later[:stop])
    if len(use) < 2:
        return None
    size, gap, exact = found.num_samples[use], found.gap[use], found.exact[use]
    weight, x = (gap / found.standard_error[use]) ** 2, np.log(size)
    centred = x - np.average(x, weights=weight)
    linear = weight * centred / (weight @ centred**2)  # slope = linear @ log |gap|
    spread = np.cov(found.batches[use] / gap[:, None]) / NUM_BATCHES
    floor = int(found.num_samples[stop]) if noisy.any() else 0
    value, known = (float(linear @ np.log(np.abs(values))) for values in (gap, exact))
    error = float(np.sqrt(linear @ spread @ linear))
    return Slope(value, error, known, int(size[0]), int(size[-1]), floor)


def draw_sumo(key: Key[Array, ""], case: Case, start: int, num_draws: int) -> Sumo:
    """Draws of SUMO, all at once."""

    @jax.jit
    @jax.vmap
    def run(key: Key[Array, ""]) -> evidence.Telescope:
        return evidence.sumo(key, case.log_joint, case.q, start=start)

    drawn = run(jax.random.split(key, num_draws))
    gaps = np.asarray(drawn.log_evidence) - case.log_evidence
    cost, sd = np.asarray(drawn.num_samples), float(gaps.std(ddof=1))
    error = sd / num_draws**0.5
    return Sumo(start, float(gaps.mean()), error, sd, float(cost.mean()), int(cost.max()))
