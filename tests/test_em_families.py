"""Each further family: density, EM steps, samples, missing values, limits, against SciPy and NumPy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special, stats
from scipy.special import logsumexp

from lvm_jax import em
from lvm_jax.em import bessel
from lvm_jax.em.counts import NegativeBinomials
from lvm_jax.em.positive import Gammas
from lvm_jax.em.von_mises_fisher import Directions

KEY = jax.random.key(0)
N, D, K = 101, 3, 3
PI = np.array([0.5, 0.3, 0.2])
LEVEL = np.stack([np.roll([1.0, 4.0, 9.0], k) for k in range(K)])
SHAPE = np.stack([np.roll([0.7, 2.0, 12.0], k) for k in range(K)])
WEIGHT = np.random.default_rng(1).integers(1, 4, N).astype(float)
LOST = np.random.default_rng(2).random((N, D)) < 0.2


class Case(NamedTuple):
    """A family with its law in SciPy, and the estimates of one component from weighted entries."""

    family: Any
    components: Any  # in the family's form
    log_p: Any  # (x [n, D], component numbers) -> [n] or, by entry, [n, D]
    draw: Any  # (rng, component numbers, n) -> rows
    estimate: Any  # (x, weight) -> component numbers
    mean: Any  # component numbers -> E[x]
    num_parameters: int
    by_entry: bool = True


def gamma_estimate(x, weight):
    """The maximum of the gamma likelihood of one column, by a root of SciPy."""
    mean = weight @ x / weight.sum()
    gap = np.log(mean) - weight @ np.log(x) / weight.sum()
    equation = lambda t: t - special.digamma(np.exp(t)) - gap  # noqa: E731
    return np.exp(optimize.brentq(equation, -12, 12, xtol=1e-14)), mean


def binomial_estimate(x, weight):
    """The maximum of the negative binomial likelihood of one column, by a root of SciPy."""
    mean = weight @ x / weight.sum()

    def slope(log_r):
        r = np.exp(log_r)
        terms = special.digamma(x + r) - special.digamma(r) + np.log(r / (r + mean))
        return r**2 * (weight @ terms)

    if slope(12.0) >= 0:
        return mean, 0.0
    return mean, np.exp(-optimize.brentq(slope, -10, 12, xtol=1e-14))


def fisher_estimate(x, weight):
    mean = weight @ x / weight.sum()
    length = np.linalg.norm(mean)
    ratio = lambda c: special.ive(D / 2, c) / special.ive(D / 2 - 1, c) - length  # noqa: E731
    return mean / length, optimize.brentq(ratio, 1e-3, 1e4, xtol=1e-13)


def each_column(estimate):
    return lambda x, weight: np.stack(
        [estimate(column[~np.isnan(column)], weight[~np.isnan(column)]) for column in x.T], -1
    )


def share_estimate(x, weight):
    total = weight @ x
    return total / total.sum()


def mean_estimate(x, weight):
    return weight @ x / weight.sum(), 0.0


UNIT = np.linalg.qr(np.random.default_rng(3).normal(size=(D, D)))[0]
CASES = {
    "exponential": Case(
        em.Exponential(),
        lambda c: c[:, 0],
        lambda x, c: stats.expon.logpdf(x, scale=c[0]),
        lambda rng, c, n: rng.exponential(c[0], (n, D)),
        each_column(mean_estimate),
        lambda c: c[0],
        K * D,
    ),
    "gamma": Case(
        em.Gamma(),
        lambda c: Gammas(c[:, 0], c[:, 1]),
        lambda x, c: stats.gamma.logpdf(x, c[0], scale=c[1] / c[0]),
        lambda rng, c, n: rng.gamma(c[0], c[1] / c[0], (n, D)),
        each_column(gamma_estimate),
        lambda c: c[1],
        2 * K * D,
    ),
    "negative_binomial": Case(
        em.NegativeBinomial(200),
        lambda c: NegativeBinomials(c[:, 0], c[:, 1]),
        lambda x, c: stats.nbinom.logpmf(x, 1 / c[1], 1 / (1 + c[0] * c[1])),
        lambda rng, c, n: rng.poisson(rng.gamma(1 / c[1], c[0] * c[1], (n, D))) * 1.0,
        each_column(binomial_estimate),
        lambda c: c[0],
        2 * K * D,
    ),
    "multinomial": Case(
        em.Multinomial(20),
        lambda c: c,
        lambda x, c: stats.multinomial.logpmf(x, x.sum(1), c),
        lambda rng, c, n: rng.multinomial(20, c, n) * 1.0,
        share_estimate,
        lambda c: 20 * c,
        K * (D - 1),
        by_entry=False,
    ),
    "von_mises_fisher": Case(
        em.VonMisesFisher(),
        lambda c: Directions(c[:, :D], c[:, D]),
        lambda x, c: stats.vonmises_fisher.logpdf(x, c[:D] / np.linalg.norm(c[:D]), c[D]),
        lambda rng, c, n: stats.vonmises_fisher.rvs(c[:D], c[D], n, random_state=rng),
        lambda x, weight: np.append(*fisher_estimate(x, weight)),
        lambda c: (special.ive(D / 2, c[D]) / special.ive(D / 2 - 1, c[D])) * c[:D],
        K * D,
        by_entry=False,
    ),
}
NUMBERS = {
    "exponential": np.stack([LEVEL, 0 * LEVEL], 1),
    "gamma": np.stack([SHAPE, LEVEL], 1),
    "negative_binomial": np.stack([LEVEL, 1 / SHAPE], 1),
    "multinomial": LEVEL / LEVEL.sum(1, keepdims=True),
    "von_mises_fisher": np.c_[UNIT, [2.0, 8.0, 30.0]],
}


def rows_of(name):
    case, rng = CASES[name], np.random.default_rng(5)
    rows = np.stack([case.draw(rng, c, N) for c in NUMBERS[name]])
    return rows[rng.integers(K, size=N), np.arange(N)]


def mixture_of(name, numbers, pi=PI, dtype=np.float64):
    components = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype), CASES[name].components(numbers)
    )
    log_weights = jnp.log(jnp.asarray(pi, dtype))
    return em.Mixture(log_weights, components, jnp.zeros(D, dtype), CASES[name].family)


def log_joint(name, x, pi, numbers):
    parts = [CASES[name].log_p(np.where(np.isnan(x), 1, x), c) for c in numbers]
    if CASES[name].by_entry:
        parts = [np.where(np.isnan(x), 0, part).sum(1) for part in parts]
    return np.log(pi) + np.stack(parts, 1)


def three_steps(name, x, weight, pi, numbers):
    """The trace, the weights and the component numbers of three steps of EM in NumPy."""
    trace = []
    for _ in range(3):
        joint = log_joint(name, x, pi, numbers)
        log_p = logsumexp(joint, axis=1)
        trace.append(weight @ log_p / weight.sum())
        resp = np.exp(joint - log_p[:, None]) * weight[:, None]
        pi = resp.sum(0) / resp.sum()
        numbers = np.stack([CASES[name].estimate(x, r) for r in resp.T])
    return trace, pi, numbers


ROWS = [(name, holes) for name, case in CASES.items() for holes in {False, case.by_entry}]


@pytest.mark.parametrize(("name", "holes"), ROWS)
def test_densities_and_steps_are_those_of_the_definition(x64, name, holes):
    case, x, numbers, pi = CASES[name], rows_of(name), NUMBERS[name], PI
    if holes:
        x = np.where(LOST, np.nan, x)
    mixture = mixture_of(name, numbers)
    want = logsumexp(log_joint(name, x, pi, numbers), axis=1)
    np.testing.assert_allclose(mixture.log_prob(x), want, rtol=1e-9, atol=1e-9)
    if not holes:
        exact = jax.jit(jax.vmap(mixture.log_joint))(x[:3])
        np.testing.assert_allclose(exact, log_joint(name, x[:3], pi, numbers), rtol=1e-9, atol=1e-9)
    fit = em.fit(
        KEY, x, K, case.family, start=mixture, max_steps=3, tolerance=0.0, sample_weight=WEIGHT,
        throw=False,
    )  # fmt: skip
    trace, pi, numbers = three_steps(name, x, WEIGHT, pi, numbers)
    np.testing.assert_allclose(fit.info.trace, trace, rtol=1e-9)
    np.testing.assert_allclose(fit.mixture.weights, pi, rtol=1e-7)
    for got, want in zip(
        jax.tree.leaves(fit.mixture.components),
        jax.tree.leaves(case.components(numbers)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)
    assert fit.mixture.family == case.family
    assert fit.mixture.num_parameters == case.num_parameters + K - 1


# All families at once, three columns each, share the programs of the tests below.
ALL = em.Product([(case.family, range(3 * i, 3 * i + 3)) for i, case in enumerate(CASES.values())])


def all_families(dtype=np.float64):
    """A mixture of ALL, and rows."""
    parts = [mixture_of(name, NUMBERS[name], dtype=dtype) for name in CASES]
    components = tuple(part.components for part in parts)
    rows = np.concatenate([rows_of(name) for name in CASES], 1)
    return em.Mixture(parts[0].log_weights, components, jnp.zeros(15, dtype), ALL), rows


def test_samples_have_the_moments_of_their_component():
    mixture, _ = all_families(np.float32)
    draws, z = map(np.asarray, mixture.sample(KEY, 20_000))
    means = np.asarray(jax.jit(lambda mixture: mixture.means)(mixture))
    for i, (name, case) in enumerate(CASES.items()):
        for k, numbers in enumerate(NUMBERS[name]):
            rows, mean = draws[z == k, 3 * i : 3 * i + 3], case.mean(numbers)
            np.testing.assert_allclose(means[k, 3 * i : 3 * i + 3], mean, rtol=1e-4)
            error = rows.std(0) / np.sqrt(len(rows))
            assert (np.abs(rows.mean(0) - mean) < 5 * error).all()
            spread = case.draw(np.random.default_rng(0), numbers, 20_000).var(0)
            assert (np.abs(rows.var(0) / spread - 1) < 0.3).all()


def test_acceleration_never_lowers_the_likelihood_and_ends_higher(x64):
    mixture, x = all_families()
    options = {"start": mixture, "tolerance": 0.0, "max_steps": 30, "throw": False}
    fast = em.fit(KEY, x, K, ALL, acceleration="squarem", **options).info
    assert np.diff(fast.trace).min() > -1e-12
    for _ in range(30):
        mixture = em.maximize(em.accumulate(mixture, x), mixture)
    slow = em.accumulate(mixture, x)
    assert fast.log_likelihood > slow.log_likelihood / slow.total_weight - 1e-9


def test_parts_add(x64):
    mixture, x = all_families()
    parts = [em.accumulate(mixture, x[:66]), em.accumulate(mixture, x[66:])]
    added = em.maximize(sum(parts), mixture)
    # The first accelerated step is one of EM.
    options = {"start": mixture, "max_steps": 1, "tolerance": 0.0, "throw": False}
    whole = em.fit(KEY, x, K, ALL, acceleration="squarem", **options).mixture
    for got, want in zip(jax.tree.leaves(added), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-10)


TORTURE = {
    "gamma": np.array(
        [[[1e5, 4e5, 2e5], [1e3, 1e-2, 50.0]], [[1e5, 1e5, 3e5], [1.01e3, 1.02e-2, 51.0]]]
    ),
    "von_mises_fisher": np.array([[0.6, 0.8, 0.0, 1e5], [0.61, 0.7924, 0.0, 3e5]]),
    "multinomial": np.array([[0.3, 0.3, 0.4], [0.3, 0.301, 0.399]]),
}


@pytest.mark.parametrize("name", TORTURE)
def test_float32_of_narrow_components_is_that_of_float64(name):
    """Narrow components close to each other, whose fast path would lose all digits."""
    case, rng = CASES[name], np.random.default_rng(6)
    numbers = TORTURE[name]
    if name == "von_mises_fisher":
        numbers[:, :D] /= np.linalg.norm(numbers[:, :D], axis=1, keepdims=True)
    if name == "multinomial":
        case = case._replace(
            family=em.Multinomial(), draw=lambda rng, c, n: rng.multinomial(10**6, c, n) * 1.0
        )
    rows = np.float32(np.concatenate([case.draw(rng, c, 50) for c in numbers]))
    pi = np.array([0.5, 0.5])

    def fit(dtype):
        start = mixture_of(name, numbers, pi, dtype)
        start = em.Mixture(start.log_weights, start.components, start.origin, case.family)
        options = {"start": start, "max_steps": 3, "tolerance": 0.0, "throw": False}
        options["sample_weight"] = np.ones(len(rows))  # as in the programs above
        return em.fit(KEY, rows.astype(dtype), 2, case.family, **options)

    single = fit(np.float32)
    if name == "multinomial":  # its fit in float64 would be a program more
        trace, _, found = three_steps(name, rows.astype(float), np.ones(len(rows)), pi, numbers)
        components = case.components(found)
    else:
        with jax.enable_x64(True):
            double = fit(np.float64)
        trace, components = double.info.trace, double.mixture.components
    assert single.info.exact_steps == 3
    np.testing.assert_allclose(single.info.trace, trace, atol=5e-3)
    leaves = [jax.tree.leaves(found) for found in (single.mixture.components, components)]
    for got, want in zip(*leaves, strict=True):
        np.testing.assert_allclose(got, want, rtol=3e-3, atol=1e-5)


LIMITS = {
    "zeros": (em.Exponential(), [0.0, 0.0, 0.0], 1e-6, r"the least mean of column 0"),
    "equal": (em.Gamma(), [3.0, 3.0, 3.0], 1e6, r"the largest shape of column 0"),
    "poisson": (em.NegativeBinomial(9), [3.0, 3.0, 3.0], 0.0, r"dispersion 0 of column 0"),
    "one direction": (
        em.VonMisesFisher(),
        [0.6, 0.8, 0.0],
        1e6,
        r"the largest concentration in component 0",
    ),
    "no counts": (em.Multinomial(), [0.0, 2.0, 3.0], 0.0, r"p = 0 of column 0"),
}


@pytest.mark.parametrize(("family", "row", "value", "words"), LIMITS.values(), ids=LIMITS)
def test_limits_are_kept_and_named(family, row, value, words):
    """Of 100 equal rows with weights: shapes as in the test before."""
    x = np.tile(np.float32(row), (100, 1))
    with pytest.warns(em.BoundaryWarning, match=words):
        fit = em.fit(KEY, x, 1, family, sample_weight=np.ones(100))
    found = [np.asarray(leaf).ravel()[0] for leaf in jax.tree.leaves(fit.mixture.components)]
    assert np.isfinite(fit.info.log_likelihood)
    assert any(number == pytest.approx(value, rel=1e-3) for number in found)


def test_the_bessel_functions_are_those_of_scipy_and_of_closed_forms(x64):
    log_normalizer = jax.jit(bessel.log_normalizer, static_argnums=1)
    shortfall = jax.jit(bessel.shortfall, static_argnums=1)
    kappa = np.geomspace(1e-3, 600, 30)
    for dim in (2, 5, 10, 40):
        order = dim / 2 - 1
        want = order * np.log(kappa) - np.log(special.ive(order, kappa))
        want -= dim / 2 * np.log(2 * np.pi)
        some = np.isfinite(want)
        got = np.asarray(log_normalizer(kappa, dim))
        np.testing.assert_allclose(got[some], want[some], rtol=1e-9, atol=1e-9)
    far = np.array([1e4, 1e6])
    closed = np.log(far / (2 * np.pi))  # D = 3: c / (4 pi sinh c), times e^c
    np.testing.assert_allclose(log_normalizer(far, 3), closed, atol=1e-9)
    np.testing.assert_allclose(shortfall(far, 3), 1 / far, rtol=1e-9)
    # kappa -> 0: the area of the sphere in 1,000 dimensions
    area = np.log(2) + 500 * np.log(np.pi) - special.gammaln(500)
    np.testing.assert_allclose(log_normalizer(1e-6, 1000), -area, atol=2e-6)
    np.testing.assert_allclose(shortfall(1e-6, 1000), 1, rtol=1e-8)


def test_many_dimensions_keep_the_concentration(x64):
    """E[x] in 1,000 dimensions has the length A(c), from which c comes back."""
    family, c = em.VonMisesFisher(), np.array([3.0, 700.0, 2e4])
    gap = np.asarray(jax.jit(bessel.shortfall, static_argnums=1)(c, 1000))
    found = jax.jit(family.concentration, static_argnums=2)(gap * (2 - gap), 1 - gap, 1000)
    np.testing.assert_allclose(found, c, rtol=1e-9)


BAD = {
    "exponential": (em.Exponential(), -1.0, r"waiting times >= 0, got -1 in column 1, .* row 7"),
    "gamma": (em.Gamma(), 0.0, r"expected numbers > 0, got 0 in column 1, the first at row 7"),
    "largest": (em.NegativeBinomial(30), 31, r"counts 0, 1, ..., 30 = largest, got 31 in column 1"),
    "counts": (em.Multinomial(), 0.5, r"counts 0, 1, 2, ..., got 0.5 in column 1, .* row 7"),
    "sum": (em.Multinomial(3), 5.0, r"rows with the sum 3, got 7, the first at row 7"),
    "norm": (em.VonMisesFisher(), 2.0, r"unit vectors, got a row of norm .*, the first at row 7"),
    "nan": (
        em.Multinomial(),
        np.nan,
        "expected finite numbers for Multinomial components, got 1 NaN",
    ),
}


@pytest.mark.parametrize(("family", "value", "message"), BAD.values(), ids=BAD)
def test_values_outside_the_support_are_named(family, value, message):
    x = np.tile([[1.0, 1.0, 1.0]], (20, 1))
    if isinstance(family, em.VonMisesFisher):
        x /= np.sqrt(3)
    x[7, 1] = value
    with pytest.raises(ValueError, match=message):
        em.fit(KEY, x, 1, family)
