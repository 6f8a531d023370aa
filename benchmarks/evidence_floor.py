"""The floors of `benchmarks.evidence`: AIS by hand, the products of its gradients, no pilot."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.evidence_contestants import CHUNK, Program, plan
from benchmarks.evidence_models import LATENT, Problem
from benchmarks.evidence_peers import mean_weight, step_sizes
from lvm_jax import annealing, evidence

Slope = Callable[[jax.Array], jax.Array]


class Place(NamedTuple):
    """The positions of all chains, with the log-joint and its gradient."""

    z: jax.Array  # [N, C, L]
    log_joint: jax.Array  # [N, C]
    slope: jax.Array  # its gradient, [N, C, L]


def square(z: jax.Array) -> jax.Array:
    """|z|^2 / 2."""
    return 0.5 * (z**2).sum(-1)


def move(
    key: jax.Array,
    beta: jax.Array,
    start: Place,
    at: Callable[[jax.Array], Place],
    slope_at: Slope,
    step_size: jax.Array,
    num_leapfrogs: int,
) -> Place:
    """HMC on (1 - beta) log N(z; 0, I) + beta log p(x, z), of all chains.

    Between the ends of a trajectory only the gradient is evaluated.
    """

    def force(z: jax.Array, slope: jax.Array) -> jax.Array:
        return step_size * (beta * slope - (1 - beta) * z)

    def leapfrog(_: int, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        z, v = state
        v = v + force(z, slope_at(z))
        return z + step_size * v, v

    def energy(place: Place, v: jax.Array) -> jax.Array:
        return (1 - beta) * square(place.z) - beta * place.log_joint + square(v)

    key_v, key_test = jax.random.split(key)
    v = jax.random.normal(key_v, start.z.shape)
    v_half = v + 0.5 * force(start.z, start.slope)
    first = start.z + step_size * v_half, v_half
    z, v_half = jax.lax.fori_loop(1, num_leapfrogs, leapfrog, first)
    end = at(z)
    v_end = v_half + 0.5 * force(end.z, end.slope)
    change = energy(start, v) - energy(end, v_end)
    take = jnp.log(jax.random.uniform(key_test, change.shape)) < change
    return Place(
        jnp.where(take[..., None], end.z, start.z),
        jnp.where(take, end.log_joint, start.log_joint),
        jnp.where(take[..., None], end.slope, start.slope),
    )


def by_hand(case: dict[str, Any], problem: Problem) -> Program:
    """A scan over temperatures around a loop over leapfrog steps, without repeated evaluations."""
    betas = plan(case, "hmc").temperatures
    step_size = step_sizes(case, problem, betas)[:, None, None]
    chain = jax.vmap(lambda x, z: jax.value_and_grad(problem.log_joint(x))(z), (None, 0))

    def at(z: jax.Array) -> Place:
        return Place(z, *jax.vmap(chain)(problem.x, z))

    def slope_at(z: jax.Array) -> jax.Array:
        return at(z).slope

    def step(carry: tuple[Place, jax.Array], now: tuple) -> tuple[tuple[Place, jax.Array], None]:
        place, log_w = carry
        key, before, beta = now
        log_q = -square(place.z) - 0.5 * LATENT * jnp.log(2 * jnp.pi)
        log_w = log_w + (beta - before) * (place.log_joint - log_q)
        return (move(key, beta, place, at, slope_at, step_size, case["leapfrogs"]), log_w), None

    @jax.jit
    def run(key: jax.Array) -> jax.Array:
        key_start, key_moves = jax.random.split(key)
        start = at(jax.random.normal(key_start, (len(problem.x), case["chains"], LATENT)))
        times = jax.random.split(key_moves, len(betas) - 1), betas[:-1], betas[1:]
        (_, log_w), _ = jax.lax.scan(step, (start, jnp.zeros_like(start.log_joint)), times)
        return mean_weight(log_w)

    return run


def tuned(case: dict[str, Any], problem: Problem) -> Program:
    """`evidence.evaluate_annealed` with one step size for all points, and no pilot of its own."""
    planned = plan(case, "hmc")
    step = jnp.exp(jnp.log(step_sizes(case, problem, planned.temperatures)).mean())
    schedule = annealing.schedule(planned.temperatures, planned.transition, jnp.zeros(LATENT))
    steps = jnp.full_like(schedule.step_sizes, step)
    fixed = annealing.fixed(schedule._replace(step_sizes=steps), planned.transition)

    def run(key: jax.Array) -> jax.Array:
        found = evidence.evaluate_annealed(
            *(key, problem.model(problem.theta), None, problem.x, case["chains"], fixed),
            num_scouts=0,
        )
        return found.evidence.log_evidence

    return run


def product(case: dict[str, Any], problem: Problem) -> Program:
    """The decoder's products of one gradient a leapfrog step only, forward and back to z."""
    layers = [weight for weight, _ in problem.theta]
    number = case["temperatures"] * case["leapfrogs"] * case["points"] * case["chains"] // CHUNK

    def gradient(_: int, z: jax.Array) -> jax.Array:
        out = z
        for weight in (*layers, *(weight.T for weight in reversed(layers))):
            out = out @ weight
        return z + 1e-30 * out  # so that the compiler keeps every product

    @jax.jit
    def run(key: jax.Array) -> jax.Array:
        start = jax.random.normal(key, (CHUNK, LATENT))
        return jax.lax.fori_loop(0, number, gradient, start)

    return run


PROGRAMS: dict[str, Callable[[dict[str, Any], Problem], Program]] = {
    "AIS by hand": by_hand,
    "annealed, HMC, no pilot": tuned,
    "product": product,
}
