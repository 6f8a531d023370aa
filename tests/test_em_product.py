"""Products of families over blocks of columns, and categories, against plain NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from lvm_jax import em

KEY = jax.random.key(0)
N, K = 101, 3
RNG = np.random.default_rng(4)
Z = RNG.integers(K, size=N)
X = np.c_[
    RNG.normal(size=N) + 2 * Z,
    RNG.poisson(1.0 + 2 * Z),
    RNG.normal(size=N) - Z,
    RNG.integers(2, size=N),
    (Z + RNG.integers(2, size=N)) % 3,
].astype(float)
WEIGHT = RNG.integers(1, 4, N).astype(float)
HOLES = np.where(RNG.random(X.shape) < 0.2, np.nan, X)
FAMILY = em.Product([("diag", (2, 0)), (em.Poisson(), (1,)), (em.Categorical((2, 3)), (3, 4))])
OPTIONS = {"regularization": 0.0, "tolerance": 0.0, "throw": False}
# 118 slides judged by seven pathologists (Agresti 2002, table 13.1): the number of each pattern.
CARCINOMA = """
0000000:34 0000100:2 0100000:6 0100001:1 0100100:4 0100101:5 1000000:2 1010101:1 1100000:2
1100001:1 1100100:2 1100101:7 1100111:1 1101001:1 1101101:2 1101111:3 1110101:13 1110111:5
1111101:10 1111111:16
"""


def start(dtype=np.float64):
    """A mixture of FAMILY, and its numbers in plain NumPy."""
    mu, sd = X[[3, 50, 80]][:, [2, 0]], np.array([[1.0, 2.0], [1.5, 1.0], [0.8, 1.2]])
    rate = np.array([[1.0], [3.0], [5.0]])
    levels = np.array([[0.5, 0.5, 0.2, 0.3, 0.5], [0.3, 0.7, 0.6, 0.2, 0.2], [0.9, 0.1, 1, 1, 1]])
    levels[2, 2:] /= 3
    pi = np.array([0.5, 0.3, 0.2])
    numbers = [pi, mu, sd, rate, levels]
    cast = [jnp.asarray(value, dtype) for value in numbers]
    components = (em.Gaussians(cast[1], cast[2]), cast[3], cast[4])
    return em.Mixture(jnp.log(cast[0]), components, jnp.zeros(5, dtype), FAMILY), numbers


def log_joint(x, pi, mu, sd, rate, levels):
    """log pi_k + the log-density of the observed entries, [N, K]."""
    normal = np.nansum(stats.norm.logpdf(x[:, None, [2, 0]], mu, sd), -1)
    counts = np.nansum(stats.poisson.logpmf(x[:, None, [1]], rate), -1)
    total = np.log(pi) + normal + counts
    for column, first, size in ((3, 0, 2), (4, 2, 3)):
        seen = ~np.isnan(x[:, column])
        codes = x[seen, column].astype(int)
        total[seen] += np.log(levels[:, first : first + size].T[codes])
    return total


def em_step(x, weight, given, numbers):
    """One EM step, where `given` are responsibilities or None, and the objective before it."""
    joint = log_joint(x, *numbers)
    log_p = logsumexp(joint, axis=1)
    resp = np.exp(joint - log_p[:, None])
    if given is not None:
        known = given.any(1)
        log_p = np.where(known, np.where(given > 0, joint, 0).sum(1), log_p)
        resp = np.where(known[:, None], given, resp)
    resp = resp * weight[:, None]
    seen, filled = ~np.isnan(x), np.nan_to_num(x)
    observed = resp.T @ seen
    mean = resp.T @ filled / observed
    square = np.einsum("nk,nd,nkd->kd", resp, seen, (filled[:, None] - mean) ** 2) / observed
    hot = [(x[:, 3 + c] == level) * 1.0 for c, size in enumerate((2, 3)) for level in range(size)]
    levels = resp.T @ np.stack(hot, 1) / observed[:, [3, 3, 4, 4, 4]]
    new = [resp.sum(0) / resp.sum(), mean[:, [2, 0]], np.sqrt(square[:, [2, 0]]), mean[:, [1]]]
    return [*new, levels], weight @ log_p / weight.sum()


def numbers_of(mixture):
    gauss, rate, levels = mixture.components
    deviations = np.asarray(mixture.means)[:, [2, 0]]
    return [np.asarray(v) for v in (mixture.weights, deviations, gauss.scale, rate, levels)]


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_steps_and_scores_are_those_of_the_definition(x64, holes, labelled):
    x = HOLES if holes else X
    mixture, numbers = start()
    np.testing.assert_allclose(mixture.log_prob(x), logsumexp(log_joint(x, *numbers), 1), rtol=1e-9)
    y = np.where(np.arange(N) % 4 == 0, Z, -1) if labelled else None
    given = (y[:, None] == np.arange(K)) * 1.0 if labelled else None
    options = OPTIONS | {"start": mixture, "sample_weight": WEIGHT, "y": y}
    fit, trace = em.fit(KEY, x, K, FAMILY, max_steps=3, **options), []
    for _ in range(3):
        numbers, value = em_step(x, WEIGHT, given, numbers)
        trace.append(value)
    np.testing.assert_allclose(fit.info.trace, trace, rtol=1e-11)
    for got, want in zip(numbers_of(fit.mixture), numbers, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
    assert fit.mixture.family == FAMILY
    assert fit.mixture.num_parameters == 2 + 3 * (4 + 1 + 3)


def test_full_blocks_with_missing_entries_are_the_plain_family(x64):
    rows = np.where(np.arange(N)[:, None] % 5 == np.arange(3)[None], np.nan, X[:, [0, 2, 1]])
    begun = em.gaussian_mixture(
        [0.5, 0.3, 0.2], X[[3, 50, 80]][:, [0, 2, 1]], np.tile(np.eye(3), (3, 1, 1))
    )
    family = em.Product([("full", (0, 1, 2))])
    same = em.Mixture(begun.log_weights, (begun.components,), begun.origin, family)
    plain = em.fit(KEY, rows, K, "full", start=begun, max_steps=3, **OPTIONS)
    found = em.fit(KEY, rows, K, family, start=same, max_steps=3, **OPTIONS)
    np.testing.assert_allclose(found.info.trace, plain.info.trace, rtol=1e-12)
    marginal = family.marginal(found.mixture, 0)
    np.testing.assert_allclose(marginal.covariances, plain.mixture.covariances, rtol=1e-9)
    np.testing.assert_allclose(marginal.impute(rows), found.mixture.impute(rows), rtol=1e-9)


def test_parts_of_the_data_add_to_the_statistics_of_a_step(x64, tmp_path):
    mixture, _ = start()
    parts = [
        em.accumulate(mixture, x, w) for x, w in ((X[:50], WEIGHT[:50]), (X[50:], WEIGHT[50:]))
    ]
    added = em.maximize(sum(parts), mixture, regularization=0.0)
    options = OPTIONS | {"start": mixture, "sample_weight": WEIGHT, "max_steps": 1}
    np.save(tmp_path / "rows.npy", X)
    whole = em.fit(KEY, X, K, FAMILY, **options).mixture
    streamed = em.fit(KEY, tmp_path / "rows.npy", K, FAMILY, **options).mixture
    for found in (added, streamed):
        for got, want in zip(numbers_of(found), numbers_of(whole), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-10)


def test_float32_far_from_the_origin_is_that_of_float64():
    far = X + np.array([1e6, 0, -1e6, 0, 0])
    moved = np.array([1e6, 0, -1e6, 0, 0])

    def fit(dtype):
        mixture, _ = start(dtype)
        origin = jnp.asarray(moved, dtype)
        given = em.Mixture(mixture.log_weights, mixture.components, origin, FAMILY)
        weight = {"sample_weight": WEIGHT}  # as in the programs above
        return em.fit(KEY, far, K, FAMILY, start=given, max_steps=3, **weight, **OPTIONS)

    single = fit(np.float32)
    with jax.enable_x64(True):
        double = fit(np.float64)
    assert single.mixture.means.dtype == np.float32
    np.testing.assert_allclose(single.info.trace, double.info.trace, atol=2e-5)
    found, exact = (np.asarray(fit.mixture.components[0].scale) for fit in (single, double))
    np.testing.assert_allclose(found, exact, rtol=1e-4)


def test_samples_have_the_moments_of_the_components():
    mixture, (_, mu, sd, rate, levels) = start(np.float32)
    draws, z = map(np.asarray, mixture.sample(KEY, 20_000))
    for k in range(K):
        rows = draws[z == k]
        mean = np.array([mu[k, 1], rate[k, 0], mu[k, 0]])
        error = np.array([sd[k, 1], np.sqrt(rate[k, 0]), sd[k, 0]]) / np.sqrt(len(rows))
        assert (np.abs(rows[:, :3].mean(0) - mean) < 5 * error).all()
        for column, first, size in ((3, 0, 2), (4, 2, 3)):
            p = levels[k, first : first + size]
            share = np.bincount(rows[:, column].astype(int), minlength=size) / len(rows)
            assert (np.abs(share - p) < 5 * np.sqrt(p * (1 - p) / len(rows)) + 1e-9).all()


def test_missing_categories_are_the_most_probable_level(x64):
    mixture, numbers = start()
    joint = log_joint(HOLES, *numbers)
    resp = np.exp(joint - logsumexp(joint, axis=1)[:, None])
    filled, lost = np.asarray(mixture.impute(HOLES)), np.isnan(HOLES)
    best = (resp @ numbers[4][:, 2:]).argmax(1)
    np.testing.assert_array_equal(filled[lost[:, 4], 4], best[lost[:, 4]])
    np.testing.assert_allclose(filled[lost[:, 1], 1], (resp @ numbers[3])[lost[:, 1], 0], rtol=1e-9)
    np.testing.assert_array_equal(filled[~lost], HOLES[~lost])


def test_a_level_of_probability_zero_has_no_likelihood(x64):
    """A zero of one component moves the row to the others; a zero of all has log p = -inf."""
    p = jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    mixture = em.Mixture(jnp.log(jnp.array([0.4, 0.6])), p, jnp.zeros(1), em.Categorical((3,)))
    found = np.asarray(mixture.log_prob(np.array([[0.0], [1.0], [2.0], [np.nan]])))
    np.testing.assert_allclose(found, [np.log(0.8), np.log(0.2), -np.inf, 0], atol=1e-14)
    np.testing.assert_array_equal(mixture.responsibilities(np.array([[1.0]])), [[1, 0]])


def carcinoma():
    pairs = [pair.split(":") for pair in CARCINOMA.split()]
    rows = np.array([[float(digit) for digit in pattern] for pattern, _ in pairs])
    return rows, np.array([float(count) for _, count in pairs])


@pytest.mark.parametrize("first", ["random", "kmeans"])
def test_latent_classes_of_carcinoma_have_the_likelihood_of_polca(x64, first):
    """poLCA's manual (Linzer and Lewis 2011), section 5.1: -293.705 with 23 parameters."""
    x, counts = carcinoma()
    options = {"tolerance": 1e-10, "max_steps": 2000, "start": first, "num_restarts": 50}
    with pytest.warns(em.BoundaryWarning, match=r"boundary estimates \(p = .* of level"):
        fit = em.fit(KEY, x, 3, em.Categorical(2), sample_weight=counts, **options)
    assert fit.info.log_likelihood * 118 == pytest.approx(-293.705, abs=5e-4)
    assert fit.mixture.num_parameters == 23
    reached = fit.info.restart_objectives * 118 > -293.706
    assert reached.mean() > 0.9
    probabilities = np.asarray(fit.mixture.components)
    assert len(fit.info.boundary) == (probabilities < 1e-10).sum() >= 9
    np.testing.assert_allclose(probabilities.reshape(3, 7, 2).sum(-1), 1, rtol=1e-12)


def test_acceleration_keeps_the_maximum_of_mixed_data(x64):
    options = {"start": start()[0], "tolerance": 1e-9, "max_steps": 3000, "throw": False}
    options["sample_weight"] = np.ones(N)
    slow = em.fit(KEY, X, K, FAMILY, **options).info
    fast = em.fit(KEY, X, K, FAMILY, acceleration="squarem", **options).info
    assert np.diff(fast.trace).min() > -1e-12
    assert fast.log_likelihood == pytest.approx(slow.log_likelihood, abs=1e-5)
    assert fast.num_steps < slow.num_steps


def test_labels_order_the_components(x64):
    y = np.full(N, -1)
    y[:30] = 2 - Z[:30]  # component 0 is the cluster of z = 2
    options = {"sample_weight": np.ones(N), "tolerance": 1e-6, "throw": False}
    fit = em.fit(KEY, X, K, FAMILY, y=y, **options)
    assert (np.diff(np.asarray(fit.mixture.means)[:, 0]) < 0).all()
    assert fit.mixture.family == FAMILY


BAD_ROWS = {
    "counts": (1, -1.0, r"^x: expected counts .*, got -1 in column 1, the first at row 7$"),
    "level": (4, 3.0, r"expected one of 3 levels, coded 0 to 2, got 3 in column 4, .* row 7$"),
    "fraction": (3, 0.5, r"expected one of 2 levels, coded 0 to 1, got 0.5 in column 3, .* row 7$"),
}


@pytest.mark.parametrize("rows", [X, HOLES], ids=["complete", "holes"])
@pytest.mark.parametrize(("column", "value", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_values_outside_the_support_are_named(rows, column, value, message):
    bad = rows.copy()
    bad[7, column] = bad[9, column] = value
    with pytest.raises(ValueError, match=message):
        em.fit(KEY, bad, K, FAMILY)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (
            [("full", (0, 2))],
            r"blocks: expected every column 0, 1, .* got the columns \[\[0, 2\]\]",
        ),
        ([("full", (0, 1)), (em.Poisson(), (1,))], "blocks: expected every column"),
        ([("fool", (0,))], "blocks: expected one of"),
    ],
)
def test_blocks_are_checked(blocks, message):
    with pytest.raises(ValueError, match=message):
        em.Product(blocks)


def test_other_blocks_are_refused():
    with pytest.raises(TypeError, match="blocks: expected pairs of an"):
        em.Product([(3, (0,))])
    with pytest.raises(ValueError, match="x: expected the 5 columns of the blocks, got 4"):
        em.fit(KEY, X[:, :4], K, FAMILY)


LABELS = np.where(np.arange(N) % 3 == 0, 1, -1)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (
            np.where(np.arange(N) == 5, 3, -1),
            ValueError,
            r"y: expected labels 0 to 2, .* got 3 at row 5",
        ),
        (np.where(np.arange(N) == 5, -2, 0), ValueError, "got -2 at row 5"),
        (LABELS[:4], ValueError, "y: expected shape"),
        (LABELS * 1.0, TypeError, "y: expected integers, -1 for an unknown label, got float64"),
        (LABELS, ValueError, "y: expected a row of positive weight for each label, got none for 1"),
    ],
)
def test_labels_are_checked(y, error, message):
    weight = np.where(LABELS == 1, 0.0, 1.0)
    with pytest.raises(error, match=message):
        em.fit(KEY, X, K, FAMILY, y=y, sample_weight=weight)
