"""Bounds from one set of log-weights: means, errors, measured slopes, and the exact values beside."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.importance_bounds_beds import Bed
from experiments.importance_bounds_exact import Atoms, LogMean, jackknife
from lvm_jax import bounds, evidence, weights
from lvm_jax.bounds import Reduction
from lvm_jax.typing import Array, Float, Key

BETAS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the thermodynamic bound
GROUPS = 8  # of MIWAE
IWAE, UPPER = "IWAE", "IWAE + posterior draw"
JACKKNIFE = {f"jackknife {order}": order for order in (1, 2, 3)}
LAWS = {IWAE: -1.0, **{name: -float(order + 1) for name, order in JACKKNIFE.items()}}
NUM_BATCHES = 64  # of draws, whose spread gives every standard error
WORK = 2**26  # logarithms that a jackknife may cost at one S
ORDERS = 6  # of the control variates
LIGHT = 10.0  # Var(w) / p^2 up to which their coefficients can be had from draws
SIGNIFICANT = 5.0  # standard errors: a gap that is smaller is in the noise


class Curve(NamedTuple):
    """A bound less log p(x) against S, from draws; leaves [n]."""

    num_samples: np.ndarray
    gap: np.ndarray  # mean over repeats, in nats
    standard_error: np.ndarray
    exact: np.ndarray  # the expectation itself; NaN where no formula gives it
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
    floor: int  # the first S whose gap is in the noise; 0 if there is none


class Sumo(NamedTuple):
    """Mean of SUMO less log p(x), its spread, and what a draw costs."""

    start: int
    gap: float
    standard_error: float
    sd: float
    mean_cost: float
    largest_cost: int


def reductions(alphas: tuple[float, ...]) -> dict[str, Reduction]:
    """The bounds that reduce S log-weights of q, by the names of the figures."""
    return {
        "ELBO": bounds.elbo,
        IWAE: bounds.iwae,
        **{f"Rényi α = {alpha:g}": bounds.renyi(alpha) for alpha in alphas},
        "thermodynamic": bounds.thermodynamic(BETAS),
        f"MIWAE, {GROUPS} groups": bounds.miwae(GROUPS),
        "CUBO, n = 2": bounds.cubo(2),
        "EUBO": bounds.eubo,
    }


def draw_weights(
    key: Key[Array, ""], bed: Bed, num_weights: int
) -> tuple[Float[Array, " T"], Float[Array, " T"]]:
    """log w - log p(x) of draws from q, and as many from the posterior."""

    def relative(z: Array) -> Array:
        return bed.log_joint(z) - bed.q.log_prob(z) - bed.log_evidence

    @jax.jit
    def run(key: Key[Array, ""]) -> tuple[Array, Array]:
        key_q, key_posterior = jax.random.split(key)
        size = min(num_weights, 2**14)

        def chunk(index: Array) -> tuple[Array, Array]:
            own = jax.random.fold_in(key_q, index)
            log_w = weights.log_weights(own, bed.log_joint, bed.q, size)
            other = jax.random.fold_in(key_posterior, index)
            z = bed.posterior.sample(seed=other, sample_shape=(size,))
            return log_w - bed.log_evidence, jax.vmap(relative)(z)

        log_w, log_v = jax.lax.map(chunk, jnp.arange(num_weights // size))
        return log_w.ravel(), log_v.ravel()

    return run(key)


def controls(row: Float[Array, " S"]) -> Float[Array, " C"]:
    """Numbers of expectation 0 that go along with every bound near log p.

    The averages of products of m distinct y_s = w_s / p - 1, m up to ORDERS: independent numbers
    of mean 0. They are the noise of the bounds, order by order in 1/sqrt(S). By Newton's
    identities from the sums of powers.
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
    """Rows [R, S] -> the named bounds and the controls of every row, [R, B + C]; jitted once."""
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
    """Means of every bound over NUM_BATCHES parts of the rows, less their regression on controls."""
    values, known = found[:, :num_bounds], found[:, num_bounds:]
    if is_light:
        scale = known.std(axis=0)
        white = known / np.where(scale > 0, scale, 1.0)
        centred = (white - white.mean(0), values - values.mean(0))
        values = values - white @ np.linalg.lstsq(*centred, rcond=None)[0]
    return values.reshape(NUM_BATCHES, -1, num_bounds).mean(1).T


def measure(
    bed: Bed,
    drawn: tuple[Float[Array, " T"], Float[Array, " T"]],
    largest: int,
    alphas: tuple[float, ...],
) -> dict[str, Curve]:
    """Every bound at S = 1, 2, 4, ..., `largest`, all from the same draws."""
    log_w, log_v = drawn
    is_light = bed.atoms.central_moment(2) <= LIGHT
    found: dict[str, list[Point]] = {}
    for size in 2 ** np.arange(int(math.log2(largest)) + 1):
        num_repeats = min(log_w.shape[0] // int(size), 2**18)
        for names, repeats in groups(int(size), num_repeats, alphas):
            rows = log_w[: repeats * size].reshape(repeats, size)
            raw = np.asarray(program(names, alphas)(rows, log_v[:repeats]))
            columns = zip(names, batch_means(raw, len(names), is_light), raw.T, strict=False)
            for name, means, draws in columns:
                sd = float(draws.std(ddof=1))
                found.setdefault(name, []).append(Point(int(size), repeats, sd, means))
    exact = exact_gaps(bed.atoms, alphas)
    return {name: curve(points, exact[name]) for name, points in found.items()}


def groups(
    size: int, num_repeats: int, alphas: tuple[float, ...]
) -> list[tuple[tuple[str, ...], int]]:
    """Which bounds run together at this S, and over how many rows: a jackknife costs S^(m + 1)."""
    plain = [name for name in reductions(alphas) if size % GROUPS == 0 or "MIWAE" not in name]
    found = [((*plain, UPPER), num_repeats)]
    for name, order in JACKKNIFE.items():
        subsets = math.comb(size, order)
        if size > order and subsets <= 600:
            afford = 2 ** int(math.log2(WORK / (subsets * size)))
            found.append(((name,), min(num_repeats, afford)))
    return found


class Point(NamedTuple):
    """A bound at one S."""

    num_samples: int
    num_repeats: int
    sd: float
    batches: np.ndarray  # [B]


def curve(points: list[Point], exact: tuple[Callable[[int], float], float]) -> Curve:
    """The points of one bound, with the exact expectation beside."""
    sizes, repeats, sds, batches = zip(*points, strict=True)
    every = np.stack(batches)
    return Curve(
        np.array(sizes),
        every.mean(1),
        every.std(1, ddof=1) / NUM_BATCHES**0.5,
        np.array([exact[0](size) for size in sizes]),
        np.array(sds),
        np.array(repeats),
        every,
        exact[1],
    )


def exact_gaps(
    atoms: Atoms, alphas: tuple[float, ...]
) -> dict[str, tuple[Callable[[int], float], float]]:
    """For every bound, the function S -> E[bound] - log p(x), and its limit."""
    own = LogMean(atoms)
    log_mean = functools.cache(own)
    elbo = atoms.mean_log(0.0)
    widths = np.diff(BETAS)
    inner = sum(width * atoms.mean_log(beta) for width, beta in zip(widths, BETAS, strict=False))
    powers = {f"Rényi α = {alpha:g}": 1 - alpha for alpha in alphas} | {"CUBO, n = 2": 2.0}
    found = {
        "ELBO": (lambda size: elbo, elbo),
        IWAE: (log_mean, 0.0),
        UPPER: (lambda size: own(size, 1), 0.0),
        f"MIWAE, {GROUPS} groups": (lambda size: log_mean(size // GROUPS), 0.0),
        "thermodynamic": (lambda size: math.nan, float(inner)),
        "EUBO": (lambda size: math.nan, atoms.mean_log(1.0)),
    }
    for name, power in powers.items():
        found[name] = (LogMean(atoms, power), atoms.moment(power) / power)
    for name, order in JACKKNIFE.items():
        found[name] = (functools.partial(jackknife, log_mean, order), 0.0)
    return found


def fit_slope(found: Curve, first: int) -> Slope | None:
    """The slope from S = `first` to the last S before the noise, or None for fewer than two points.

    The standard error comes from the spread over batches of draws, so it knows that points of
    different S share their draws.
    """
    noisy = np.abs(found.gap) < SIGNIFICANT * found.standard_error
    noisy &= found.num_samples >= first
    stop = int(np.argmax(noisy)) if noisy.any() else len(noisy)
    use = [i for i in range(stop) if found.num_samples[i] >= first]
    if len(use) < 2:
        return None
    gap, exact, x = found.gap[use], found.exact[use], np.log(found.num_samples[use])
    weight = (gap / found.standard_error[use]) ** 2
    centred = x - np.average(x, weights=weight)
    linear = weight * centred / (weight @ centred**2)  # the slope is this times log |gap|
    spread = np.cov(found.batches[use] / gap[:, None]) / NUM_BATCHES
    floor = int(found.num_samples[stop]) if noisy.any() else 0
    ends = (int(found.num_samples[use[0]]), int(found.num_samples[use[-1]]))
    error = float(np.sqrt(linear @ spread @ linear))
    fits = (float(linear @ np.log(np.abs(values))) for values in (gap, exact))
    value, exact_value = fits
    return Slope(value, error, exact_value, *ends, floor)


def draw_sumo(key: Key[Array, ""], bed: Bed, start: int, num_draws: int) -> Sumo:
    """Draws of SUMO, all at once."""

    @jax.jit
    def run(keys: Key[Array, " R"]) -> evidence.Telescope:
        return jax.vmap(lambda k: evidence.sumo(k, bed.log_joint, bed.q, start=start))(keys)

    drawn = run(jax.random.split(key, num_draws))
    gaps = np.asarray(drawn.log_evidence) - bed.log_evidence
    cost = np.asarray(drawn.num_samples)
    sd = float(gaps.std(ddof=1))
    error = sd / num_draws**0.5
    return Sumo(start, float(gaps.mean()), error, sd, float(cost.mean()), int(cost.max()))
