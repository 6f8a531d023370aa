"""Coverage of the intervals of `evidence`, for all runs and for reliable ones.

    python -m benchmarks.coverage [runs] [certify]

Prints a Markdown table of problems with known log p(x), many data sets or seeds of each, and 95%
intervals; with `certify` of its certificates only. `nominal` is the coverage of Student's interval
over all runs, `reliable` the share of runs whose checks pass (of `certify`: and whose interval is
within the tolerance), `of those` the coverage among them, `misses` the share of all runs that are
reliable and whose interval misses log p(x); the nominal value is 5%.
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import annealing, distributions, evidence, problems
from lvm_jax.evidence import Evidence
from lvm_jax.evidence.result import check_chains
from lvm_jax.guides import Guide
from lvm_jax.models import Model

Run = Callable[[Any], tuple[Any, Evidence]]  # key -> log p(x), Evidence
LENGTH, DECAY, NOISE = 20, 0.9, 0.5


def student(key: Any) -> tuple[Any, Any, Any]:
    """z ~ N(0, 1), eight x | z ~ z + 0.3 t_2: log p(x) by a sum over a grid."""
    key_z, key_x = jax.random.split(key)
    x = jax.random.normal(key_z) + 0.3 * jax.random.t(key_x, 2.0, (8,))
    prior = distributions.normal(jnp.zeros(1), jnp.ones(1))

    def joint(z: Any) -> Any:
        return prior.log_prob(z) + jax.scipy.stats.t.logpdf(x, 2.0, z, 0.3).sum()

    grid = jnp.linspace(-8, 8, 4_001)
    truth = jax.nn.logsumexp(jax.vmap(lambda z: joint(z[None]))(grid)) + jnp.log(grid[1] - grid[0])
    return truth, joint, prior


def state_space(key: Any) -> tuple[Any, Any, Any]:
    """z_t = 0.9 z_{t-1} + noise of 1, x_t = z_t + noise of 0.5, 20 steps; z is whitened."""
    key_z, key_x = jax.random.split(key)
    factor = jnp.linalg.inv(jnp.eye(LENGTH) - DECAY * jnp.eye(LENGTH, k=-1))
    x = factor @ jax.random.normal(key_z, (LENGTH,)) + NOISE * jax.random.normal(key_x, (LENGTH,))
    prior = distributions.normal(jnp.zeros(LENGTH), jnp.ones(LENGTH))

    def joint(z: Any) -> Any:
        likelihood = distributions.normal(factor @ z, jnp.full(LENGTH, NOISE))
        return prior.log_prob(z) + likelihood.log_prob(x)

    covariance = factor @ factor.T + NOISE**2 * jnp.eye(LENGTH)
    return (
        jax.scipy.stats.multivariate_normal.logpdf(x, jnp.zeros(LENGTH), covariance),
        joint,
        prior,
    )


def chains(problem: Callable, num_chains: int, temperatures: int, runs: int = 0) -> Run:
    """`annealed`, or with `runs` `sequential`, from the prior."""
    plan = annealing.plan(annealing.sigmoid(temperatures), annealing.hmc(5), adaptive=True)

    def run(key: Any) -> tuple[Any, Evidence]:
        key_x, key = jax.random.split(key)
        truth, joint, prior = problem(key_x)
        if runs:
            found = evidence.sequential(key, joint, prior, num_chains, plan, num_runs=runs)
            return truth, found.evidence
        return truth, evidence.annealed(key, joint, prior, num_chains, plan).evidence

    return run


def normal(dim: int, scale: float, size: int) -> Run:
    """Importance sampling of N(0, I) from N(0, scale^2 I)."""
    target = distributions.normal(jnp.zeros(dim), jnp.ones(dim))
    q = distributions.normal(jnp.zeros(dim), jnp.full(dim, scale))
    return lambda key: (0.0, evidence.importance(key, target.log_prob, q, size))


def drawn(log_weights: Callable, truth: float, size: int, of_chains: bool = False) -> Run:
    """Log-weights of a known distribution."""

    def run(key: Any) -> tuple[Any, Evidence]:
        log_w = log_weights(key, size)
        found = evidence.from_log_weights(log_w)
        return truth, check_chains(found, log_w, jnp.ones(1), True) if of_chains else found

    return run


def lognormal(spread: float, size: int, of_chains: bool = True) -> Run:
    """log w ~ N(0, spread^2), E[w] = exp(spread^2 / 2)."""
    draw = lambda key, size: spread * jax.random.normal(key, (size,))  # noqa: E731
    return drawn(draw, spread**2 / 2, size, of_chains)


def pareto(shape: float, size: int) -> Run:
    """w = u^-shape, E[w] = 1 / (1 - shape)."""
    draw = lambda key, size: shape * jax.random.exponential(key, (size,))  # noqa: E731
    return drawn(draw, -np.log1p(-shape), size)


def rare(share: float, size: int) -> Run:
    """A mode of 30 times the weight, drawn with probability `share`."""
    draw = lambda key, size: jnp.where(  # noqa: E731
        jax.random.bernoulli(key, share, (size,)), np.log(30.0), 0.0
    )
    return drawn(draw, np.log(1 + 29 * share), size)


LAWS: dict[str, Run] = {
    "lognormal weights, spread 0.5, 30 chains": lognormal(0.5, 30),
    "the same, spread 1": lognormal(1.0, 30),
    "the same, spread 2": lognormal(2.0, 30),
    "lognormal weights, spread 1, 1,000 draws": lognormal(1.0, 1_000, False),
    "the same, spread 1.5": lognormal(1.5, 1_000, False),
    "the same, spread 3": lognormal(3.0, 1_000, False),
    "Pareto weights, k = 0.3, 1,000 draws": pareto(0.3, 1_000),
    "the same, k = 0.5": pareto(0.5, 1_000),
    "the same, k = 0.7": pareto(0.7, 1_000),
    "the same, k = 0.9": pareto(0.9, 1_000),
    "a mode of 30 times the weight, probability 0.02, 1,000 draws": rare(0.02, 1_000),
    "the same, 30 draws": rare(0.02, 30),
    "q 1.2 times as wide, D = 4, 1,000 draws": normal(4, 1.2, 1_000),
    "q 0.9 times as wide": normal(4, 0.9, 1_000),
    "q 0.6 times as wide": normal(4, 0.6, 1_000),
}
CHAINS: dict[str, Run] = {
    "state space, 30 chains, T = 50": chains(state_space, 30, 50),
    "the same, T = 100": chains(state_space, 30, 100),
    "the same, T = 400": chains(state_space, 30, 400),
    "the same, T = 1,600": chains(state_space, 30, 1_600),
    "Student likelihood, 64 chains, T = 4": chains(student, 64, 4),
    "the same, T = 16": chains(student, 64, 16),
    "the same, T = 64": chains(student, 64, 64),
    "the same, sequential, 8 runs of 32, T = 4": chains(student, 32, 4, 8),
    "the same, sequential, T = 32": chains(student, 32, 32, 8),
}


def certificates(deviations: tuple[float, float], num_points: int) -> tuple[np.ndarray, Any]:
    """`certify` of x = z + noise of two deviations, from the prior; log p(x) in closed form."""
    scale = jnp.array(deviations)
    prior = distributions.normal(jnp.zeros(2), jnp.ones(2))
    model = Model(lambda key: (), lambda _: prior, lambda _, z: distributions.normal(z, scale))
    wide = np.sqrt(1 + np.square(deviations))
    x = (np.random.default_rng(0).normal(size=(num_points, 2)) * wide).astype(np.float32)
    guide = Guide(lambda key: (), lambda _, x: prior)
    found = evidence.certify(jax.random.key(0), model(()), guide(()), x, **CERTIFY)
    truth = -(0.5 * (x / wide) ** 2 + np.log(wide * np.sqrt(2 * np.pi))).sum(1)
    return truth, found


def certified(problem: problems.Problem, num_points: int) -> tuple[np.ndarray, Any]:
    """`certify` of data that a problem draws."""
    data = problems.simulate(jax.random.key(0), problem, num_points)
    moves = annealing.gibbs(3, 6) if problem.name == "discrete" else None
    found = evidence.certify(
        jax.random.key(1), problem.p, problem.q, data.x, transition=moves, **CERTIFY
    )
    return data.log_evidence, found


CERTIFY = {"tolerance": 0.1, "budget": 1e5}
LOGITS = np.linspace(-0.8, 0.8, 6)[:, None] * np.arange(-1.0, 2.0)
PROBLEMS = {
    **{f"two modes, D = {d}": problems.two_modes(d) for d in (2, 4, 8, 16)},
    **{f"four modes, D = {d}": problems.four_modes(d) for d in (2, 3, 4)},
    **{f"Gaussian, D = {d}": problems.linear_gaussian(d) for d in (2, 8, 32)},
    "heavy tails": problems.heavy_tails(2),
    "discrete": problems.discrete(LOGITS),
}


def row(name: str, truth: np.ndarray, nominal: Any, interval: Any, reliable: np.ndarray) -> str:
    """One problem of the table."""
    holds = [(low <= truth) & (truth <= high) for low, high in (nominal, interval)]
    inside = f"{holds[1][reliable].mean():.1%}" if reliable.any() else "-"
    misses = (reliable & ~holds[1]).mean()
    return f"| {name} | {holds[0].mean():.1%} | {reliable.mean():.0%} | {inside} | {misses:.1%} |"


def main(runs: int, only: str = "") -> None:
    """Print the table of `runs` data sets a problem, and 4 * `runs` for the first problems."""
    print("| problem | nominal | reliable | of those | misses |\n|---|---|---|---|---|")
    tables = () if only == "certify" else ((LAWS, 4 * runs), (CHAINS, runs))
    for table, number in tables:
        for name, run in table.items():
            keys = jax.random.split(jax.random.key(1), number)
            truth, found = jax.device_get(jax.jit(lambda k, run=run: jax.lax.map(run, k))(keys))
            limits = found.nominal_interval(), found.interval()
            print(row(name, np.asarray(truth), *limits, found.reliable), flush=True)
    for name, deviations in (("certify, condition 10", (1.0, 0.3)), ("1e6", (1.0, 1e-3))):
        print_certified(name, *certificates(deviations, 400))
    for name, problem in PROBLEMS.items():
        print_certified(f"certify, {name}", *certified(problem, runs))


def print_certified(name: str, truth: np.ndarray, found: evidence.Certificate) -> None:
    """The row of one problem, its mean cost and its verdict."""
    limits = found.low, found.high
    words = f"{found.cost.mean():,.0f} evaluations, {found.verdict()}"
    print(row(name, truth, limits, limits, found.within), words, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500, *sys.argv[2:3])
