"""The peers of `benchmarks.vi`: NumPyro's SVI, and BlackJAX's variational inference.

Each runs in one program from checkpoint to checkpoint, without averages of iterates. NumPyro has 10
draws in a step. BlackJAX has 100, its default; as few steps are then left, also 10. Starts are the
defaults of each: uniform in (-2, 2) for NumPyro, zero for BlackJAX, uniform in (-2, 2) for the
paths of Pathfinder. BlackJAX has no default rate. All three rates are run.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.vi_contestants import Fitted
from lvm_jax.problems import Target

NUM_DRAWS = {"NumPyro": (10,), "BlackJAX": (100, 10)}  # in a step
NUM_PATHS, NUM_POINTS = (1, 4), 31  # points of a path
NUM_MOMENTS, NUM_CHUNKS = 50_000, 8  # draws for mean and covariance of a path's normal

Program = Callable[[dict[str, Any], Target], Iterator[tuple[list[Fitted], float]]]


def optimised(
    key: jax.Array, budgets: list[int], draws: int, advance: Callable, state: Any, read: Callable
) -> list[Fitted]:
    """The iterates after each budget, with `draws` evaluations in a step."""
    rows, steps, spent = [], 0, 0.0
    for budget in budgets:
        began, stop = time.perf_counter(), budget // draws
        own = jax.random.fold_in(key, steps)
        state = jax.block_until_ready(advance(own, state, stop - steps))
        spent, steps = spent + time.perf_counter() - began, stop
        rows.append(Fitted(budget, spent, *read(state)))
    return rows


def numpyro(case: dict[str, Any], target: Target, draws: int, rate: float) -> Any:
    """SVI with an automatic guide, Trace_ELBO and Adam."""
    import numpyro as npy
    from numpyro import distributions as dist
    from numpyro import infer
    from numpyro.infer import autoguide

    def model() -> None:
        real = dist.constraints.real_vector
        z = npy.sample("z", dist.ImproperUniform(real, (), (target.dim,)))
        npy.factor("log_density", target.log_density(z))

    diagonal = case["family"] == "mean_field"
    guide = (autoguide.AutoNormal if diagonal else autoguide.AutoMultivariateNormal)(model)
    svi = infer.SVI(model, guide, npy.optim.Adam(rate), infer.Trace_ELBO(num_particles=draws))

    @jax.jit
    def advance(key: jax.Array, state: Any, num_steps: int) -> Any:
        return jax.lax.fori_loop(0, num_steps, lambda _, state: svi.update(state)[0], state)

    def read(state: Any) -> tuple[np.ndarray, np.ndarray]:
        found = {name: np.asarray(leaf, float) for name, leaf in svi.get_params(state).items()}
        if diagonal:
            return found["z_auto_loc"], np.diag(found["z_auto_scale"])
        return found["auto_loc"], found["auto_scale_tril"]

    return advance, svi.init, read


def blackjax(case: dict[str, Any], target: Target, draws: int, rate: float) -> Any:
    """meanfield_vi or fullrank_vi with Adam."""
    import blackjax as peer

    diagonal = case["family"] == "mean_field"
    make = peer.meanfield_vi if diagonal else peer.fullrank_vi
    program = make(target.log_density, optax.adam(rate), draws)

    @jax.jit
    def advance(key: jax.Array, state: Any, num_steps: int) -> Any:
        def step(index: jax.Array, state: Any) -> Any:
            return program.step(jax.random.fold_in(key, index), state)[0]

        return jax.lax.fori_loop(0, num_steps, step, state)

    def read(state: Any) -> tuple[np.ndarray, np.ndarray]:
        mean = np.asarray(state.mu, float)
        if diagonal:
            return mean, np.diag(np.exp(np.asarray(state.rho, float)))
        rows = np.asarray(state.chol_params, float)
        factor = np.diag(np.exp(rows[: target.dim]))
        factor[np.tril_indices(target.dim, -1)] = rows[target.dim :]
        return mean, factor

    return advance, lambda _: program.init(jnp.zeros(target.dim)), read


def by_adam(case: dict[str, Any], target: Target) -> Iterator[tuple[list[Fitted], float]]:
    """Every setting of a peer, one after another, for each seed."""
    make = {"NumPyro": numpyro, "BlackJAX": blackjax}[case["contestant"]]
    budgets = [*case["budgets"], *case["more"]]
    curves: list[list[Fitted]] = [[] for _ in range(case["repeats"])]
    compiled = []
    for draws in NUM_DRAWS[case["contestant"]]:
        for rate in case["rates"]:
            began = time.perf_counter()
            advance, start, read = make(case, target, draws, rate)
            jax.block_until_ready(advance(jax.random.key(0), start(jax.random.key(0)), 0))
            compiled.append(time.perf_counter() - began)
            for seed, rows in enumerate(curves):
                key = jax.random.key(case["seed"] + seed)
                rows += optimised(key, budgets, draws, advance, start(key), read)
    for rows in curves:
        yield rows, float(np.mean(compiled))


def pathfinder(case: dict[str, Any], target: Target) -> Iterator[tuple[list[Fitted], float]]:
    """The normal of the highest ELBO of P paths; all with BlackJAX's defaults.

    Evaluations are the 31 points of a path, without those of line searches, and 200 draws at each.
    """
    from blackjax.vi import multipathfinder
    from blackjax.vi import pathfinder as single

    @jax.jit
    def run(key: jax.Array, starts: jax.Array) -> Any:
        return multipathfinder.multi_approximate(key, target.log_density, starts)

    draw = jax.jit(lambda key, path: single.sample(key, path, NUM_MOMENTS)[0])
    for seed in range(case["repeats"]):
        rows, compiled, key = [], [], jax.random.key(case["seed"] + seed)
        for number in NUM_PATHS:
            starts = jax.random.uniform(key, (number, target.dim), minval=-2.0, maxval=2.0)
            times = []
            for _ in range(2):
                began = time.perf_counter()
                state, _ = jax.block_until_ready(run(key, starts))
                times.append(time.perf_counter() - began)
            compiled.append(times[0] - times[1])
            best = int(np.argmax(state.path_states.elbo))
            path = jax.tree.map(lambda leaf, best=best: leaf[best], state.path_states)
            count = number * NUM_POINTS * (1 + 200)
            rows.append(Fitted(count, times[1], *moments(key, draw, path)))
        yield rows, float(np.mean(compiled))


def moments(key: jax.Array, draw: Callable, path: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and lower factor of a path's normal, from draws of it."""
    keys = jax.random.split(key, NUM_CHUNKS)
    z = np.concatenate([np.asarray(draw(own, path), np.float32) for own in keys])
    return z.mean(0, dtype=float), np.linalg.cholesky(np.atleast_2d(np.cov(z.T)))


PROGRAMS: dict[str, Program] = {
    "NumPyro": by_adam,
    "BlackJAX": by_adam,
    "Pathfinder, BlackJAX": pathfinder,
}
