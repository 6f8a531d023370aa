"""The peers of `benchmarks.evidence`: TFP's AIS and blackjax's tempered SMC.

They use the same log-joint, chains, number of temperatures and leapfrog steps, and ONE step size
for each point: the geometric mean of the pilot of lvm_jax on their schedule, whose time does not
count. TFP has a linear schedule only; blackjax uses the sigmoid one.

TFP's chains pass to their kernel the log-density and the gradient at the previous temperature, and
after a rejection those of an older one. With unnormalised densities, which decrease along the path,
chains stop moving. "TFP, recomputed" has a kernel that computes both at its start, as a chain of
Neal (2001) needs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.evidence_contestants import CHUNK, Program, plan
from benchmarks.evidence_models import LATENT, Problem
from lvm_jax import annealing
from lvm_jax._core.batching import batch_size, map_points


def step_sizes(case: dict[str, Any], problem: Problem, temperatures: jax.Array) -> jax.Array:
    """Step sizes of lvm_jax's pilot for each point, geometric means over temperatures, [N]."""
    planned, prior = plan(case, "hmc"), problem.model.prior(problem.theta)

    @jax.jit
    def run(key: jax.Array) -> jax.Array:
        def one(point: tuple[jax.Array, jax.Array]) -> jax.Array:
            tuned = annealing.tune(
                *(jax.random.fold_in(key, point[0]), problem.log_joint(point[1]), prior),
                *(temperatures, planned.transition, planned.num_pilot),
            )
            return jnp.exp(jnp.log(tuned.schedule.step_sizes).mean())

        points = (jnp.arange(len(problem.x)), problem.x)
        return map_points(one, points, batch_size(CHUNK, planned.num_pilot, len(problem.x)))

    return jax.block_until_ready(run(jax.random.key(case["seed"] + 3)))


def densities(problem: Problem) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """log q and log p(x, .) of z [N, C, L], as [N, C]."""
    prior = problem.model.prior(problem.theta)
    chains = lambda x, z: jax.vmap(problem.log_joint(x))(z)  # noqa: E731
    return jax.vmap(jax.vmap(prior.log_prob)), lambda z: jax.vmap(chains)(problem.x, z)


def mean_weight(log_w: jax.Array) -> jax.Array:
    """log (1/C) sum_c w_c of [N, C]."""
    return jax.nn.logsumexp(log_w, axis=1) - jnp.log(log_w.shape[1])


def recomputed_kernel() -> Any:
    """TFP's HMC with the log-density and the gradient computed at the start of each move."""
    from tensorflow_probability.substrates.jax import mcmc

    class Recomputed(mcmc.HamiltonianMonteCarlo):
        def one_step(self, current_state: Any, previous_kernel_results: Any, seed: Any) -> Any:
            fresh = self.bootstrap_results(current_state)
            return super().one_step(current_state, fresh, seed=seed)

    return Recomputed


def tfp(case: dict[str, Any], problem: Problem, recomputed: bool = False) -> Program:
    """TensorFlow Probability's chains on JAX, all points at once."""
    from tensorflow_probability.substrates.jax import mcmc

    kernel = recomputed_kernel() if recomputed else mcmc.HamiltonianMonteCarlo
    log_q, log_joint = densities(problem)
    temperatures = annealing.linear(case["temperatures"])
    step_size = step_sizes(case, problem, temperatures)[:, None, None]

    @jax.jit
    def run(key: jax.Array) -> jax.Array:
        key_start, key_chains = jax.random.split(key)
        start = jax.random.normal(key_start, (len(problem.x), case["chains"], LATENT))
        _, log_w, _ = mcmc.sample_annealed_importance_chain(
            case["temperatures"], log_q, log_joint, start,
            lambda f: kernel(f, step_size, case["leapfrogs"]), seed=key_chains,
        )  # fmt: skip
        return mean_weight(log_w)

    return run


def blackjax(case: dict[str, Any], problem: Problem) -> Program:
    """blackjax's tempered SMC with its HMC: one move a temperature, always resampled."""
    import blackjax as bjx
    from blackjax.smc import extend_params, resampling

    prior, betas = problem.model.prior(problem.theta), plan(case, "hmc").temperatures
    sizes = step_sizes(case, problem, betas)

    def one(point: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        key, x, step_size = point
        log_joint = problem.log_joint(x)
        shared = {
            "step_size": step_size,
            "inverse_mass_matrix": jnp.ones(LATENT),
            "num_integration_steps": jnp.asarray(case["leapfrogs"]),
        }
        smc = bjx.tempered_smc(
            prior.log_prob, lambda z: log_joint(z) - prior.log_prob(z), bjx.hmc.build_kernel(),
            bjx.hmc.init, extend_params(shared), resampling.systematic, num_mcmc_steps=1,
        )  # fmt: skip

        def step(state: Any, now: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
            state, info = smc.step(now[0], state, now[1])
            return state, info.log_likelihood_increment

        key_start, key_steps = jax.random.split(key)
        start = smc.init(jax.random.normal(key_start, (case["chains"], LATENT)))
        keys = jax.random.split(key_steps, len(betas) - 1)
        return jax.lax.scan(step, start, (keys, betas[1:]))[1].sum()

    return jax.jit(
        lambda key: jax.vmap(one)((jax.random.split(key, len(problem.x)), problem.x, sizes))
    )


PROGRAMS: dict[str, Callable[[dict[str, Any], Problem], Program]] = {
    "AIS, TFP": tfp,
    "AIS, TFP, recomputed": partial(tfp, recomputed=True),
    "tempered SMC, blackjax": blackjax,
}
