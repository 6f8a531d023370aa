"""Bounds on log p(x) against the number of samples: sides, gaps, and the laws that they follow.

On two models whose log p(x) is known (a 20-dimensional Gaussian, and a mixture whose component is
guessed badly), every bound is averaged over many draws of S log-weights. The gap of IWAE falls as
1/S, the jackknife of order m as S^-(m + 1): measured from draws on the one, and without any noise on
the other, where the draws can be counted. Bounds from above and the unbiased SUMO come from the
other side.

Leaves a run directory with config.json, metrics.jsonl, results.json, figures and report.html.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments import publish, run_directory
from experiments.progress import progress

if TYPE_CHECKING:  # what needs jax is imported where it is used, so that --help is quick
    from lvm_jax.typing import Distribution

WIDEST = {"jackknife of order 1": 64, "jackknife of order 2": 16}  # S^2 and S^3 logarithms
THEORY = {"IWAE": -1.0, "jackknife of order 1": -2.0, "jackknife of order 2": -3.0}


@dataclass(frozen=True)
class Config(publish.Options):
    """Options of the experiment."""

    dim: int = 20
    """Dimensions of the Gaussian model."""
    num_weights: int = 2**21
    """Log-weights drawn of each model; S of them make one draw of a bound."""
    largest: int = 1024
    """The largest S; the others are the powers of two below."""
    num_telescopes: int = 20_000
    """Draws of SUMO."""


class Curve(NamedTuple):
    """Mean of a bound less log p(x), with its standard error, against S; in nats."""

    num_samples: np.ndarray
    gap: np.ndarray
    standard_error: np.ndarray


class Slope(NamedTuple):
    """The slope of log |gap| against log S; its standard error is 0 where the gaps are exact."""

    value: float
    standard_error: float
    first: int
    last: int


class Bed(NamedTuple):
    """A model at one data point, with a q that is not its posterior."""

    name: str
    log_joint: Callable[[Any], Any]
    q: "Distribution"
    log_evidence: float


class Found(NamedTuple):
    """What was measured on one bed."""

    bed: Bed
    relative_variance: float  # Var(w) / p(x)^2, from the draws
    curves: dict[str, Curve]  # from draws
    exact: dict[str, Curve]  # the expectations themselves, where q has few values
    slopes: dict[str, Slope]
    second_order: float  # b in log p - E[L_S] = a / S - b / S^2 + ..., from the draws
    sumo: tuple[float, float, float]  # mean less log p(x), its standard error, mean cost


class Result(NamedTuple):
    """All that the run found."""

    config: Config
    found: list[Found]
    path: Path


def main(config: Config) -> Result:
    """Draw the log-weights, reduce them, fit the slopes, and write the report."""
    import jax

    from lvm_jax import checks

    checks.integer(config.dim, "dim", 1)
    checks.integer(config.largest, "largest", 16)
    checks.integer(config.num_weights, "num_weights", 100 * config.largest)
    checks.integer(config.num_telescopes, "num_telescopes", 2)
    run = run_directory.create("importance_bounds", config.out, config.overwrite)
    run.write_json("config.json", config)
    found = []
    with progress("importance_bounds", total=3) as bar:
        for index, bed in enumerate((gaussian_bed(config.dim), mixture_bed())):
            key = jax.random.fold_in(jax.random.key(config.seed), index)
            found.append(measure(key, bed, config, run))
            bar.done(f"{bed.name}: slopes " + ", ".join(said(found[-1])))
        result = Result(config, found, run.path)
        finish(result, run)
        bar.done("report written")
    return result


def said(found: Found) -> list[str]:
    """The slopes in words."""
    return [f"{name} {s.value:.2f} ± {s.standard_error:.2f}" for name, s in found.slopes.items()]


def gaussian_bed(dim: int) -> Bed:
    """z ~ N(mu, I), x | z ~ N(z, I), q = N((x + mu) / 2, 2/3 I): the posterior, a third too wide."""
    import jax.numpy as jnp

    from lvm_jax import distributions, models

    model = models.linear_gaussian(dim, dim)
    mu, x = jnp.linspace(-1.0, 2.0, dim), jnp.linspace(1.5, -0.5, dim)
    theta = models.LinearGaussian(mu, jnp.eye(dim), jnp.zeros(dim), jnp.zeros(()))
    q = distributions.normal((x + mu) / 2, jnp.full(dim, np.sqrt(2 / 3)))
    truth = float(model.log_evidence(theta, x))
    name = f"Gaussian, {dim} dimensions"
    return Bed(name, models.log_joint(model, theta, x), q, truth)


def mixture_bed() -> Bed:
    """A mixture of four Gaussians whose component q guesses badly."""
    import jax.numpy as jnp

    from lvm_jax import distributions, models

    model = models.gaussian_mixture(4, 2)
    theta = models.GaussianMixture(
        jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1])),
        jnp.array([[0.0, 0.0], [2.0, 1.0], [-1.0, 2.0], [1.0, -1.5]]),
        jnp.stack([scale * jnp.eye(2) for scale in (1.0, 0.7, 1.4, 0.9)]),
    )
    x = jnp.array([1.1, 0.4])
    q = distributions.Categorical(logits=jnp.log(jnp.array([0.3, 0.25, 0.25, 0.2])))
    truth = float(model.log_evidence(theta, x))
    return Bed("Mixture, 4 components", models.log_joint(model, theta, x), q, truth)


def reductions() -> dict[str, Callable[[Any], Any]]:
    """The bounds that are drawn, by the names of the figures."""
    from lvm_jax import bounds

    return {
        "IWAE": bounds.iwae,
        "jackknife of order 1": bounds.jackknife(1),
        "jackknife of order 2": bounds.jackknife(2),
        "Rényi α = 1/2": bounds.renyi(0.5),
        "Rényi α = 2": bounds.renyi(2.0),
        "Rényi α = −1 (CUBO₂)": bounds.cubo(2),
        "EUBO": bounds.eubo,
        "thermodynamic, 4 steps": bounds.thermodynamic((0.0, 0.25, 0.5, 0.75, 1.0)),
        "ELBO": bounds.elbo,
    }


def measure(key: Any, bed: Bed, config: Config, run: run_directory.RunDirectory) -> Found:
    """Every bound at every S from one set of log-weights, relative to log p(x)."""
    import jax

    from lvm_jax import evidence
    from lvm_jax.weights import log_weights

    key_weights, key_sumo = jax.random.split(key)
    size = 2**15
    draws = jax.jit(
        lambda keys: jax.lax.map(lambda k: log_weights(k, bed.log_joint, bed.q, size), keys)
    )(jax.random.split(key_weights, config.num_weights // size))
    relative = draws.ravel() - bed.log_evidence
    sizes = 2 ** np.arange(int(np.log2(config.largest)) + 1)
    curves = {}
    for name, reduce in reductions().items():
        least = {"jackknife of order 1": 2, "jackknife of order 2": 4}.get(name, 1)
        kept = [int(s) for s in sizes if least <= s <= WIDEST.get(name, config.largest)]
        rows = [average(reduce, relative, s) for s in kept]
        curves[name] = Curve(np.array(kept), *np.array(rows).T)
        run.log(stage=bed.name, bound=name, **curves[name]._asdict())
    telescopes = jax.jit(jax.vmap(lambda k: evidence.sumo(k, bed.log_joint, bed.q)))(
        jax.random.split(key_sumo, config.num_telescopes)
    )
    values = np.asarray(telescopes.log_evidence, np.float64) - bed.log_evidence
    error = values.std(ddof=1) / np.sqrt(len(values))
    sumo = (float(values.mean()), float(error), float(np.mean(telescopes.num_samples)))
    excess = np.exp(np.asarray(relative, np.float64)) - 1
    variance, skew = (excess**2).mean(), (excess**3).mean()
    exact = exact_curves(bed, config.largest)
    laws = exact_slopes(exact) if exact else slopes(curves)
    second_order = float(skew / 3 - 3 * variance**2 / 4)
    return Found(bed, float(variance), curves, exact, laws, second_order, sumo)


def exact_curves(bed: Bed, largest: int, limit: int = 128) -> dict[str, Curve]:
    """E[bound] - log p(x) of IWAE and its jackknives for a q of four values, or nothing.

    S draws are summarised by how often each value came: a sum over C(S + 3, 3) counts. The
    jackknife averages IWAE over subsets, so its expectation is the same combination of IWAE's.
    """
    import jax

    from lvm_jax import distributions

    values = distributions.support(bed.q) if hasattr(bed.q, "num_categories") else None
    if values is None:
        return {}
    log_q = np.asarray(jax.vmap(bed.q.log_prob)(values), np.float64)
    log_p = np.asarray(jax.vmap(bed.log_joint)(values), np.float64)
    truth = np.logaddexp.reduce(log_p)
    sizes = [2**i for i in range(int(np.log2(min(limit, largest))) + 1)]
    needed = sorted({s - j for s in sizes for j in range(3) if s > j})
    mean = {s: expected_iwae(s, np.exp(log_q), np.exp(log_p - log_q - truth)) for s in needed}
    zero = {name: [s for s in sizes if s > m] for m, name in enumerate(THEORY)}
    curves = {}
    for order, (name, kept) in enumerate(zero.items()):
        gap = np.array([jackknifed(mean, s, order) for s in kept])
        curves[name] = Curve(np.array(kept), gap, np.zeros(len(kept)))
    return curves


def expected_iwae(num_samples: int, q: np.ndarray, weight: np.ndarray) -> float:
    """E[log (1/S) sum_s w_s] over the multinomial counts of the four values."""
    from scipy.special import gammaln

    a, b, c = np.ogrid[: num_samples + 1, : num_samples + 1, : num_samples + 1]
    d = num_samples - a - b - c
    a, b, c, d = (part[d >= 0] for part in np.broadcast_arrays(a, b, c, d))
    counts = np.stack([a, b, c, d])
    log_mass = gammaln(num_samples + 1) - gammaln(counts + 1).sum(0) + np.log(q) @ counts
    mass = np.exp(log_mass)  # its sum is 1 but for the rounding of gammaln, which S^2 would magnify
    return float(mass @ np.log(weight @ counts / num_samples) / mass.sum())


def jackknifed(mean: dict[int, float], size: int, order: int) -> float:
    """sum_j (-1)^j (S - j)^m / (j! (m - j)!) E[L_{S-j}] (Nowozin 2018)."""
    from math import factorial

    return sum(
        (-1) ** j * (size - j) ** order / (factorial(j) * factorial(order - j)) * mean[size - j]
        for j in range(order + 1)
    )


def exact_slopes(curves: dict[str, Curve]) -> dict[str, Slope]:
    """The slope between the two largest S; what is left of the law there is curvature."""
    found = {}
    for name, curve in curves.items():
        x, y = np.log(curve.num_samples[-2:]), np.log(np.abs(curve.gap[-2:]))
        ends = curve.num_samples[-2:]
        found[name] = Slope(float(np.diff(y)[0] / np.diff(x)[0]), 0.0, int(ends[0]), int(ends[1]))
    return found


def average(reduce: Callable[[Any], Any], relative: Any, num_samples: int) -> tuple[float, float]:
    """Mean and standard error of a bound less log p(x).

    m - 1, m the mean of the S weights over p(x), has expectation 0 and goes along with every
    bound that is near log m: subtracted, it takes away the noise of first order (a control
    variate, its coefficient by least squares).
    """
    import jax
    import jax.numpy as jnp

    rows = relative[: relative.size // num_samples * num_samples].reshape(-1, num_samples)

    def one(row: Any) -> Any:
        return jnp.stack([reduce(row), jnp.exp(row).mean() - 1])

    batch = max(1, 2**18 // num_samples**2)
    both = np.asarray(jax.jit(lambda r: jax.lax.map(one, r, batch_size=batch))(rows), np.float64)
    covariance = np.cov(both.T)
    slope = covariance[0, 1] / covariance[1, 1] if covariance[1, 1] > 0 else 0.0
    values = both[:, 0] - slope * both[:, 1]
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def slopes(curves: dict[str, Curve], first: int = 4) -> dict[str, Slope]:
    """Slopes for the bounds with a law, over S >= `first` while |gap| is above 10 standard errors.

    Weighted by the standard errors; the curves of one bound share draws, so its points are
    correlated and the error of the slope is an approximation.
    """
    found = {}
    for name in THEORY:
        curve = curves[name]
        good = np.abs(curve.gap) > 10 * curve.standard_error
        stop = int(np.argmin(np.append(good, False)))  # never beyond the first point in the noise
        use = [i for i in range(stop) if curve.num_samples[i] >= first]
        if len(use) < 2:
            continue
        x, y = np.log(curve.num_samples[use]), np.log(np.abs(curve.gap[use]))
        weight = (np.abs(curve.gap[use]) / curve.standard_error[use]) ** 2
        centred = x - np.average(x, weights=weight)
        precision = weight @ centred**2
        value = float((weight * centred) @ y / precision)
        ends = curve.num_samples[use]
        found[name] = Slope(value, float(precision**-0.5), int(ends[0]), int(ends[-1]))
    return found


def finish(result: Result, run: run_directory.RunDirectory) -> None:
    """Draw the figures and write the results and the report."""
    from experiments import importance_bounds_report as report

    figures = report.draw(result)
    numbers = {
        found.bed.name: {
            "log_evidence": found.bed.log_evidence,
            "relative_variance": found.relative_variance,
            "second_order": found.second_order,
            "curves": found.curves,
            "exact": found.exact,
            "slopes": found.slopes,
            "sumo": dict(zip(("gap", "standard_error", "mean_samples"), found.sumo, strict=True)),
        }
        for found in result.found
    }
    publish.publish(run, result.config, numbers, figures, *report.page(result, figures))
