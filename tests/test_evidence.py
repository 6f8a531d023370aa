"""One table for every evidence method: METHODS x exact test exact_problems. A new method is a row."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base import array_stats
from exact_problems import PROBLEMS, prior_of
from model_cases import quick_jit
from scipy.special import logsumexp

from lvm_jax import annealing, distributions, evidence
from lvm_jax.weights import log_weights

REPEATS, SAMPLES = 300, 1_000


def importance(key, problem, joint):
    return evidence.importance(key, joint, problem.guide(problem.phi), SAMPLES)


def naive(key, problem, joint):
    prior = prior_of(problem)
    return evidence.naive(key, lambda z: joint(z) - prior.log_prob(z), prior, SAMPLES)


def uniform(key, problem, joint):
    if (
        problem.name == "linear_gaussian"
    ):  # a box around the prior's mean; 1e-5 of the mass is outside
        low, high = problem.theta["mean"] - 4, problem.theta["mean"] + 4
        return evidence.uniform(key, joint, distributions.uniform(low, high), SAMPLES)
    return evidence.uniform(key, joint, prior_of(problem), SAMPLES)


def sumo(key, problem, joint):
    return evidence.sumo(key, joint, problem.guide(problem.phi), start=2)


def jackknife(key, problem, joint):
    return evidence.jackknife(key, joint, problem.guide(problem.phi), 100)


def multilevel(key, problem, joint):
    return evidence.multilevel(key, joint, problem.guide(problem.phi), base=32)


MOVES = {
    "linear_gaussian": annealing.random_walk(1),
    "mixture": annealing.gibbs(3),
    "bits": annealing.gibbs(2, 2),
}
PLANS = {
    name: annealing.plan(annealing.linear(8), move, num_pilot=0) for name, move in MOVES.items()
}


def sequential(key, problem, joint):
    plan = PLANS[problem.name]
    return evidence.sequential(
        key, joint, problem.guide(problem.phi), 10, plan, num_runs=50, threshold=0.9
    ).evidence


def sandwich(key, problem, joint):
    """Chains both ways, those back from a posterior draw of their own."""
    key_z, key_chain = jax.random.split(key)
    z = problem.posterior(problem.theta, problem.x).sample(seed=key_z)
    return evidence.sandwich(
        key_chain, joint, problem.guide(problem.phi), z, 30, PLANS[problem.name]
    )


# Each answers with a log_evidence, unbiased for "p", "log p" or "1 / p", from so many weights.
METHODS = {
    "importance": (importance, "p", SAMPLES),
    "naive": (naive, "p", SAMPLES),
    "uniform": (uniform, "p", SAMPLES),
    "sequential": (sequential, "p", 50),
    "annealed": (lambda *_: None, "p", 30),  # the lower slice of the sandwich
    "sandwich": (sandwich, "1 / p", 30),
    "sumo": (sumo, "log p", None),
    "multilevel": (multilevel, "log p", None),
    "jackknife": (jackknife, "log p", 100),  # up to O(1 / S^2)
}


class Answer(NamedTuple):
    """What the methods have in common; without an error where a method gives none."""

    log_evidence: np.ndarray
    standard_error: np.ndarray | None
    num_samples: np.ndarray


def ask(problem, methods):
    """log p of a problem, and {method: (log p, error or None, draws) for REPEATS keys}."""
    joint = problem.log_joint(problem.theta, problem.x)

    def all_methods(key):
        found = {name: method(key, problem, joint) for name, (method, *_) in methods.items()}
        if "sandwich" in found:
            slices = found["sandwich"]
            found |= {"annealed": slices.lower, "sandwich": slices.upper}
        # k-hat, which is dear to compile, has its own tests below.
        return {
            name: [getattr(one, field, None) for field in Answer._fields]
            for name, one in found.items()
        }

    keys = jax.random.split(jax.random.key(0), REPEATS)
    found = jax.device_get(quick_jit(jax.vmap(all_methods))(keys))
    return float(problem.log_evidence(problem.theta, problem.x)), {
        name: Answer(*one) for name, one in found.items()
    }


# A vector and an integer: tests/test_annealing.py has every move on every kind of z, and
# test_uniform_counts_the_space every finite space.
@pytest.fixture(scope="module", params=["linear_gaussian", "mixture"])
def answers(request):
    return ask(PROBLEMS[request.param](), METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_unbiased(answers, name):
    log_p, found = answers
    estimates = np.asarray(found[name].log_evidence, np.float64) - log_p
    kind = METHODS[name][1]
    draws = estimates if kind == "log p" else np.expm1(estimates if kind == "p" else -estimates)
    error = draws.std() / REPEATS**0.5
    assert abs(draws.mean()) < 5 * error
    assert error < (0.25 if name == "sumo" else 0.02)


@pytest.mark.parametrize(
    "name", [n for n, (*_, size) in METHODS.items() if size and n != "sandwich"]
)
def test_the_standard_error_is_the_spread(answers, name):
    # Over 300 repeats the spread itself is known to 4 %; the delta method is right to O(1/S).
    log_p, found = answers
    spread = found[name].log_evidence.std()
    reported = np.sqrt((found[name].standard_error ** 2).mean())
    np.testing.assert_allclose(reported, spread, rtol=0.2)
    wrong_by = np.abs(found[name].log_evidence - log_p) / found[name].standard_error
    assert np.mean(wrong_by > 1.96) < 0.05 + 3 * (0.05 * 0.95 / REPEATS) ** 0.5
    np.testing.assert_array_equal(found[name].num_samples, np.full(REPEATS, METHODS[name][2]))


def reference(log_w):
    """Evidence of log-weights in numpy, float64; k-hat by arviz-stats, which takes -log w."""
    log_w = np.asarray(log_w, np.float64)
    w = np.exp(log_w - log_w.max())
    return {
        "log_evidence": logsumexp(log_w) - np.log(len(w)),
        "standard_error": w.std(ddof=1) / len(w) ** 0.5 / w.mean(),
        "ess": w.sum() ** 2 / (w**2).sum(),
        "k_hat": array_stats.psislw(-log_w)[1],
    }


def wide(z):  # log of a Student-like joint, whose weights against a normal have a tail
    return -2 * jnp.log1p(z @ z)


NORMAL = distributions.normal(jnp.zeros(2), jnp.ones(2))


def test_chunks_add_up():
    # The same draws, chunk by chunk, in numpy: 2,500 as three chunks of 834, the last one partial.
    keys = jnp.stack([jax.random.fold_in(jax.random.key(5), i) for i in range(3)])
    log_w = quick_jit(jax.vmap(lambda key: log_weights(key, wide, NORMAL, 834)))(keys)
    run = quick_jit(lambda key: evidence.importance(key, wide, NORMAL, 2_500, chunk_size=1_000))
    found = run(jax.random.key(5))
    for name, value in reference(log_w.ravel()[:2_500]).items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=2e-4, err_msg=name)


def test_few_samples():
    one, few, many = quick_jit(
        lambda key: [evidence.importance(key, wide, NORMAL, size) for size in (1, 24, 25)]
    )(jax.random.key(0))
    assert np.isnan(one.standard_error)  # one draw has no estimate of its spread
    assert one.ess == 1
    assert few.k_hat == np.inf  # a tail of fewer than 5
    assert np.isfinite(many.k_hat)


def test_odd_weights_are_counted_and_never_dropped():
    @quick_jit
    def run(bad, everywhere=False):
        def joint(z):
            return NORMAL.log_prob(z) + jnp.where((z[0] > 1) | everywhere, bad, 0.5)

        return evidence.importance(jax.random.key(6), joint, NORMAL, 900, chunk_size=400)

    keys = [jax.random.fold_in(jax.random.key(6), i) for i in range(3)]
    z = np.concatenate([NORMAL.sample(seed=key, sample_shape=(300,)) for key in keys])
    odd = int((z[:, 0] > 1).sum())
    minus, plus, nan = run(-jnp.inf), run(jnp.inf), run(jnp.nan)
    assert [minus.num_negative_infinite, plus.num_positive_infinite, nan.num_nan] == [odd] * 3
    assert [minus.num_nan, plus.num_nan, nan.num_negative_infinite] == [0] * 3
    # A weight of zero is a weight: the mean of 900 of which `odd` are 0.
    np.testing.assert_allclose(minus.log_evidence, 0.5 + np.log(1 - odd / 900), rtol=1e-5)
    np.testing.assert_allclose(minus.ess, 900 - odd, rtol=1e-5)
    w = np.arange(900) >= odd
    np.testing.assert_allclose(minus.standard_error, w.std(ddof=1) / 30 / w.mean(), rtol=1e-5)
    assert plus.log_evidence == np.inf
    assert np.isnan([plus.standard_error, plus.k_hat]).all()
    assert np.isnan(jnp.stack(nan[:4])).all()
    nothing = run(-jnp.inf, everywhere=True)
    assert nothing.log_evidence == -np.inf
    assert np.isnan(nothing.standard_error)
    assert nothing.num_negative_infinite == 900


def test_rows_beyond_the_last_draw_are_not_counted():
    # 7 draws in chunks of 3: two rows of the third chunk belong to no draw.
    @quick_jit
    def run(odd):
        q = distributions.normal(jnp.zeros(1), jnp.ones(1))
        joint = lambda z: jnp.where(z[0] < 99.0, odd, 0.0)  # noqa: E731
        return evidence.importance(jax.random.key(0), joint, q, 7, chunk_size=3)

    for place, odd in enumerate((jnp.nan, jnp.inf, -jnp.inf)):
        found = run(odd)
        counts = found.num_nan, found.num_positive_infinite, found.num_negative_infinite
        assert [int(count) for count in counts] == [7 * (place == at) for at in range(3)]


@pytest.mark.parametrize("x64", [False, True])
def test_precision_far_from_zero(x64):
    # float32's spacing at 8192 is 5e-4; equal weights have no error at all, however far.
    with jax.enable_x64(x64):
        dtype = jnp.float64 if x64 else jnp.float32
        q = distributions.Bernoulli(jnp.zeros(3, dtype))

        @quick_jit
        def run(offset, slope):
            def joint(z):
                return q.log_prob(z) + slope * z[0] + offset

            return evidence.importance(jax.random.key(0), joint, q, 500)

        equal, near, far = run(-8191.5, 0.0), run(0.0, 0.3), run(-8192.0, 0.3)
        assert {leaf.dtype for leaf in equal[:4]} == {jnp.dtype(dtype)}
        np.testing.assert_allclose(equal.log_evidence, -8191.5, atol=1e-9 if x64 else 1e-3)
        assert equal.standard_error == 0
        np.testing.assert_allclose(far.log_evidence + 8192, near.log_evidence, atol=1e-3)
        np.testing.assert_allclose(far.standard_error, near.standard_error, rtol=2e-3)
        np.testing.assert_allclose(near.log_evidence, np.log((1 + np.exp(0.3)) / 2), atol=0.03)


def test_memory_is_flat_in_the_number_of_samples():
    def temporary_bytes(num_samples):
        def run(key):
            return evidence.importance(key, wide, NORMAL, num_samples)

        compiled = jax.jit(run).lower(jax.random.key(0)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # A hundredfold S adds the tail of 3 sqrt(S) weights, ten times as long, in a few copies.
    small, large = temporary_bytes(10_000), temporary_bytes(1_000_000)
    tail = 4 * 3_000
    assert large - small < 15 * tail < 4 * 1_000_000 / 20
    assert small < 200_000


def test_sumo_law_and_cost():
    # P(K >= k) = 1/k up to 80, then 0.9^(k - 80) / 80; E[K] = sum_k P(K >= k).
    keys = jax.random.split(jax.random.key(7), 10_000)
    draws = quick_jit(jax.vmap(lambda key: evidence.sumo(key, NORMAL.log_prob, NORMAL)))(keys)
    terms = np.asarray(draws.num_terms)
    for k in (1, 2, 3, 10, 50, 80, 90):
        chance = 1 / k if k <= 80 else 0.9 ** (k - 80) / 80
        error = (chance * (1 - chance) / len(terms)) ** 0.5
        assert abs((terms >= k).mean() - chance) <= 5 * error, k
    mean = sum(1 / k for k in range(1, 80)) + 1 / 80 / 0.1
    assert abs(terms.mean() - mean) < 5 * terms.std() / len(terms) ** 0.5
    np.testing.assert_array_equal(draws.num_samples, terms + 1)
    # At the posterior (log p = 0 here) every bound is exact, hence the telescope too.
    np.testing.assert_allclose(draws.log_evidence, np.zeros(len(terms)), atol=1e-5)


def test_sumo_is_the_telescope():
    # One draw, rebuilt: L_m + sum_k (L_{m+k} - L_{m+k-1}) k for K < 80, on fixed weights.
    key, start = jax.random.key(12), 3
    found = quick_jit(lambda key: evidence.sumo(key, wide, NORMAL, start=start))(key)
    first, terms = jax.random.split(key)
    log_w = list(np.asarray(log_weights(first, wide, NORMAL, start), np.float64))
    value = logsumexp(log_w) - np.log(start)
    assert 2 <= found.num_terms < 80
    for k in range(1, int(found.num_terms) + 1):
        own = jax.random.split(jax.random.fold_in(terms, k))[0]
        before = logsumexp(log_w) - np.log(len(log_w))
        log_w.append(float(log_weights(own, wide, NORMAL, 1)[0]))
        value += k * (logsumexp(log_w) - np.log(len(log_w)) - before)
    np.testing.assert_allclose(found.log_evidence, value, rtol=1e-5)
    assert found.num_samples == len(log_w)


@pytest.mark.parametrize(
    "space, size",
    [
        (distributions.Bernoulli(jnp.array([0.3, -2.0, 1.0])), 2**3),
        (distributions.Categorical(logits=jnp.array([0.3, -2.0, 1.0])), 3),
        (distributions.categorical(jnp.arange(8.0).reshape(2, 4)), 4**2),
        (distributions.one_hot(jnp.arange(8.0).reshape(2, 4)), 4**2),
        (distributions.Table(jnp.log(jnp.array([0.1, 0.9])), jnp.array([[0, 3], [1, 1]])), 2),
        (distributions.uniform(jnp.zeros(2), jnp.array([2.0, 5.0])), 10),
    ],
)
def test_uniform_counts_the_space(space, size):
    # p(x, z) = 1 everywhere adds to |Z|, without error.
    run = quick_jit(lambda key: evidence.uniform(key, lambda z: 0.0, space, 20))
    found = run(jax.random.key(0))
    np.testing.assert_allclose(found.log_evidence, np.log(size), rtol=1e-6)
    assert found.standard_error == 0


def test_refusals():
    for arguments in ({"num_samples": 0}, {"num_samples": 3, "chunk_size": 0}):
        with pytest.raises(ValueError, match="expected an integer >= 1, got 0"):
            evidence.importance(jax.random.key(0), wide, NORMAL, **arguments)
    with pytest.raises(TypeError, match="space: expected a finite distribution or a uniform"):
        evidence.uniform(jax.random.key(0), wide, NORMAL, 10)
    with pytest.raises(ValueError, match="start: expected an integer >= 1"):
        evidence.sumo(jax.random.key(0), wide, NORMAL, start=0)
