"""The gradients of every estimator on one problem, and the slopes of their SNR."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gradient_snr.config import Config
from lvm_jax import bounds, diagnostics, distributions, gradients
from lvm_jax.problems import Affine
from lvm_jax.report import Check, Run, near
from lvm_jax.typing import Array, Float, Key, Scalar

GROUPS = ("mu", "A", "b")
VARIANCE = 2 / 3  # of q
TABLE = 2**22  # the most entries in memory of the S x S tables of some estimators


class Toy(NamedTuple):
    """z ~ N(mu, I), x | z ~ N(z, I), q = N(A x + b, 2/3 I), near its optimum, at one x."""

    mu: Float[Array, " D"]
    phi: Affine
    x: Float[Array, " D"]

    @property
    def loc(self) -> np.ndarray:
        """The mean of q, A x + b."""
        return np.asarray(self.phi.weight @ self.x + self.phi.bias, np.float64)


class Row(NamedTuple):
    """An estimator of the table."""

    estimate: Callable[[Config], gradients.Surrogate]
    target: str  # the bound whose gradient it estimates for phi: elbo, iwae, miwae, ciwae, wake
    theta_target: str
    minimum: int = 1  # of S; leave-one-out needs 2 samples, and wake-sleep has no signal with 1
    slope: float = 0.5  # of phi's log SNR as S -> infinity
    grouped: bool = False  # S must be a multiple of num_groups


ESTIMATORS: dict[str, Row] = {
    "reparameterised ELBO": Row(lambda c: gradients.reparameterized(), "elbo", "elbo"),
    "STL": Row(lambda c: gradients.sticking_the_landing(), "elbo", "elbo"),
    "score function, ELBO": Row(lambda c: gradients.score_function(), "elbo", "elbo"),
    "RLOO": Row(lambda c: gradients.leave_one_out(), "elbo", "elbo", 2),
    "reparameterised IWAE": Row(
        lambda c: gradients.reparameterized(bounds.iwae), "iwae", "iwae", 1, -0.5
    ),
    "DReG": Row(lambda c: gradients.doubly_reparameterized(), "iwae", "iwae"),
    "score function, IWAE": Row(
        lambda c: gradients.score_function(bounds.iwae), "iwae", "iwae", 1, -1.5
    ),
    "VIMCO": Row(lambda c: gradients.vimco(), "iwae", "iwae", 2, -0.5),
    "MIWAE": Row(
        lambda c: gradients.reparameterized(bounds.miwae(c.num_groups)),
        *("miwae", "miwae", 1, -0.5, True),
    ),
    "DReG of MIWAE": Row(
        lambda c: gradients.doubly_reparameterized(bounds.miwae(c.num_groups)),
        *("miwae", "miwae", 1, 0.5, True),
    ),
    "PIWAE": Row(lambda c: gradients.piwae(c.num_groups), "miwae", "iwae", 1, -0.5, True),
    "CIWAE": Row(lambda c: gradients.reparameterized(bounds.ciwae(c.beta)), "ciwae", "ciwae"),
    "RWS": Row(lambda c: gradients.reweighted_wake_sleep(), "wake", "iwae", 2),
    "DReG of RWS": Row(
        lambda c: gradients.doubly_reparameterized_wake_sleep(), "wake", "iwae", 2
    ),
}  # fmt: skip
# The estimator with the least noise of each mean; its average is the signal of all of that mean.
BEST = {"iwae": "DReG", "miwae": "DReG of MIWAE", "wake": "DReG of RWS"}

Pooled = dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]  # (estimator, group): mean, variance


class Blocks(NamedTuple):
    """By (estimator, group): mean and variance of the gradients of each block, [B, ...]."""

    mean: dict[tuple[str, str], np.ndarray]
    variance: dict[tuple[str, str], np.ndarray]
    num_repeats: int  # of all blocks together


class Curve(NamedTuple):
    """SNR of one estimator and group against S; NaN if the estimator does not apply."""

    snr: np.ndarray  # [M], |signal| / sqrt(sum of variances)
    error: np.ndarray  # [M], standard error of log SNR
    own: np.ndarray  # [M], the SNR with the estimator's own mean as signal
    slope: float  # of log SNR against log S, over the S >= fit_from
    slope_error: float
    own_slope: float
    expected: float  # the law for S -> infinity


@dataclass(frozen=True)
class Result:
    """The result of the run."""

    config: Config
    num_samples: np.ndarray  # S, [M]
    curves: dict[str, dict[str, Curve]]  # by group, then estimator
    agreement: dict[str, float]  # estimator: largest |z| of its mean against the signal
    exact: dict[str, dict[str, np.ndarray]]  # closed forms of the SNR, by group and estimator
    toy: Toy


def measure(config: Config, run: Run) -> Result:
    """Draw the gradients, and fit the slopes."""
    key_toy, key_draws = jax.random.split(jax.random.key(config.seed))
    toy = make_toy(key_toy, config.dim, config.perturbation)
    run.begin(len(config.num_samples))
    drawn = [
        run.stage(f"S = {size}", draw, jax.random.fold_in(key_draws, place), toy, size, config)
        for place, size in enumerate(config.num_samples)
    ]
    curves = analyse(config, toy, drawn)
    sizes = np.array(config.num_samples)
    for group, named in curves.items():
        for name, curve in named.items():
            for size, snr, own in zip(config.num_samples, curve.snr, curve.own, strict=True):
                run.log(group=group, estimator=name, num_samples=size, snr=snr, own=own)
    return Result(config, sizes, curves, agreement(drawn, toy, config), exact(toy, config), toy)


def checks(result: Result) -> list[Check]:
    """Closed forms of the SNR, and equal means of estimators of the same gradient."""
    found = []
    for group, names in result.exact.items():
        for name, values in names.items():
            curve = result.curves[group][name]
            wide = 5 * curve.error[-1] * values[-1]
            what = f"SNR of {name}, {group}, S = {result.num_samples[-1]}"
            found.append(near(what, curve.snr[-1], values[-1], wide, "closed form"))
    largest = max(result.agreement.values())
    most = 6.0  # for 1,000 standard normals whose variances come from few blocks
    return [*found, Check("largest |z| of a mean", largest, 0.0, most, f"below {most:g}")]


def make_toy(key: Key[Array, ""], dim: int, perturbation: float) -> Toy:
    """A mu, one x drawn from the model, and the optimum of phi, all perturbed."""
    key_mu, key_x, *keys = jax.random.split(key, 5)
    mu = jax.random.normal(key_mu, (dim,))
    x = mu + jnp.sqrt(2.0) * jax.random.normal(key_x, (dim,))
    best = (mu, jnp.eye(dim) / 2, mu / 2)
    moved = [
        leaf + perturbation * jax.random.normal(k, leaf.shape)
        for k, leaf in zip(keys, best, strict=True)
    ]
    return Toy(moved[0], Affine(moved[1], moved[2]), x)


def guide_at(x: Float[Array, " D"]) -> Callable[[Affine], distributions.Independent]:
    """phi -> q(z | x)."""
    scale = jnp.full_like(x, VARIANCE**0.5)
    return lambda phi: distributions.normal(phi.weight @ x + phi.bias, scale)


def log_joint_at(mu: Float[Array, " D"], x: Float[Array, " D"]) -> Callable[[Array], Scalar]:
    """z -> log p(x, z; mu)."""
    one = jnp.ones_like(x)
    return lambda z: (
        distributions.normal(mu, one).log_prob(z) + distributions.normal(z, one).log_prob(x)
    )


def applies(name: str, size: int, config: Config) -> bool:
    """Whether the estimator is defined for this S."""
    row = ESTIMATORS[name]
    return size >= row.minimum and not (row.grouped and size % config.num_groups)


def draw(key: Key[Array, ""], toy: Toy, size: int, config: Config) -> Blocks:
    """Mean and variance of every estimator's gradients in each block, by one program."""
    estimates = {
        name: row.estimate(config)
        for name, row in ESTIMATORS.items()
        if applies(name, size, config)
    }

    def gradient(key: Key[Array, ""], toy: Toy) -> dict[tuple[str, str], Array]:
        found = {}
        for name, estimate in estimates.items():

            def surrogate(
                mu: Array, phi: Affine, estimate: gradients.Surrogate = estimate
            ) -> Scalar:
                return estimate(key, log_joint_at(mu, toy.x), guide_at(toy.x), phi, size)

            mu, phi = jax.grad(surrogate, (0, 1))(toy.mu, toy.phi)
            found |= {(name, "mu"): mu, (name, "A"): phi.weight, (name, "b"): phi.bias}
        return found

    repeats = config.num_repeats // config.num_blocks
    chunk = int(np.clip(TABLE // size**2, 1, repeats))

    @jax.jit
    def blocks(key: Key[Array, ""], toy: Toy) -> tuple[dict, dict]:
        drawn = functools.partial(gradient, toy=toy)
        return diagnostics.gradient_blocks(key, drawn, config.num_blocks, repeats, chunk_size=chunk)

    mean, variance = (
        {name: np.asarray(leaf, np.float64) for name, leaf in tree.items()}
        for tree in blocks(key, toy)
    )
    return Blocks(mean, variance, repeats * config.num_blocks)


def pool(blocks: Blocks, leave_out: int | None = None) -> Pooled:
    """Mean and variance over all blocks, or all but one."""
    keep = np.arange(len(next(iter(blocks.mean.values())))) != leave_out
    return {
        name: (mean[keep].mean(0), blocks.variance[name][keep].mean(0))
        for name, mean in blocks.mean.items()
    }


def signal(
    name: str, group: str, size: int, toy: Toy, pooled: Pooled, config: Config
) -> np.ndarray:
    """The mean gradient: exact for the ELBO, else from the estimator with the least noise."""
    row = ESTIMATORS[name]
    target = row.theta_target if group == "mu" else row.target
    exact = elbo_gradient(toy)[group]
    if target == "elbo" or (target == "iwae" and size == 1):
        return exact
    if target == "miwae" and size == config.num_groups:
        return exact
    if target == "ciwae":
        iwae = exact if size == 1 else pooled[BEST["iwae"], group][0]
        return config.beta * exact + (1 - config.beta) * iwae
    return pooled[BEST[target], group][0]


def elbo_gradient(toy: Toy) -> dict[str, np.ndarray]:
    """The exact gradient of the ELBO, E_q of log p(x, z), whose derivative is linear in z."""
    mu, x = (np.asarray(leaf, np.float64) for leaf in (toy.mu, toy.x))
    bias = mu + x - 2 * toy.loc
    return {"mu": toy.loc - mu, "A": np.outer(bias, x), "b": bias}


def exact(toy: Toy, config: Config) -> dict[str, dict[str, np.ndarray]]:
    """SNR of the reparameterised ELBO and of STL, [M]: their gradients are linear in the noise.

    One draw z = loc + e, e ~ N(0, 2/3 I), gives mu: z - mu; b: mu + x - 2 z, to which STL adds
    the 3/2 e of the density of q. So the variances of a coordinate are 2/3, 8/3 and 1/6, over S.
    """
    size = np.array(config.num_samples)
    norm = {group: np.linalg.norm(g) for group, g in elbo_gradient(toy).items()}
    root = np.sqrt(size / (config.dim * VARIANCE))
    return {
        "mu": {"reparameterised ELBO": norm["mu"] * root, "STL": norm["mu"] * root},
        "b": {"reparameterised ELBO": norm["b"] * root / 2, "STL": norm["b"] * root * 2},
    }


def agreement(drawn: list[Blocks], toy: Toy, config: Config) -> dict[str, float]:
    """Largest |mean - signal| of b over all coordinates and S, in standard errors of both."""
    largest = dict.fromkeys(ESTIMATORS, 0.0)
    for size, blocks in zip(config.num_samples, drawn, strict=True):
        pooled = pool(blocks)
        for name, group in pooled:
            if group != "b":
                continue
            mean, variance = pooled[name, group]
            best = BEST.get(ESTIMATORS[name].target)
            known = signal(name, group, size, toy, pooled, config)
            other = pooled[best, group][1] if best else 0.0
            error = np.sqrt((variance + other) / blocks.num_repeats)
            largest[name] = max(largest[name], float(np.abs((mean - known) / error).max()))
    return largest


def analyse(config: Config, toy: Toy, drawn: list[Blocks]) -> dict[str, dict[str, Curve]]:
    """Curves with delete-one jackknife errors."""
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
            expected=0.5 if group == "mu" else ESTIMATORS[name].slope,
        )
    return curves


def ratios(
    config: Config, toy: Toy, drawn: list[Blocks], leave_out: int | None
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """SNR of each estimator and group, with the best signal and with its own mean, each [M]."""
    pooled = [pool(blocks, leave_out) for blocks in drawn]
    found = {}
    for name in ESTIMATORS:
        for group in GROUPS:
            rows = []
            for size, here in zip(config.num_samples, pooled, strict=True):
                if (name, group) not in here:
                    rows.append((np.nan, np.nan))
                    continue
                mean, variance = here[name, group]
                known = signal(name, group, size, toy, here, config)
                noise = np.sqrt(variance.sum())
                rows.append((np.linalg.norm(known) / noise, np.linalg.norm(mean) / noise))
            snr, own = np.array(rows).T
            found[name, group] = (snr, own)
    return found


def slope(config: Config, snr: np.ndarray, chosen: np.ndarray) -> float:
    """Least-squares slope of log SNR against log S over the chosen S."""
    return float(np.polyfit(np.log(config.num_samples)[chosen], np.log(snr[chosen]), 1)[0])


def jackknife_error(left: np.ndarray) -> np.ndarray:
    """Standard error from the delete-one statistics, [B, ...] -> [...]."""
    return np.sqrt((len(left) - 1) * left.var(axis=0))
