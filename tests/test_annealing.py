"""Annealed chains against exact evidence: every move, forwards and backwards, and their tuning."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_problems import PROBLEMS
from model_cases import quick_jit

from lvm_jax import annealing, distributions, evidence
from lvm_jax.annealing.path import Path
from lvm_jax.models import Model

CHAINS, REPEATS = 6_000, 77.46  # and the square root

# problem: moves that its z can make. MALA is HMC of one step, and has a test of its own below; a value
# in [0, K), bits and one-hot rows each have one move here, and each move has two of the three.
MOVES = {
    "linear_gaussian": {
        "hmc": annealing.hmc(3),
        "random_walk": annealing.random_walk(2),
    },
    "mixture": {"gibbs": annealing.gibbs(3)},
    "bits": {"flip": annealing.flip(2, 2)},
    "one_hot": {"gibbs": annealing.gibbs(3, 3, True), "flip": annealing.flip(3, 2, True)},
}
ROWS = [(problem, move) for problem, moves in MOVES.items() for move in moves]
NORMAL = distributions.normal(jnp.zeros(2), jnp.ones(2))


class Travelled(NamedTuple):
    """Log-weights of chains from q, [S], and back from exact posterior draws."""

    forward: np.ndarray
    acceptance: np.ndarray  # of a chain from q, [T]
    back: np.ndarray


def travel(name):
    """log p, the variance of q's own log-weights, and {move: Travelled} of a problem."""
    problem = PROBLEMS[name]()
    joint, q = problem.log_joint(problem.theta, problem.x), problem.guide(problem.phi)
    posterior = problem.posterior(problem.theta, problem.x)

    def both(key, move):
        forward_key, z_key, back_key = jax.random.split(key, 3)
        plan = annealing.plan(
            annealing.sigmoid(8), move,
            num_pilot=20 if move.continuous else 0, adaptive=move.continuous,
        )  # fmt: skip
        forward = evidence.annealed(forward_key, joint, q, CHAINS, plan)
        z = posterior.sample(seed=z_key, sample_shape=(CHAINS,))
        back = jax.vmap(
            lambda key, z: annealing.reverse(
                key, Path(q.log_prob, joint), z, forward.schedule, move
            )
        )(jax.random.split(back_key, CHAINS), z)
        # All that is asserted: k-hat and the other statistics would be compiled as well.
        return Travelled(forward.log_weights, forward.acceptance, back.log_weight)

    def every(key):
        keys = jax.random.split(key, len(MOVES[name]))
        z = q.sample(seed=jax.random.key(2), sample_shape=(2_000,))
        plain = jax.vmap(lambda one: joint(one) - q.log_prob(one))(z)
        return (
            problem.log_evidence(problem.theta, problem.x),
            plain.var(),
            {move: both(k, MOVES[name][move]) for k, move in zip(keys, MOVES[name], strict=True)},
        )

    return jax.device_get(quick_jit(every)(jax.random.key(1)))


@pytest.fixture(scope="module")
def found():
    return {name: travel(name) for name in MOVES}


@pytest.mark.parametrize("problem, move", ROWS)
def test_both_directions_are_unbiased(found, problem, move):
    log_p, _, travelled = found[problem]
    forward, acceptance, back = travelled[move]
    for draws in (np.exp(forward - log_p), np.exp(log_p - back)):
        error = draws.std() / REPEATS
        assert abs(draws.mean() - 1) < 5 * error
        assert error < 0.018  # so that a factor of 1.1 would be seen
    # The logarithms bound log p(x) from the two sides (Jensen), by more than their errors here.
    assert forward.mean() + 5 * forward.std() / REPEATS < log_p
    assert back.mean() - 5 * back.std() / REPEATS > log_p
    assert acceptance.shape == (8,)
    assert ((acceptance > 0.1) & (acceptance <= 1)).all()


def test_annealing_helps(found):
    # The same q without annealing: the spread of its log-weights is wider on every problem.
    for name, (_, plain, travelled) in found.items():
        for forward, *_ in travelled.values():
            assert np.var(forward) < 0.9 * plain, name


CONTINUOUS = MOVES["linear_gaussian"] | {"mala": annealing.mala()}


@pytest.mark.parametrize("move", CONTINUOUS)
def test_moves_leave_the_posterior_invariant(move):
    # Ten moves at beta = 1 from exact draws: mean and second moments stay within 5 errors.
    problem = PROBLEMS["linear_gaussian"]()
    joint, posterior = (
        problem.log_joint(problem.theta, problem.x),
        problem.posterior(problem.theta, problem.x),
    )
    transition, path = CONTINUOUS[move], annealing.Path(posterior.log_prob, joint)

    @quick_jit
    def run(key):
        key_z, key_move = jax.random.split(key)
        z = posterior.sample(seed=key_z, sample_shape=(CHAINS,))

        def step(places, key):
            keys = jax.random.split(key, CHAINS)
            scale, size, beta = jnp.ones(2), jnp.asarray(0.4), jnp.asarray(1.0)
            apply = lambda k, one: transition.apply(k, path, beta, one, scale, size)[0]  # noqa: E731
            return jax.vmap(apply)(keys, places), None

        places = jax.vmap(lambda z: path.place(z, transition.slopes))(z)
        return z, jax.lax.scan(step, places, jax.random.split(key_move, 10))[0].z

    start, end = (np.asarray(z, np.float64) for z in run(jax.random.key(3)))
    assert (np.abs(end - start).max(0) > 0.5).all()  # they did move
    factor = np.linalg.inv(np.asarray(posterior.cholesky, np.float64))
    white = (end - np.asarray(posterior.mean)) @ factor.T
    assert np.abs(white.mean(0)).max() < 5 / REPEATS
    products = white[:, :, None] * white[:, None, :] - np.eye(2)
    assert (np.abs(products.mean(0)) < 5 * products.std(0) / REPEATS).all()


def test_exact_at_the_posterior():
    problem = PROBLEMS["linear_gaussian"]()
    joint, q = (
        problem.log_joint(problem.theta, problem.x),
        problem.posterior(problem.theta, problem.x),
    )
    plan = annealing.plan(annealing.linear(3), num_pilot=0)
    run = quick_jit(lambda key: evidence.annealed(key, joint, q, 30, plan, num_scouts=0))
    result = run(jax.random.key(0))
    truth = problem.log_evidence(problem.theta, problem.x)
    np.testing.assert_allclose(result.log_weights, np.full(30, truth), rtol=3e-6)
    assert result.evidence.num_samples == 30
    assert result.evidence.standard_error < 1e-6


def narrow(z):
    """z ~ N(0, 1), x | z ~ N(z, 1/16) at x = 1, up to a constant."""
    return -0.5 * (z**2).sum() - 8 * ((1.0 - z) ** 2).sum()


def test_adaptive_temperatures_have_equal_conditional_ess():
    # pi_beta = N(m, 1 / (1 + 16 beta)), and the variance of log p(x | z) under it is
    # 8^2 Var((1 - z)^2) in closed form.
    q = distributions.normal(jnp.zeros(1), jnp.ones(1))
    tuned = quick_jit(
        lambda key: annealing.tune(
            key, narrow, q, annealing.sigmoid(24), annealing.random_walk(4), 800, adaptive=True
        )
    )(jax.random.key(0))
    betas = np.linspace(0, 1, 20_001)
    variance, mean = 1 / (1 + 16 * betas), 16 * betas / (1 + 16 * betas)
    off = 1 - mean
    deviation = 8 * np.sqrt(2 * variance**2 + 4 * variance * off**2)
    distance = np.concatenate([[0], np.cumsum(0.5 * (deviation[1:] + deviation[:-1]))])
    exact = np.interp(np.linspace(0, 1, 25), distance / distance[-1], betas)
    placed = np.asarray(tuned.schedule.temperatures)
    assert placed[0] == 0
    assert placed[-1] == 1
    # The pilot's grid is coarse and its 800 chains are noisy: a few per cent of sigmoid spacing.
    np.testing.assert_allclose(np.interp(placed, betas, distance / distance[-1]),
                               np.linspace(0, 1, 25), atol=0.04)  # fmt: skip
    assert exact[1] < 0.5 * np.asarray(annealing.linear(24))[1]
    # The step follows the density as it narrows, 4.1-fold, a little late.
    steps = np.asarray(tuned.schedule.step_sizes)
    assert steps[0] / steps[-1] > 2.5
    assert abs(tuned.acceptance.mean() - 0.234) < 0.1


def test_a_long_pilot_visits_fifty_temperatures():
    # In one dimension steps of N(0, s^2) on N(0, v) are accepted with (2 / pi) atan(2 sqrt(v) / s).
    q, betas = distributions.normal(jnp.zeros(1), jnp.ones(1)), annealing.sigmoid(250)
    tuned = quick_jit(
        lambda key: annealing.tune(key, narrow, q, betas, annealing.random_walk(4), 400)
    )(jax.random.key(0))
    assert tuned.temperatures.shape == (51,)
    assert np.isin(tuned.temperatures, betas).all()
    np.testing.assert_array_equal(tuned.schedule.temperatures, betas)
    steps = np.asarray(tuned.schedule.step_sizes * tuned.schedule.scale)
    exact = 2 / np.tan(0.234 * np.pi / 2) / np.sqrt(1 + 16 * np.asarray(betas[1:]))
    # On the way down the steps lag a little; where the posterior narrows no more they are there.
    np.testing.assert_allclose(steps, exact, rtol=0.2)
    np.testing.assert_allclose(np.mean(steps[-50:] / exact[-50:]), 1, rtol=0.06)


def test_weights_of_zero_are_counted():
    def half(z):
        return NORMAL.log_prob(z) + jnp.where(z[0] > 0, 0.0, -jnp.inf)

    @quick_jit
    def run(key):
        found = evidence.annealed(key, half, NORMAL, 900, annealing.plan(annealing.linear(3)))
        answer = found.evidence
        return answer.num_negative_infinite, answer.log_evidence, found.z, found.log_weights

    zero, log_evidence, z, log_weights = jax.device_get(run(jax.random.key(0)))
    assert abs(zero - 450) < 5 * 15
    np.testing.assert_allclose(log_evidence, np.log(1 - zero / 900), rtol=1e-4)
    assert (z[np.isfinite(log_weights), 0] > 0).all()


def test_a_step_size_that_rejects_everything_shows():
    huge = annealing.hmc(2)._replace(step_size=1e4)
    plan = annealing.plan(annealing.linear(3), huge, num_pilot=0)
    joint = lambda z: NORMAL.log_prob(z - 1)  # noqa: E731
    run = quick_jit(lambda key: evidence.annealed(key, joint, NORMAL, 50, plan).acceptance)
    np.testing.assert_array_equal(run(jax.random.key(0)), np.zeros(3))


def unadjusted(problem, phi, theta, step_size, key, num_samples):
    return annealing.unadjusted_log_weights(
        key, problem.log_joint(theta, problem.x), problem.guide(phi), num_samples,
        temperatures=annealing.linear(8), step_size=step_size, refreshment=0.3,
    )  # fmt: skip


def test_unadjusted_chains_are_unbiased():
    problem = PROBLEMS["linear_gaussian"]()

    @quick_jit
    def run(key):
        log_w = unadjusted(problem, problem.phi, problem.theta, jnp.asarray(0.2), key, CHAINS)
        return (
            log_w,
            problem.log_evidence(problem.theta, problem.x),
            problem.elbo(problem.theta, problem.phi, problem.x),
        )

    draws, log_p, elbo = jax.device_get(run(jax.random.key(4)))
    assert draws.dtype == np.float32
    ratio = np.exp(draws - log_p)
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / REPEATS < 5 * 0.018
    assert draws.mean() > elbo + 0.01


def test_unadjusted_chains_are_differentiable(x64):
    # Central differences along a direction of everything that can be learned.
    problem = PROBLEMS["linear_gaussian"]()
    point = jax.device_get((problem.phi, problem.theta, jnp.asarray(0.2)))
    way = jax.tree.map(lambda leaf: np.cos(np.arange(leaf.size)).reshape(leaf.shape), point)

    @quick_jit
    @jax.value_and_grad
    def total(args):
        return unadjusted(problem, *args, jax.random.key(5), 3).mean()

    value, slope = total(point)
    assert value.dtype == np.float64
    along = sum(np.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (slope, way)), strict=True))
    h = 1e-6
    ends = [total(jax.tree.map(lambda p, w: p + s * w, point, way))[0] for s in (h, -h)]  # noqa: B023
    np.testing.assert_allclose(along, (ends[0] - ends[1]) / (2 * h), rtol=1e-6)


def test_every_point_of_a_data_set():
    # x | z ~ N(z + theta, I). The result of a point is `annealed` of this point, for any other points.
    traces = []

    def likelihood(theta, z):
        traces.append(None)
        return distributions.normal(z + theta, jnp.ones(2))

    model = Model(lambda key: jnp.zeros(2), lambda theta: NORMAL, likelihood)
    x = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    plan = annealing.plan(annealing.linear(3), annealing.random_walk(1), num_pilot=0)

    def run(seed, x, theta):
        key = jax.random.key(seed)
        return evidence.evaluate_annealed(key, model(theta), None, x, 40, plan, num_scouts=0)

    theta = jnp.array([0.3, -0.2])
    result = run(0, x, theta)
    truth = -((x - np.asarray(theta)) ** 2).sum(1) / 4 - np.log(4 * np.pi)
    off = (np.asarray(result.evidence.log_evidence) - truth) / result.evidence.standard_error
    assert np.abs(off).max() < 5
    assert result.acceptance.shape == (5, 3)
    before = len(traces)
    other = run(0, np.where(np.arange(5)[:, None] == 2, x, -x), theta)
    run(1, x, theta + 1)
    assert len(traces) == before  # shapes of a known model are not traced again
    assert other.evidence.log_evidence[2] == result.evidence.log_evidence[2]
    with pytest.raises(ValueError, match="x: expected shape"):
        run(0, x[:, :1], theta)


def test_a_latent_of_several_parts():
    # A tuple z, as a hierarchy has: scales, momenta and proposals follow its structure.
    def joint(z):
        return (NORMAL.log_prob(z[0]) + NORMAL.log_prob(z[1] - z[0])) + 0.7

    class Pair(tuple):
        def sample(self, *, seed, sample_shape=()):
            keys = jax.random.split(seed)
            return tuple(NORMAL.sample(seed=k, sample_shape=sample_shape) for k in keys)

        def log_prob(self, z):
            return NORMAL.log_prob(z[0]) + NORMAL.log_prob(z[1])

    @quick_jit
    def run(key):
        found = []
        for move, num_pilot in ((annealing.hmc(2), 20), (annealing.random_walk(2), 0)):
            plan = annealing.plan(annealing.linear(8), move, num_pilot=num_pilot)
            answer = evidence.annealed(key, joint, Pair(), 2_000, plan).evidence
            found.append((answer.log_evidence, answer.standard_error))
        return found

    for log_evidence, error in run(jax.random.key(6)):
        assert abs(log_evidence - 0.7) < 5 * error < 0.5
