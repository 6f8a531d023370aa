"""What single bounds promise: published gaps, orders of bias, ends; and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit
from test_bounds import mean_without, two_valued

from lvm_jax import bounds, distributions
from lvm_jax.weights import log_weights

DIM = 20  # of the toy in `toy_log_weights`
RELATIVE_VARIANCE = (16 / 15) ** 10 - 1  # Var(w) / E[w]^2 of the toy


def toy_log_weights(key, num_samples):
    """log w - log p of z ~ N(mu, I), x | z ~ N(z, I), q = N((x + mu) / 2, 2/3 I)."""
    mu = jnp.linspace(-1.0, 2.0, DIM)
    x = jnp.linspace(0.5, -1.5, DIM) ** 3
    one = jnp.ones(DIM)
    prior, evidence = distributions.normal(mu, one), distributions.normal(mu, one * 2**0.5)
    q = distributions.normal((x + mu) / 2, one * (2 / 3) ** 0.5)

    def joint(z):
        return prior.log_prob(z) + distributions.normal(z, one).log_prob(x)

    return log_weights(key, joint, q, num_samples) - evidence.log_prob(x)


def test_toy_gaps():
    # Exact moments of w (DESIGN.md's toy) give the gap to second order; the control variate
    # mean(w) - 1, of expectation 0, leaves a standard error of 1 % of it.
    draws = quick_jit(lambda key: toy_log_weights(key, 400_000))(jax.random.key(3))
    draws = np.asarray(draws, np.float64)
    error = draws.std() / len(draws) ** 0.5
    assert abs(-draws.mean() - 10 * (1 / 3 - np.log(4 / 3))) < 5 * error < 0.02
    squares = (np.exp(draws) - 1) ** 2
    assert abs(squares.mean() - RELATIVE_VARIANCE) < 5 * squares.std() / len(draws) ** 0.5 < 0.04
    groups = np.exp(draws).reshape(-1, 50).mean(1)
    gaps = groups - 1 - np.log(groups)
    third = (4 / 3) ** 30 / 2**10 - 3 * (1 + RELATIVE_VARIANCE) + 2
    expected = RELATIVE_VARIANCE / 100 - (third / 3 - 0.75 * RELATIVE_VARIANCE**2) / 50**2
    assert abs(gaps.mean() - expected) < 5 * gaps.std() / len(gaps) ** 0.5 < 0.1 * expected


@pytest.mark.parametrize("order", [0, 1, 2])
def test_jackknife_order(order, x64):
    reduce = bounds.jackknife(order)
    biases = [two_valued(reduce, size, small=0.6, large=1.4, chance=0.4) for size in (16, 32)]
    # Bias O(S^-(order + 1)); at S = 16 the next power of 1/S still adds up to 0.35 to the slope.
    assert abs(np.log2(biases[0] / biases[1]) - (order + 1)) < 0.4


first_order = quick_jit(bounds.jackknife(1))


@pytest.mark.parametrize("largest", [0.0, 14.0])  # 14: one weight is nine tenths of the total
def test_first_order_jackknife_of_many_weights(largest, x64):
    # S x S numbers would be 80 GB; leaving one out is written out in numpy.
    log_w = np.random.default_rng(0).normal(size=100_000)
    log_w[77] = largest
    total, size = np.exp(log_w).sum(), len(log_w)
    left = np.log((total - np.exp(log_w)) / (size - 1)).mean()
    exact = size * np.log(total / size) - (size - 1) * left
    assert abs(first_order(log_w) - exact) < 1e-8  # S times the rounding of numpy's own difference


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_jackknife_weights_cancel_the_powers_of_the_bias(order, x64):
    # sum_j c_j = 1 and sum_j c_j (S - j)^-i = 0, i = 1, ..., m: solved, where the code has c_j.
    log_w, size = np.array([-3.0, 1.5, 0.2, -0.9, 2.1, -6.0, 0.7]), 7
    sizes = size - np.arange(order + 1)
    c = np.linalg.solve(sizes[None] ** -np.arange(order + 1.0)[:, None], np.eye(order + 1)[0])
    expected = sum(c[j] * mean_without(log_w, j) for j in range(order + 1))
    found = quick_jit(bounds.jackknife(order))(log_w)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_jackknife_of_ties_and_zeros(x64):
    cases = [[0.0, 0.0, -np.inf], [2.0, 2.0, 2.0, 2.0, -90.0], [0.0] * 3 + [9.0]]
    cases, orders = [np.array(log_w) for log_w in cases], (1, 2)
    found = quick_jit(lambda rows: [[bounds.jackknife(m)(row) for row in rows] for m in orders])
    for order, values in zip(orders, found(cases), strict=True):
        for value, log_w in zip(values, cases, strict=True):
            sizes = len(log_w) - np.arange(order + 1)
            powers = sizes[None] ** -np.arange(order + 1.0)[:, None]
            c = np.linalg.solve(powers, np.eye(order + 1)[0])
            with np.errstate(divide="ignore"):
                expected = sum(c[j] * mean_without(log_w, j) for j in range(order + 1))
            np.testing.assert_allclose(value, expected, rtol=1e-9)


def test_jackknife_keeps_its_digits_in_float32():
    log_w = np.random.default_rng(0).normal(size=(3, 100)) * [[0.3], [1.0], [4.0]]
    reduce = quick_jit(jax.vmap(bounds.jackknife(2)))
    with jax.enable_x64(True):
        truth = np.asarray(reduce(jnp.asarray(log_w)))
    np.testing.assert_allclose(reduce(jnp.asarray(log_w, jnp.float32)), truth, atol=2e-4)


def apply(reductions, log_w):
    """The values of several bounds of the same log-weights, by one program."""
    return quick_jit(lambda log_w: [reduce(log_w) for reduce in reductions])(log_w)


def test_renyi_limits(x64):
    log_w = np.array([-3.0, 1.5, 0.2, -0.9])
    alphas = (-np.inf, -30, -2, -1, -0.2, 0, 0.3, 0.999, 1, 1.001, 2, 30, np.inf)
    reductions = [*map(bounds.renyi, alphas), bounds.elbo, bounds.iwae, bounds.cubo(3)]
    *values, elbo, iwae, cubo = np.array(apply(reductions, log_w))
    assert (np.diff(values) < 0).all()  # strictly decreasing in alpha
    assert values[0] == log_w.max()
    assert values[-1] == log_w.min()
    assert values[alphas.index(1)] == elbo
    np.testing.assert_allclose(values[alphas.index(0)], iwae, rtol=1e-14)
    # To first order L_alpha - ELBO = (1 - alpha) Var(log w) / 2.
    slope = (values[alphas.index(0.999)] - values[alphas.index(1)]) / 1e-3
    np.testing.assert_allclose(slope, np.var(log_w) / 2, rtol=1e-3)
    assert cubo == values[alphas.index(-2)]


def test_groups_and_mixes_at_their_ends(x64):
    log_w = np.array([-3.0, 1.5, 0.2, -0.9])
    pairs = (
        (bounds.miwae(1), bounds.iwae),
        (bounds.miwae(4), bounds.elbo),
        (bounds.ciwae(1.0), bounds.elbo),
        (bounds.ciwae(0.0), bounds.iwae),
        (bounds.jackknife(0), bounds.iwae),
        (bounds.thermodynamic((0.0, 1.0)), bounds.elbo),
        (bounds.thermodynamic(np.linspace(0, 1, 4001)), bounds.iwae),
    )
    found, wanted = (apply(reductions, log_w) for reductions in zip(*pairs, strict=True))
    for one, other, (_, as_) in zip(found, wanted, pairs, strict=True):
        # The last is a Riemann sum of step 1/4000 under a slope that rises by about 3.
        np.testing.assert_allclose(one, other, atol=1e-3 if as_ is bounds.iwae else 1e-14)


def test_renyi_near_one_keeps_its_digits_in_float32():
    # Equal weights give their own value; 29 others the float64 sum, whose 1/(1 - alpha) costs
    # float64 1e-16 / 1e-7 and would cost float32 1e-7 / 1e-7.
    alphas = (1 - 1e-7, 1 - 1e-5, 1 + 1e-6, 1 - 1e-3, 1 + 1e-2)
    equal = np.full(7, -123.4, np.float32)
    log_w = np.random.default_rng(1).normal(-123.4, 2.0, 29).astype(np.float32)

    @quick_jit
    def run(equal, log_w):
        reductions = [bounds.renyi(alpha) for alpha in alphas]
        return [(reduce(equal), *jax.value_and_grad(reduce)(log_w)) for reduce in reductions]

    centred = log_w.astype(np.float64) - log_w.max()
    for alpha, (same, value, slope) in zip(alphas, run(equal, log_w), strict=True):
        np.testing.assert_array_equal(same, equal[0])
        power = 1 - alpha
        truth = log_w.max() + np.log1p(np.mean(np.expm1(power * centred))) / power
        np.testing.assert_allclose(value, truth, rtol=2e-7)
        exact = np.exp(power * centred) / np.exp(power * centred).sum()
        np.testing.assert_allclose(slope, exact, rtol=2e-6)


def test_shift_far_from_zero_in_float32():
    # 1e6 in steps of 1/16, float32's own there: nothing is rounded on the way in. One weight has
    # most of the total, where the jackknife subtracts.
    reductions = {name: bound.reduce for name, bound in bounds.BOUNDS.items()}
    reductions |= {"renyi_inf": bounds.renyi(np.inf), "renyi_minus_inf": bounds.renyi(-np.inf)}
    reductions["jackknife_three"] = bounds.jackknife(3)
    log_w = np.array([-3.0, 9.5, 0.25, -0.75, 2.0625, -5.5], np.float32)

    @quick_jit
    def run(log_w):
        each = {name: jax.value_and_grad(reduce) for name, reduce in reductions.items()}
        return {name: slope(log_w) for name, slope in each.items()}

    near, far = run(log_w), run(log_w - np.float32(1e6))
    for name, (value, slope) in near.items():
        far_value, far_slope = far[name]
        # One step: the value is rounded itself.
        assert abs(float(far_value) + 1e6 - float(value)) <= 0.0625, name
        np.testing.assert_allclose(far_slope, slope, rtol=1e-5, atol=1e-6, err_msg=name)
        assert abs(float(far_slope.sum()) - 1) < 1e-5, name


def test_thermodynamic_on_an_uneven_grid(x64):
    betas, log_w = (0.0, 0.1, 0.15, 0.7, 1.0), np.array([-3.0, 1.5, 0.2, -0.9, 2.1])
    parts = []
    for beta, width in zip(betas[:-1], (0.1, 0.05, 0.55, 0.3), strict=True):
        w = np.exp(beta * log_w)
        parts.append(width * (w @ log_w) / w.sum())
    (found,) = apply([bounds.thermodynamic(betas)], log_w)
    np.testing.assert_allclose(found, sum(parts), rtol=1e-12)


def test_no_weight_but_zeros_is_minus_infinity():
    for size in (4, 6):
        reductions = [bound.reduce for bound in bounds.BOUNDS.values()]
        found = np.array(apply(reductions, np.full(size, -np.inf, np.float32)))
        np.testing.assert_array_equal(found, np.full(len(reductions), -np.inf))
    half = np.array([-np.inf, 0.5, -np.inf], np.float32)
    low, iwae, high = apply([bounds.ciwae(0.0), bounds.iwae, bounds.ciwae(1.0)], half)
    assert low == iwae
    assert high == -np.inf
    np.testing.assert_array_equal(bounds.normalized(jnp.full(5, -jnp.inf)), np.zeros(5))


def test_the_gradient_beside_a_zero_weight_is_the_limit(x64):
    # Of "renyi_two" the smallest weight takes all: there is no gradient where it is 0.
    log_w = np.array([0.5, -np.inf, 1.0, -1.0, 2.5, -np.inf])
    each = {name: bound.reduce for name, bound in bounds.BOUNDS.items() if name != "renyi_two"}

    @quick_jit
    def run(rows):
        return {name: jax.vmap(jax.grad(reduce))(rows) for name, reduce in each.items()}

    for name, slopes in run(np.stack([log_w, np.maximum(log_w, -300.0)])).items():
        np.testing.assert_allclose(*slopes, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda: bounds.renyi(float("nan")), "alpha: expected a number"),
        (lambda: bounds.cubo(1), "order: expected a finite number > 1, got 1"),
        (lambda: bounds.cubo(float("inf")), "order: expected a finite number"),
        (lambda: bounds.jackknife(-1), "order: expected an integer >= 0"),
        (lambda: bounds.jackknife(3)(jnp.zeros(3)), "more than the jackknife's order 3, got 3"),
        (lambda: bounds.miwae(0), "num_groups: expected an integer >= 1"),
        (lambda: bounds.miwae(2)(jnp.zeros(3)), "num_samples: expected a multiple"),
        (lambda: bounds.ciwae(1.5), "beta: expected a number in"),
        (lambda: bounds.thermodynamic((0.0, 0.5, 0.5, 1.0)), "betas: expected numbers that rise"),
        (lambda: bounds.thermodynamic((0.1, 1.0)), "betas: expected numbers that rise"),
    ],
)
def test_refusals(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()
