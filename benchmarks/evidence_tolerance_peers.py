"""The peers of `benchmarks.evidence_tolerance`: TFP's AIS, BlackJAX's tempered SMC, dynesty.

TFP and BlackJAX have one step size for each data set, the geometric mean of lvm_jax's pilot, whose
evaluations and time do not count, and the prior's deviations as scales.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.coverage_methods import CHAINS
from benchmarks.coverage_problems import LEAPFROGS, Problem
from benchmarks.evidence_peers import mean_weight, recomputed_kernel
from benchmarks.evidence_tolerance import BUDGETS, LIVE, Contestant, Rung
from lvm_jax import annealing
from lvm_jax._core.batching import map_points

PARTICLES = (64, 256, 1_024, 4_096, 16_384)  # of tempered SMC
TARGET_ESS, MOVES = 0.5, 10  # of tempered SMC; 10 moves a temperature are its default
DLOGZ = 0.01  # the part of the evidence that dynesty leaves to the live points


def step_sizes(problem: Problem, number: int) -> tuple[jax.Array, jax.Array]:
    """Step sizes [N] and scales [N, D] of the pilot over `number` temperatures."""

    def one(point: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
        key, x = point
        joint, prior = problem.p.log_joint(x), problem.p.prior(x)
        found = annealing.tune(key, joint, prior, annealing.sigmoid(number), problem.moves)
        return jnp.exp(jnp.log(found.schedule.step_sizes).mean()), found.schedule.scale

    keys = jax.random.split(jax.random.key(3), len(problem.x))
    return jax.jit(jax.vmap(lambda *point: one(point)))(keys, problem.x)


def tfp(problem: Problem, level: int) -> Rung | None:
    """TFP's annealed importance sampling, with its kernel recomputed at each temperature."""
    from tensorflow_probability.substrates.jax import mcmc

    number = (BUDGETS[level] // CHAINS - 1) // (LEAPFROGS + 1)
    if number < 2:
        return None
    kernel, (steps, scales) = recomputed_kernel(), step_sizes(problem, min(number, 100))
    sizes = steps[:, None, None] * scales[:, None]
    prior = problem.p.prior(problem.x[0])
    log_q = jax.vmap(jax.vmap(prior.log_prob))
    each = lambda x, z: jax.vmap(problem.p.log_joint(x))(z)  # noqa: E731

    @jax.jit
    def chains(key: jax.Array, x: jax.Array) -> jax.Array:
        key_start, key_chains = jax.random.split(key)
        start = prior.sample(seed=key_start, sample_shape=(len(x), CHAINS))
        _, log_w, _ = mcmc.sample_annealed_importance_chain(
            number, log_q, lambda z: jax.vmap(each)(x, z), start,
            lambda f: kernel(f, sizes, LEAPFROGS), seed=key_chains,
        )  # fmt: skip
        return mean_weight(log_w)

    cost = annealing.chain_cost(CHAINS, number, LEAPFROGS + 1)
    return Rung(lambda key: (np.asarray(chains(key, problem.x)), cost))


def tempered(problem: Problem, level: int) -> Rung:
    """BlackJAX's adaptive tempered SMC with HMC."""
    size, (steps, scales) = PARTICLES[level], step_sizes(problem, 100)

    def one(point: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
        key, x, step, scale = point
        smc, start = make_smc(problem, x, step, scale)
        key_start, key_steps = jax.random.split(key)
        state = smc.init(start.sample(seed=key_start, sample_shape=(size,)))

        def move(carry: tuple) -> tuple:
            state, log_z, count = carry
            state, info = smc.step(jax.random.fold_in(key_steps, count), state)
            return state, log_z + info.log_likelihood_increment, count + 1

        begin = state._replace(tempering_param=jnp.zeros(())), jnp.zeros(()), jnp.int32(0)
        more = lambda carry: (carry[0].tempering_param < 1) & (carry[2] < 200)  # noqa: E731
        _, log_z, count = jax.lax.while_loop(more, move, begin)
        return log_z, size * (1 + count * MOVES * (LEAPFROGS + 1))

    points = jax.jit(lambda *point: map_points(one, point, 1))

    def run(key: Any) -> tuple[np.ndarray, float]:
        log_z, cost = points(
            jax.random.split(key, len(problem.x)), problem.x, steps, scales
        )  # fmt: skip
        return np.asarray(log_z), float(cost.mean())

    return Rung(run)


def make_smc(problem: Problem, x: Any, step: jax.Array, scale: jax.Array) -> tuple[Any, Any]:
    """BlackJAX's sampler for one data set, and the prior."""
    import blackjax
    from blackjax.smc import extend_params, resampling

    prior = problem.p.prior(x)
    shared = {
        "step_size": step,
        "inverse_mass_matrix": scale**2,
        "num_integration_steps": jnp.asarray(LEAPFROGS),
    }
    smc = blackjax.adaptive_tempered_smc(
        prior.log_prob, lambda z: problem.p.log_likelihood(z, x), blackjax.hmc.build_kernel(),
        blackjax.hmc.init, extend_params(shared), resampling.systematic, TARGET_ESS,
        num_mcmc_steps=MOVES,
    )  # fmt: skip
    return smc, prior


def dynesty(problem: Problem, level: int) -> Rung | None:
    """dynesty's nested sampler with its defaults; its Python loop calls a compiled likelihood."""
    import dynesty as peer

    from_unit = problem.from_unit
    if from_unit is None or LIVE[level] > LIVE[-2]:
        return None
    dim = np.asarray(problem.p.prior(problem.x[0]).sample(seed=jax.random.key(0))).size
    likelihood = jax.jit(problem.p.log_likelihood)
    likelihood(jnp.zeros(dim), problem.x[0])

    def one(x: Any, seed: int) -> tuple[float, int]:
        value: Callable[[np.ndarray], float] = lambda z: float(likelihood(z, x))  # noqa: E731
        random = np.random.default_rng(seed)
        sampler = peer.NestedSampler(value, from_unit, dim, nlive=LIVE[level], rstate=random)
        sampler.run_nested(print_progress=False, dlogz=DLOGZ)
        return sampler.results.logz[-1], int(np.sum(sampler.results.ncall))

    def run(key: Any) -> tuple[np.ndarray, float]:
        seed = int(jax.random.randint(key, (), 0, 2**30))
        found = np.array([one(x, seed + i) for i, x in enumerate(problem.x)], float)
        return found[:, 0], float(found[:, 1].mean())

    return Rung(run, compiled=False)


PEERS: dict[str, tuple[Contestant, int]] = {  # with the number of settings
    "AIS, TFP": (tfp, len(BUDGETS)),
    "tempered SMC, BlackJAX": (tempered, len(PARTICLES)),
    "nested, dynesty": (dynesty, len(LIVE)),
}
