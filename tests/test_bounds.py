"""One table for every bound: BOUNDS x exact test exact_problems. A new bound is a row of REFERENCE."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_problems import PROBLEMS
from model_cases import quick_jit
from scipy.special import logsumexp, softmax
from scipy.stats import binom

from lvm_jax import bounds, distributions
from lvm_jax.weights import log_weights

ROWS = 20_000  # at most, of four log-weights each
FINITE = ("mixture", "bits", "one_hot")


def mean_exp(log_w):
    return logsumexp(log_w) - np.log(len(log_w))


def tvo(log_w):
    betas = (0.0, 0.25, 0.5, 0.75)
    return sum(0.25 * (softmax(beta * log_w) @ log_w) for beta in betas)


def mean_without(log_w, left_out):
    subsets = itertools.combinations(log_w, len(log_w) - left_out)
    return np.mean([mean_exp(np.array(subset)) for subset in subsets])


def jackknife_two(log_w):  # Sharot's form of the coefficients, multiplied out for order 2
    s = len(log_w)
    terms = [mean_without(log_w, j) for j in range(3)]
    return s**2 / 2 * terms[0] - (s - 1) ** 2 * terms[1] + (s - 2) ** 2 / 2 * terms[2]


# Each bound once more, in numpy, float64, straight from its formula.
REFERENCE = {
    "elbo": np.mean,
    "iwae": mean_exp,
    "renyi_half": lambda log_w: 2 * np.log(np.mean(np.exp(log_w / 2))),
    "renyi_two": lambda log_w: -np.log(np.mean(np.exp(-log_w))),
    "renyi_minus_one": lambda log_w: 0.5 * np.log(np.mean(np.exp(2 * log_w))),
    "cubo_two": lambda log_w: 0.5 * np.log(np.mean(np.exp(2 * log_w))),
    "eubo": lambda log_w: softmax(log_w) @ log_w,
    "thermodynamic": tvo,
    "jackknife_one": lambda log_w: (
        len(log_w) * mean_exp(log_w) - (len(log_w) - 1) * mean_without(log_w, 1)
    ),
    "jackknife_two": jackknife_two,
    "miwae_two": lambda log_w: (mean_exp(log_w[::2]) + mean_exp(log_w[1::2])) / 2,
    "ciwae_half": lambda log_w: (np.mean(log_w) + mean_exp(log_w)) / 2,
}


@quick_jit
def _reduce_all(log_w):
    return {name: jax.vmap(bound.reduce)(log_w) for name, bound in bounds.BOUNDS.items()}


def reduce_all(log_w):
    """Every bound of [R, S] log-weights, {name: [R]}; one program for every R where S = 4."""
    log_w, size = np.asarray(log_w), len(log_w)
    if log_w.shape[1] == 4:
        log_w = np.concatenate([log_w, np.broadcast_to(log_w[-1:], (ROWS - size, 4))])
    return {name: values[:size] for name, values in jax.device_get(_reduce_all(log_w)).items()}


@functools.cache
def enumerated(problem_name, size):
    """All log-weights of `size` draws of a finite z, [M^size, size], and their probabilities."""
    with jax.enable_x64(True):
        problem = PROBLEMS[problem_name]()
        q = problem.guide(problem.phi)
        values = distributions.support(q)
        log_q = np.asarray(jax.vmap(q.log_prob)(values))
        log_w = np.asarray(jax.vmap(problem.log_joint(problem.theta, problem.x))(values)) - log_q
        tuples = np.array(list(itertools.product(range(len(log_q)), repeat=size)))
        return log_w[tuples], np.exp(log_q[tuples].sum(1))


@functools.cache
def expectations(problem_name):
    """E[bound] for 4 draws, exact, no Monte Carlo; log p; and the ELBO."""
    log_w, mass = enumerated(problem_name, 4)
    with jax.enable_x64(True):
        problem = PROBLEMS[problem_name]()
        found = {name: mass @ np.asarray(value) for name, value in reduce_all(log_w).items()}
        log_p = float(problem.log_evidence(problem.theta, problem.x))
        return found, log_p, float(problem.elbo(problem.theta, problem.phi, problem.x))


def two_valued(reduce, size, small, large, chance):
    """E[bound] - log p for weights of two values: a binomial sum over how many are large."""
    ones = np.tril(np.ones((size + 1, size)), -1)
    values = quick_jit(jax.vmap(reduce))(
        jnp.asarray(np.where(ones > 0, np.log(large), np.log(small)))
    )
    mass = binom.pmf(np.arange(size + 1), size, chance)
    return mass @ np.asarray(values) - np.log((1 - chance) * small + chance * large)


@functools.cache
def gaussian_draws():
    """Log-weights [ROWS, 4] of the linear-Gaussian problem, and log p."""
    problem = PROBLEMS["linear_gaussian"]()
    joint, q = problem.log_joint(problem.theta, problem.x), problem.guide(problem.phi)
    log_w = quick_jit(lambda key: log_weights(key, joint, q, 4 * ROWS))(jax.random.key(0))
    return log_w.reshape(-1, 4), float(problem.log_evidence(problem.theta, problem.x))


def test_every_bound_is_in_the_table():
    assert set(REFERENCE) == set(bounds.BOUNDS)


def test_values_are_the_formulas(x64):
    # The groups of miwae are halves here, odd and even in the reference: reorder its weights.
    log_w = np.array([-3.0, 1.5, 0.2, -0.9, 2.1, -6.0])
    found = reduce_all(np.stack([log_w, log_w[[0, 2, 4, 1, 3, 5]]]))
    for name, reference in REFERENCE.items():
        value = found[name][1 if name == "miwae_two" else 0]
        np.testing.assert_allclose(value, reference(log_w), rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("problem_name", PROBLEMS)
def test_exact_at_the_posterior(problem_name):
    problem = PROBLEMS[problem_name]()
    joint, q = (
        problem.log_joint(problem.theta, problem.x),
        problem.posterior(problem.theta, problem.x),
    )
    keys = jax.random.split(jax.random.key(1), 5)
    log_w = quick_jit(jax.vmap(lambda key: log_weights(key, joint, q, 4)))(keys)
    truth = float(problem.log_evidence(problem.theta, problem.x))
    for name, values in reduce_all(log_w).items():
        np.testing.assert_allclose(values, truth, atol=3e-5, err_msg=name)


@pytest.mark.parametrize("problem_name", FINITE)
def test_sides_by_enumeration(problem_name):
    found, log_p, elbo = expectations(problem_name)
    np.testing.assert_allclose(found["elbo"], elbo, rtol=1e-10)
    for name, bound in bounds.BOUNDS.items():
        if bound.direction == "lower":
            assert found[name] < log_p, name
            assert found[name] > elbo or name in ("elbo", "renyi_two"), name
        elif bound.direction == "upper":
            assert found[name] > log_p, name


@pytest.mark.parametrize("name", [n for n, b in bounds.BOUNDS.items() if b.direction == "neither"])
def test_neither_is_on_both_sides(name, x64):
    # One heavy weight in fifty is missed by most draws of 4; none of the problems' is.
    assert two_valued(bounds.BOUNDS[name].reduce, 4, small=0.5, large=30.0, chance=0.02) < -0.1
    assert all(expectations(problem)[0][name] > expectations(problem)[1] for problem in FINITE)


@pytest.mark.parametrize("name", [n for n, b in bounds.BOUNDS.items() if b.direction != "neither"])
def test_sides_of_a_gaussian_by_sampling(name):
    log_w, log_p = gaussian_draws()
    values = reduce_all(log_w)[name]
    gap, error = log_p - float(values.mean()), float(values.std()) / len(values) ** 0.5
    assert (gap if bounds.BOUNDS[name].direction == "lower" else -gap) > 5 * error


@pytest.mark.parametrize("problem_name", PROBLEMS)
def test_limits(problem_name):
    # The limit S -> infinity, by q itself put into 256 weights: then log p is their log-mean-exp.
    problem = PROBLEMS[problem_name]()
    joint, q = problem.log_joint(problem.theta, problem.x), problem.guide(problem.phi)
    log_w = quick_jit(lambda key: log_weights(key, joint, q, 256))(jax.random.key(2))
    log_w = np.asarray(log_w)
    log_p = mean_exp(log_w)
    largest = np.exp(log_w.max() - log_p)  # over the mean weight
    for name, values in reduce_all(log_w[None]).items():
        gap, limit = log_p - float(values[0]), bounds.BOUNDS[name].limit
        if limit == "exact":  # what is left is O(1/S): a few of the largest weights
            assert abs(gap) <= 2 * largest / 256, name
        else:
            assert (gap if limit == "lower" else -gap) > 0.01, name


@pytest.mark.parametrize("problem_name", FINITE)
def test_iwae_tightens_with_every_sample(problem_name, x64):
    _, log_p, elbo = expectations(problem_name)
    bounds_ = [elbo]
    for size in (2, 3, 4):
        log_w, mass = enumerated(problem_name, size)
        bounds_.append(mass @ np.asarray(quick_jit(jax.vmap(bounds.iwae))(jnp.asarray(log_w))))
    assert (np.diff([*bounds_, log_p]) > 0).all()


def test_batch_order():
    # The mean over S is inside the logarithm and the mean over N outside, whatever the batch.
    problem = PROBLEMS["linear_gaussian"]()
    q = problem.guide(problem.phi)
    keys = jax.random.split(jax.random.key(4), 2)
    batch = jnp.stack([problem.x, problem.other_x])

    def one(key, x):
        return log_weights(key, problem.log_joint(problem.theta, x), q, 6)

    log_w = np.asarray(quick_jit(jax.vmap(one))(keys, batch), np.float64)
    alone = quick_jit(one)
    apart = np.stack([alone(key, x) for key, x in zip(keys, batch, strict=True)])
    np.testing.assert_allclose(log_w, apart, rtol=1e-5)
    right = np.mean([np.log(np.mean(np.exp(row))) for row in apart])
    wrong = np.log(np.mean(np.exp(apart)))  # over the whole batch, as where no plate is declared
    found = float(jax.vmap(bounds.iwae)(jnp.asarray(log_w)).mean())
    np.testing.assert_allclose(found, right, rtol=1e-5)
    assert abs(found - wrong) > 1


@quick_jit
def gradients(log_w):
    return {name: jax.vmap(jax.grad(b.reduce))(log_w) for name, b in bounds.BOUNDS.items()}


@pytest.mark.parametrize("x64", [False, True])
def test_shift_equivariance_gradient_and_precision(x64):
    # log p(x) + c for weights w e^c: values move by c, so that the gradient adds to 1.
    # 8192 is exact in float32, whose spacing there is 5e-4.
    with jax.enable_x64(x64):
        dtype = np.float64 if x64 else np.float32
        log_w = np.array([[-3.0, 1.5, 0.25, -0.75], [0.5, 0.75, -1.0, 2.0]], dtype)
        step = np.array([0, 1e-5, 0, 0], dtype)
        values, shifted, found = (
            reduce_all(log_w),
            reduce_all(log_w - dtype(8192)),
            gradients(log_w),
        )
        up, down = (reduce_all(log_w + sign * step) for sign in (dtype(1), dtype(-1)))
        for name, value in values.items():
            assert value.dtype == dtype
            np.testing.assert_allclose(
                shifted[name] + 8192, value, atol=1e-9 if x64 else 5e-3, err_msg=name
            )
            np.testing.assert_allclose(found[name].sum(1), 1, rtol=1e-12 if x64 else 2e-5)
            if x64:  # and agrees with central differences
                slope = (up[name] - down[name]) / 2e-5
                np.testing.assert_allclose(found[name][:, 1], slope, atol=1e-8)


def test_zero_weights():
    # -inf is a weight of zero: the averages of w count it, those of log w are -inf.
    log_w = jnp.array([-jnp.inf, 0.5, 1.0, -1.0])
    found = {name: float(values[0]) for name, values in reduce_all(log_w[None]).items()}
    for name in ("elbo", "renyi_two", "ciwae_half", "thermodynamic"):
        assert found[name] == -np.inf, name
    for name in ("iwae", "renyi_half", "cubo_two", "eubo", "jackknife_one"):
        finite = np.where(np.isneginf(log_w), -1e3, np.asarray(log_w, np.float64))
        np.testing.assert_allclose(found[name], REFERENCE[name](finite), rtol=2e-5)


def test_nan_is_never_masked():
    log_w = jnp.array([[0.5, jnp.nan, 1.0, -1.0]])
    finite = [name for name, values in reduce_all(log_w).items() if not np.isnan(values[0])]
    assert finite == []


def test_one_compilation_per_shape():
    problem = PROBLEMS["mixture"]()
    traces = []

    @quick_jit
    def bound(key, theta, x):
        traces.append(None)
        return bounds.jackknife(1)(
            log_weights(key, problem.log_joint(theta, x), problem.guide(problem.phi), 5)
        )

    first = bound(jax.random.key(0), problem.theta, problem.x)
    second = bound(
        jax.random.key(1), jax.tree.map(lambda a: a + 0.1, problem.theta), problem.other_x
    )
    assert first != second
    assert len(traces) == 1
