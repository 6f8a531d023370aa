"""Tails of p(z | x) beyond q: by draws that are stretched, in the verdicts of chains and particles."""

import importlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import gamma
from model_cases import quick_jit

from lvm_jax import annealing, distributions, evidence, problems
from lvm_jax.annealing.path import Path
from lvm_jax.evidence import Check, missed
from lvm_jax.evidence.stretching import STRETCHED, dimension, long_tail

KEYS = jax.random.split(jax.random.key(3), 200)


def normal(dim, scale):
    return distributions.normal(jnp.zeros(dim), jnp.full(dim, scale))


def share(path, draw, log_w=None):
    """The share of 200 sets of draws that show a tail."""

    @quick_jit
    @jax.vmap
    def one(key):
        z = draw(key)
        number = jax.tree.leaves(z)[0].shape[0]
        given = jnp.zeros(number) if log_w is None else jax.vmap(log_w)(z)
        return long_tail(path, z, given, continuous=True)

    return np.mean(one(KEYS))


@pytest.mark.parametrize("dim", [1, 3, 20])
def test_the_second_moment_of_the_weights_decides(dim):
    """p = N(0, I) and q = N(0, s^2 I): E_p[p / q] is infinite for s^2 <= 1/2."""
    p = normal(dim, 1.0)
    log_joint = lambda z: p.log_prob(z) - 57.0  # noqa: E731
    draw = lambda key: jax.random.normal(key, (65, dim))  # noqa: E731
    found = [
        share(Path(normal(dim, variance**0.5).log_prob, log_joint), draw)
        for variance in (0.3, 0.8, 1.0, 9.0)
    ]
    assert found[0] > 0.95
    assert max(found[1:]) < 0.05
    assert found[2] == 0  # p is q: all ratios are equal


def test_a_funnel_has_a_tail_and_a_bounded_likelihood_has_none():
    target = problems.funnel(2)
    funnel = Path(normal(2, 3.0).log_prob, target.log_density)
    assert share(funnel, lambda key: target.sample(key, 64)) > 0.85
    # A Gamma(4, 1/2) posterior of the prior Gamma(1, 1/4): no weight below 0.
    prior = lambda z: gamma.logpdf(z, 1.0, scale=4.0).sum()  # noqa: E731
    posterior = lambda z: gamma.logpdf(z, 4.0, scale=0.5).sum()  # noqa: E731
    draw = lambda key: 0.5 * jax.random.gamma(key, 4.0, (64, 2))  # noqa: E731
    assert share(Path(prior, posterior), draw) < 0.05


def test_draws_count_by_their_weights():
    """Draws of N(0, 2 I) with the weights of N(0, I) are draws of it; q = N(0, 0.3 I)."""
    p, wide = normal(3, 1.0), normal(3, 2**0.5)
    draw = lambda key: 2**0.5 * jax.random.normal(key, (64, 3))  # noqa: E731
    log_w = lambda z: p.log_prob(z) - wide.log_prob(z) + 12.0  # noqa: E731
    narrow, same = (Path(normal(3, s).log_prob, p.log_prob) for s in (0.3**0.5, 1.0))
    assert share(narrow, draw, log_w) > 0.95
    assert share(same, draw, log_w) == 0
    # Without them they are draws of N(0, 2 I), which is wider than q = N(0, 0.8 I).
    assert share(Path(normal(3, 0.8**0.5).log_prob, wide.log_prob), draw) > 0.9


def test_a_part_of_many_draws_and_trees_and_discrete_moves():
    def halves(log_prob):
        return lambda z: log_prob(jnp.concatenate([z["a"], z["b"].ravel()]))

    p, narrow = normal(3, 1.0), normal(3, 0.3**0.5)
    number = 3 * STRETCHED + 1
    z = jax.random.normal(jax.random.key(0), (number, 3))
    tree = {"a": z[:, :1], "b": z[:, 1:].reshape(number, 2, 1)}
    path = Path(narrow.log_prob, p.log_prob)
    of_tree = Path(halves(narrow.log_prob), halves(p.log_prob))
    assert dimension(tree) == dimension(z) == 3
    zero = jnp.zeros(number)
    found = (
        jax.jit(partial(long_tail, path, continuous=True))(z, zero),
        jax.jit(partial(long_tail, of_tree, continuous=True))(tree, zero),
    )
    assert found[0]
    assert found[1]
    assert not long_tail(path, z, zero, continuous=False)


@pytest.mark.parametrize("method", ["annealed", "sequential", "tempered"])
def test_particles_and_ladders_fail_by_a_tail_alone(method, monkeypatch):
    """`annealed` fails only where the second estimate does not confirm it: here 30 nats below."""
    room = importlib.import_module(f"lvm_jax.evidence.{method}")
    monkeypatch.setattr(room, "long_tail", lambda *given: jnp.array(True))
    plan = annealing.plan(annealing.linear(8), annealing.random_walk(2), num_pilot=0)
    q = normal(2, 1.0)
    sizes = {"annealed": (q, 8), "sequential": (q, 4), "tempered": (q, 8)}[method]

    def run(below):
        lower = missed.Scouted(jnp.float32(-below), jnp.float32(0.01), *[jnp.int32(1)] * 2)
        monkeypatch.setattr(room, "scout", lambda *given: lower)
        return getattr(evidence, method)(jax.random.key(0), q.log_prob, *sizes, plan).evidence

    tail = [bool(run(below).failed & Check.TAIL) for below in (0.0, 30.0)]
    assert tail == [method != "annealed", True]


WALK = annealing.random_walk(1)


def apart(distance):
    """0.3 N(-m, I) + 0.7 N(m, I) in two dimensions, 2 m = (distance, 0); and N(-m, I)."""
    means = jnp.array([[-0.5 * distance, 0.0], [0.5 * distance, 0.0]])

    def log_joint(z):
        each = jnp.log(jnp.array([0.3, 0.7])) - 0.5 * ((z[None] - means) ** 2).sum(1)
        return jax.nn.logsumexp(each) - jnp.log(2 * jnp.pi)

    return log_joint, distributions.normal(means[0], jnp.ones(2))


def test_scouts_of_a_narrow_q_reach_a_mode_beyond_it():
    """Two normals 8 deviations apart, q at one of them; a quarter of the starts is stretched."""
    found = jax.jit(lambda key: missed.scout(key, *apart(8.0), WALK, 256))(jax.random.key(1))
    assert found.num_modes == 2
    np.testing.assert_allclose(found.log_evidence, 0.0, atol=5 * found.standard_error)
    assert found.standard_error < 0.05


@pytest.mark.parametrize("method", ["annealed", "sequential", "tempered"])
def test_a_prior_has_a_quarter_of_the_starts(method):
    """The second mode is 100 deviations from q, beyond its stretched draws."""
    log_joint, q = apart(100.0)
    prior = distributions.normal(jnp.zeros(2), jnp.array([60.0, 1.0]))
    plan = annealing.plan(annealing.linear(5), WALK, num_pilot=0)
    run = partial(
        getattr(evidence, method), jax.random.key(0), log_joint, q, 6, plan, num_scouts=64
    )
    without, found = jax.jit(lambda: (run(), run(prior=prior)))()
    assert without.scouted.num_modes == 1
    assert found.scouted.num_modes == 2
    assert found.evidence.failed & Check.CONTRADICTED
    assert not without.evidence.failed & Check.CONTRADICTED
    wrong = r"prior: expected draws of the shapes .*\(2,\), got \(3,\)"
    with pytest.raises(ValueError, match=wrong):
        run(prior=normal(3, 1.0))
    with pytest.raises(TypeError, match="prior: expected a distribution .*, got float"):
        run(prior=3.0, num_scouts=0)
