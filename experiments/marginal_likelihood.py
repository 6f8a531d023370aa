"""Why naive Monte Carlo for p(x) fails as z grows, and why importance sampling does not.

The lecture's section 0.3 on models whose log p(x) is known: draws from the prior, draws uniform
over the space of z with the factor |Z|, and draws from a q that knows x, weighed by p(x, z) / q(z).
All three are unbiased for p(x); what differs is how often a draw lands where p(x, z) is high.

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

METHODS = ("prior", "uniform", "importance")
NUM_VALUES = 4  # L of the discrete z in {0, ..., L - 1}^K
BOX = 6.0  # the uniform box is [-BOX, BOX]^D: it leaves out 2e-9 of the prior in a dimension


@dataclass(frozen=True)
class Config(publish.Options):
    """Options of the experiment."""

    dims: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Dimensions of the continuous z."""
    variables: tuple[int, ...] = (1, 2, 4, 6, 8)
    """Variables K of the discrete z, of four values each: at most 10, for the truth is a sum."""
    num_samples: int = 10_000
    """S, the draws of one estimate."""
    num_repeats: int = 50
    """Estimates of each kind."""
    growing: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    """Values of S at which one dimension is looked at closely."""
    closely: int = 8
    """That dimension."""
    widen: float = 1.2
    """Importance sampling's q: standard deviations as multiples of the posterior's."""
    shift: float = 0.2
    """Importance sampling's q: its mean, moved in every dimension [posterior sd]."""


class Bed(NamedTuple):
    """A model at one data point: what each method needs, and the truth."""

    log_joint: Callable[[Any], Any]
    log_likelihood: Callable[[Any], Any]
    prior: "Distribution"
    space: "Distribution"  # anything on the space that is drawn uniformly
    q: "Distribution"
    log_evidence: float


class Estimates(NamedTuple):
    """R estimates of one method: error in nats, its reported standard error, and diagnostics."""

    error: np.ndarray  # log p-hat - log p
    standard_error: np.ndarray
    ess: np.ndarray
    k_hat: np.ndarray


class Result(NamedTuple):
    """All that the run found."""

    config: Config
    continuous: dict[int, dict[str, Estimates]]  # by dimension, by method
    discrete: dict[int, dict[str, Estimates]]  # by number of variables, by method
    growing: dict[int, dict[str, Estimates]]  # by S, by method
    shares: dict[str, np.ndarray]  # sorted share of the weight of each draw, largest first
    path: Path


def main(config: Config) -> Result:
    """Estimate on every model by every method, and write the report."""
    import jax

    check(config)
    run = run_directory.create("marginal_likelihood", config.out, config.overwrite)
    run.write_json("config.json", config)
    keys = iter(jax.random.split(jax.random.key(config.seed), 64))
    tables: dict[str, dict[int, dict[str, Estimates]]] = {
        "continuous": {}, "discrete": {}, "growing": {}
    }  # fmt: skip
    work = [("continuous", d, continuous_bed(d, config), config.num_samples) for d in config.dims]
    work += [("discrete", k, discrete_bed(k), config.num_samples) for k in config.variables]
    closely = continuous_bed(config.closely, config)
    work += [("growing", s, closely, s) for s in config.growing]
    with progress("marginal_likelihood", total=len(work) + 2) as bar:
        for kind, size, bed, num_samples in work:
            found = estimate(next(keys), bed, num_samples, config.num_repeats)
            tables[kind][size] = found
            medians = {name: float(np.median(e.error)) for name, e in found.items()}
            run.log(stage=kind, size=size, num_samples=num_samples, median_error=medians)
            told = ", ".join(f"{name} {value:+.2f}" for name, value in medians.items())
            bar.done(f"{kind}, {size}: median error [nats] {told}")
        shares = weight_shares(next(keys), closely, config.num_samples)
        bar.done("weights sorted")
        result = Result(config, **tables, shares=shares, path=run.path)
        finish(result, run)
        bar.done("report written")
    return result


def check(config: Config) -> None:
    """Refuse numbers that make no model or no estimate, before anything is written."""
    from lvm_jax import checks

    for name, largest in (("dims", 200), ("variables", 10), ("growing", 10**7)):
        values = getattr(config, name)
        if not values or min(values) < 1 or max(values) > largest:
            raise ValueError(f"{name}: expected numbers from 1 to {largest:,}, got {values}")
    checks.integer(config.closely, "closely", 1)
    checks.integer(config.num_samples, "num_samples", 25)
    checks.integer(config.num_repeats, "num_repeats", 2)
    if not checks.number(config.widen, "widen") > 0:
        raise ValueError("widen: expected a number > 0, got 0")


def continuous_bed(dim: int, config: Config) -> Bed:
    """z ~ N(0, I), x | z ~ N(W z, 0.3^2 I) in as many dimensions, W a turn; x drawn from it."""
    import jax
    import jax.numpy as jnp

    from lvm_jax import distributions, models

    model = models.linear_gaussian(dim, dim)
    turn = np.linalg.qr(np.random.default_rng(dim).normal(size=(dim, dim)))[0]
    theta = models.LinearGaussian(
        jnp.zeros(dim), jnp.asarray(turn, jnp.float32), jnp.zeros(dim), jnp.log(0.3)
    )
    key_z, key_x = jax.random.split(jax.random.key(dim))
    prior = model.prior(theta)
    x = model.likelihood(theta, prior.sample(seed=key_z)).sample(seed=key_x)
    exact = model.posterior(theta, x)
    moved = exact.mean + config.shift * exact.cholesky.sum(1)
    return Bed(
        models.log_joint(model, theta, x),
        lambda z: model.likelihood(theta, z).log_prob(x),
        prior,
        distributions.uniform(jnp.full(dim, -BOX), jnp.full(dim, BOX)),
        distributions.FullRankNormal(moved, config.widen * exact.cholesky),
        float(model.log_evidence(theta, x)),
    )


def discrete_bed(num_variables: int) -> Bed:
    """z in {0, 1, 2, 3}^K, unevenly; x | z ~ N(sum_k table_k[z_k], 0.3^2 I) in K + 1 dimensions.

    q is the mean-field distribution with the posterior's marginals, and a tenth of it uniform.
    """
    import jax
    import jax.numpy as jnp

    from lvm_jax import distributions, models

    dim = num_variables + 1
    rng = np.random.default_rng(num_variables)
    tables = jnp.asarray(rng.normal(size=(num_variables, NUM_VALUES, dim)), jnp.float32)
    places = jnp.arange(num_variables)

    def likelihood(tables: Any, z: Any) -> Any:
        return distributions.normal(tables[places, z].sum(0), jnp.full(dim, 0.3))

    model = models.categorical(num_variables, NUM_VALUES, likelihood, lambda key: tables)
    logits = jnp.tile(jnp.log(jnp.array([0.55, 0.25, 0.15, 0.05])), (num_variables, 1))
    theta = models.Discrete(logits, tables)
    key_z, key_x = jax.random.split(jax.random.key(num_variables))
    prior = model.prior(theta)
    x = model.likelihood(theta, prior.sample(seed=key_z)).sample(seed=key_x)
    posterior = model.posterior(theta, x)
    one_hot = jax.nn.one_hot(posterior.values, NUM_VALUES)
    marginals = jnp.einsum("m,mkl->kl", jnp.exp(posterior.log_probs), one_hot)
    q = distributions.categorical(jnp.log(0.9 * marginals + 0.1 / NUM_VALUES))
    joint, truth = models.log_joint(model, theta, x), float(model.log_evidence(theta, x))
    return Bed(joint, lambda z: model.likelihood(theta, z).log_prob(x), prior, prior, q, truth)


def estimate(key: Any, bed: Bed, num_samples: int, num_repeats: int) -> dict[str, Estimates]:
    """R estimates by every method, in one program each."""
    import jax

    from lvm_jax import evidence

    calls = {
        "prior": lambda k: evidence.naive(k, bed.log_likelihood, bed.prior, num_samples),
        "uniform": lambda k: evidence.uniform(k, bed.log_joint, bed.space, num_samples),
        "importance": lambda k: evidence.importance(k, bed.log_joint, bed.q, num_samples),
    }
    found = {}
    for index, name in enumerate(METHODS):
        keys = jax.random.split(jax.random.fold_in(key, index), num_repeats)
        out = jax.jit(lambda keys, call=calls[name]: jax.lax.map(call, keys))(keys)
        rows = (out.log_evidence - bed.log_evidence, out.standard_error, out.ess, out.k_hat)
        found[name] = Estimates(*(np.asarray(row, np.float64) for row in rows))
    return found


def weight_shares(key: Any, bed: Bed, num_samples: int) -> dict[str, np.ndarray]:
    """The share that each of S draws has in the estimate, the largest first."""
    import jax

    from lvm_jax import distributions
    from lvm_jax.weights import log_weights

    proposals = {
        "prior": bed.prior,
        "uniform": distributions.flatten(bed.space),
        "importance": bed.q,
    }
    shares = {}
    for index, (name, q) in enumerate(proposals.items()):
        log_w = log_weights(jax.random.fold_in(key, index), bed.log_joint, q, num_samples)
        shares[name] = np.sort(np.asarray(jax.nn.softmax(log_w), np.float64))[::-1]
    return shares


def finish(result: Result, run: run_directory.RunDirectory) -> None:
    """Draw the figures and write the results and the report."""
    from experiments import marginal_likelihood_report as report

    figures = report.draw(result)
    numbers = {
        kind: {
            str(size): {name: report.summary(estimates) for name, estimates in found.items()}
            for size, found in getattr(result, kind).items()
        }
        for kind in ("continuous", "discrete", "growing")
    }
    publish.publish(run, result.config, numbers, figures, *report.page(result, figures))
