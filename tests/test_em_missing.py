"""NaN as entries missing at random, in fits, scores and imputation, against plain NumPy."""

import jax
import jax.numpy as jnp
import missing_reference as reference
import numpy as np
import pytest
from em_reference import blobs, compact, numbers
from scipy.special import logsumexp
from test_em_fit import FAMILIES

from lvm_jax import em
from lvm_jax.em import incomplete, kmeans, statistics
from lvm_jax.em.statistics import Data
from lvm_jax.sklearn import GaussianMixture

TYPES = tuple(em.GAUSSIANS)
N, D, K = 101, 3, 3
KEY = jax.random.key(0)
X = blobs(N, D, K)
RNG = np.random.default_rng(1)
WEIGHT = RNG.integers(1, 4, N).astype(float)
HOLES = np.where(RNG.random((N, D)) < 0.25, np.nan, X)
HOLES[np.isnan(HOLES).all(1), 0] = 1.0
MISSING = np.isnan(HOLES)
OPTIONS = {"regularization": 0.0, "tolerance": 0.0, "throw": False}


def start_numbers(covariance_type):
    rng = np.random.default_rng(2)
    factor = rng.normal(size=(K, D, D))
    sigma = factor @ factor.transpose(0, 2, 1) / D + np.eye(D)
    if covariance_type == "tied":
        sigma = np.broadcast_to(sigma[0], sigma.shape)
    elif covariance_type == "diag":
        sigma = np.stack([np.diag(np.diag(s)) for s in sigma])
    elif covariance_type == "spherical":
        sigma = np.stack([np.trace(s) / D * np.eye(D) for s in sigma])
    return np.array([0.5, 0.3, 0.2]), np.float32(X[[3, 50, 80]]).astype(float), sigma


def start_mixture(covariance_type, dtype=np.float64, offset=0.0, size=1.0):
    pi, mu, sigma = start_numbers(covariance_type)
    mu, sigma = np.float32(offset + size * mu), size**2 * sigma
    sigma = compact(sigma, covariance_type)
    return em.gaussian_mixture(pi, mu.astype(dtype), sigma, covariance_type)


def steps(covariance_type, x, num, **options):
    options = OPTIONS | {"start": start_mixture(covariance_type), "sample_weight": WEIGHT} | options
    return em.fit(KEY, x, K, covariance_type, max_steps=num, **options)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_steps_and_scores_are_those_of_the_definition(x64, covariance_type):
    fit = steps(covariance_type, HOLES, 4)
    state, trace = start_numbers(covariance_type), []
    repeated = np.repeat(HOLES, WEIGHT.astype(int), axis=0)  # a weight is a number of rows
    for _ in range(4):
        state, value = reference.em_step(repeated, *state, covariance_type)
        trace.append(value)
    for got, want in zip(numbers(fit.mixture), state, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(fit.info.trace, trace, rtol=1e-12)
    assert fit.mixture.family == em.GAUSSIANS[covariance_type]
    resp, log_p, filled, _ = reference.e_step(HOLES, *state)
    np.testing.assert_allclose(fit.mixture.log_prob(HOLES), log_p, rtol=1e-11)
    np.testing.assert_allclose(fit.info.log_likelihood, WEIGHT @ log_p / WEIGHT.sum(), rtol=1e-12)
    imputed = np.asarray(fit.mixture.impute(HOLES))
    expected = np.einsum("nk,nkd->nd", resp, filled)
    np.testing.assert_allclose(imputed, expected, rtol=1e-11)
    np.testing.assert_array_equal(imputed[~MISSING], HOLES[~MISSING])
    trace = steps(covariance_type, HOLES, 60).info.trace
    assert np.diff(trace).min() >= -1e-12
    assert trace[-1] - trace[0] > 0.1


@pytest.mark.parametrize(
    ("covariance_type", "with_prior"),
    [("full", False), ("tied", True), ("diag", True), ("spherical", False)],
)
def test_complete_rows_have_the_ordinary_fit(x64, covariance_type, with_prior):
    """The families of missing entries on complete rows, and one with a hole and weight 0."""
    extra = np.where(np.arange(N)[:, None] + np.arange(D)[None] == N + 1, np.nan, X)
    weight = np.where(np.isnan(extra).any(1), 0, WEIGHT)
    prior = em.default_prior(X, K, covariance_type) if with_prior else None
    found = steps(covariance_type, extra, 3, sample_weight=weight, prior=prior)
    if with_prior:
        plain = steps(covariance_type, X, 3, sample_weight=weight, prior=prior)
        state, trace = numbers(plain.mixture), plain.info.trace
    else:
        state, trace = start_numbers(covariance_type), []
        for _ in range(3):
            rows = np.repeat(X, weight.astype(int), axis=0)
            state, value = reference.em_step(rows, *state, covariance_type)
            trace.append(value)
    for got, want in zip(numbers(found.mixture), state, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(found.info.trace, trace, rtol=1e-12)
    trace = steps(covariance_type, HOLES, 40, prior=prior).info.trace
    assert np.diff(trace).min() >= -1e-12  # of the MAP objective too


def monotone_rows():
    """Column 2 is observed for 40 rows, column 1 for 70 and column 0 for all 101 (Anderson 1957)."""
    rows = X[:, [0, 1, 2]] @ np.array([[1.0, 0.8, -0.5], [0.0, 1.0, 0.7], [0.0, 0.0, 0.6]])
    rows[70:, 1] = np.nan
    rows[40:, 2] = np.nan
    return rows


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_a_single_gaussian_has_the_factored_maximum_of_monotone_patterns(x64, covariance_type):
    rows = monotone_rows()
    mean, covariance = rows[:, :1].mean(0), np.cov(rows[:, :1].T, ddof=0).reshape(1, 1)
    for d in (1, 2):  # the regression of column d on those before it, on the rows that have all
        seen = rows[~np.isnan(rows[:, d])]
        design = np.c_[np.ones(len(seen)), seen[:, :d]]
        weights, *_ = np.linalg.lstsq(design, seen[:, d])
        noise = np.mean((seen[:, d] - design @ weights) ** 2)
        cross = covariance @ weights[1:]
        corner = noise + weights[1:] @ cross
        mean = np.r_[mean, weights[0] + weights[1:] @ mean]
        covariance = np.block([[covariance, cross[:, None]], [cross[None], np.array([[corner]])]])
    options = {"regularization": 0.0, "tolerance": 1e-15, "max_steps": 5_000}
    fit = em.fit(KEY, rows, 1, covariance_type, **options)
    np.testing.assert_allclose(fit.mixture.means[0], mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(fit.mixture.covariances[0], covariance, rtol=1e-6, atol=1e-6)
    if covariance_type == "full":  # two patterns more change nothing in one dimension of each
        assert fit.info.outcome == em.Outcome.CONVERGED


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
def test_a_single_diagonal_gaussian_has_the_moments_of_the_observed(x64, covariance_type):
    fit = em.fit(KEY, HOLES, 1, covariance_type, regularization=0.0)
    variance = np.nanvar(HOLES, axis=0)
    if covariance_type == "spherical":
        seen = (~MISSING).sum(0)
        variance = np.full(D, seen @ variance / seen.sum())
    np.testing.assert_allclose(fit.mixture.means[0], np.nanmean(HOLES, axis=0), rtol=1e-12)
    np.testing.assert_allclose(np.diag(fit.mixture.covariances[0]), variance, rtol=1e-12)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_float32_far_from_the_origin_is_that_of_float64(covariance_type):
    x = (1e4 + 1e-2 * HOLES).astype(np.float32)
    options = {"tolerance": 0.0, "throw": False, "regularization": 0.0}
    options["sample_weight"] = np.ones(N)  # as in the programs above

    def fit(rows, dtype):
        start = start_mixture(covariance_type, dtype, 1e4, 1e-2)
        found = em.fit(KEY, rows, K, covariance_type, start=start, max_steps=5, **options)
        return found, np.asarray(found.mixture.log_prob(rows))

    found, log_p = fit(x, np.float32)
    with jax.enable_x64(True):
        exact, expected = fit(x.astype(np.float64), np.float64)
        covariances = np.asarray(exact.mixture.covariances)
    assert found.mixture.means.dtype == np.float32
    np.testing.assert_allclose(found.info.trace, exact.info.trace, atol=2e-3)
    np.testing.assert_allclose(log_p, expected, atol=2e-2)
    error = 1e-3 * np.abs(covariances).max()
    np.testing.assert_allclose(found.mixture.covariances, covariances, rtol=0, atol=error)


@pytest.mark.parametrize("covariance_type", ["full", "spherical"])
def test_chunks_are_merged(x64, covariance_type, monkeypatch):
    whole = steps(covariance_type, HOLES, 2, sample_weight=np.ones(N))
    for device in ("CHUNK_BYTES", "ACCELERATOR_BYTES"):
        monkeypatch.setattr(statistics, device, 1)
    chunked = steps(covariance_type, np.tile(HOLES, (3, 1)), 2, sample_weight=None)
    for got, want in zip(numbers(chunked.mixture), numbers(whole.mixture), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("block", [1, 8, 64])
def test_rows_are_sorted_into_blocks_of_one_pattern(block, monkeypatch):
    monkeypatch.setattr(incomplete, "block_size", lambda *_: block)
    family, x, weight, places, _ = incomplete.arrange(em.Full(), HOLES, WEIGHT)
    assert family.block == block
    np.testing.assert_array_equal(x[places], HOLES)
    np.testing.assert_array_equal(weight[places], WEIGHT)
    assert weight.sum() == WEIGHT.sum()
    patterns = np.isnan(x).reshape(-1, block, D)
    assert (patterns == patterns[:, :1]).all()
    groups = np.unique(MISSING, axis=0, return_counts=True)[1]
    assert len(x) == sum(-(-groups // block) * block)


def test_the_block_is_large_for_few_patterns_and_one_row_for_many():
    assert incomplete.block_size(np.array([5_000, 4_000]), 16) == 512
    assert incomplete.block_size(np.full(2_000, 1), 16) == 1


@pytest.mark.parametrize(("family", "law", "level"), FAMILIES.values(), ids=FAMILIES)
def test_discrete_families_leave_missing_entries_out(x64, family, law, level):
    truth = np.stack([np.roll(level, k) for k in range(K)])
    rng = np.random.default_rng(5)
    x = law.rvs(truth[rng.integers(K, size=N)], random_state=rng).astype(float)
    holes = np.where(MISSING, np.nan, x)
    theta, pi = truth * 0.8 + 0.1, np.array([0.5, 0.3, 0.2])
    mixture = em.Mixture(jnp.log(pi), jnp.asarray(theta), jnp.zeros(D), family)
    options = {"start": mixture, "tolerance": 0.0, "sample_weight": WEIGHT, "throw": False}
    fit = em.fit(KEY, holes, K, family, max_steps=3, **options)

    def joint():
        return np.log(pi) + np.where(MISSING[:, None], 0, law.logpmf(x[:, None], theta)).sum(-1)

    np.testing.assert_allclose(mixture.log_prob(holes), logsumexp(joint(), axis=1), rtol=1e-12)
    for _ in range(3):
        resp = np.exp(joint() - logsumexp(joint(), axis=1)[:, None]) * WEIGHT[:, None]
        theta = resp.T @ np.where(MISSING, 0, x) / (resp.T @ ~MISSING)
        pi = resp.sum(0) / resp.sum()
    np.testing.assert_allclose(fit.mixture.means, theta, rtol=1e-11)
    np.testing.assert_allclose(fit.mixture.weights, pi, rtol=1e-11)
    resp = np.exp(joint() - logsumexp(joint(), axis=1)[:, None])
    imputed = np.where(MISSING, resp @ theta, x)
    np.testing.assert_allclose(fit.mixture.impute(holes), imputed, rtol=1e-11)
    both = statistics.exact_pass, statistics.fast_pass
    data = Data(jnp.asarray(holes), None, jnp.zeros(D))
    parameters = jax.tree.map(lambda leaf: leaf[None], mixture.parameters)
    exact, fast = (
        jax.jit(run, static_argnums=(0, 3))(family.incomplete(1), parameters, data, N)
        for run in both
    )
    for got, want in zip(jax.tree.leaves(exact[0]), jax.tree.leaves(fast[0]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11)


def test_the_mean_is_unbiased_where_entries_are_missing_at_random():
    """The second column is missing where the first is positive, so its observed mean is biased."""
    rng = np.random.default_rng(6)
    x = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], size=4_000)
    x[x[:, 0] > 0, 1] = np.nan
    error = 1 / np.sqrt(2_000)
    start = em.gaussian_mixture([1.0], np.zeros((1, 2)), np.eye(2)[None])
    fit = em.fit(KEY, x, 1, "full", start=start, tolerance=1e-7, max_steps=500)
    assert abs(float(fit.mixture.means[0, 1])) < 4 * error
    assert np.nanmean(x[:, 1]) < -20 * error  # -0.8 sqrt(2 / pi) = -0.64


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_draws_of_missing_entries_have_the_conditional_moments(covariance_type):
    row, number = np.float32([np.nan, 0.7, np.nan]), 20_000
    pi, mu, sigma = start_numbers(covariance_type)
    resp, _, filled, unknown = reference.e_step(row.astype(np.float64)[None], pi, mu, sigma)
    mixture = start_mixture(covariance_type, np.float32)
    draws = np.asarray(mixture.sample_missing(KEY, np.tile(row, (number, 1))), np.float64)
    mean = resp[0] @ filled[0]
    d = filled[0] - mean
    covariance = np.einsum("k,kij->ij", resp[0], unknown[0] + d[:, :, None] * d[:, None])
    np.testing.assert_array_equal(draws[:, 1], row[1])
    deviation = np.sqrt(np.diag(covariance))
    assert (np.abs(draws.mean(0) - mean) <= 5 * deviation / np.sqrt(number) + 1e-6).all()
    spread = draws - draws.mean(0)
    products = spread[:, :, None] * spread[:, None]
    errors = products.std(0) / np.sqrt(number)
    assert (np.abs(products.mean(0) - covariance) <= 5 * errors + 1e-6).all()


@pytest.mark.parametrize("start", em.STARTS)
def test_every_start_takes_missing_entries(x64, start):
    fit = em.fit(KEY, HOLES, K, "diag", start=start, tolerance=1e-4, max_steps=300)
    alone = em.fit(KEY, HOLES, 1, "diag").info.log_likelihood
    assert fit.info.outcome == em.Outcome.CONVERGED
    assert fit.info.log_likelihood > alone + 0.05
    assert np.diff(fit.info.trace).min() >= -1e-12


def test_centres_of_k_means_are_means_of_observed_entries(x64):
    data = Data(jnp.asarray(HOLES), None, jnp.zeros(D), fill=jnp.asarray(np.nanmean(HOLES, 0)))
    centres = jax.jit(kmeans.seed, static_argnums=2)(KEY, data, K, K)
    filled = np.where(MISSING, np.nanmean(HOLES, 0), HOLES)
    assert all(
        (filled == centre).all(1).any() for centre in np.asarray(centres)
    )  # the seeds are rows
    found = jax.jit(kmeans.lloyd, static_argnums=2)(centres[None], data, N, 300, 0.0, K)
    distance = np.nansum((HOLES[:, None] - np.asarray(found.centres)) ** 2, -1)
    nearest = distance.argmin(1)
    means = [np.nanmean(HOLES[nearest == k], axis=0) for k in range(K)]
    np.testing.assert_allclose(found.centres[0], means, rtol=1e-12)
    np.testing.assert_allclose(found.inertia[0], distance.min(1).sum(), rtol=1e-12)


def test_other_rows_and_patterns_share_the_programs(store):
    x = HOLES.astype(np.float32)

    def fit(rows):
        start = start_mixture("full", np.float32)
        found = em.fit(KEY, rows, K, "full", start=start, max_steps=3, throw=False)
        found.mixture.log_prob(rows)
        return len(store)

    first = fit(x)
    assert {fit(x[:90]), fit(x[::-1]), fit(x[:, ::-1].copy()), fit(x[8:])} == {first}


def test_rows_and_columns_without_values(x64):
    empty = HOLES.copy()
    empty[[4, 9]] = np.nan
    with pytest.warns(
        UserWarning, match=r"x: 2 rows \(\[4, 9\]\) of 101 without an observed value"
    ):
        fit = em.fit(KEY, empty, K, "full", start=start_mixture("full"), **OPTIONS, max_steps=3)
    weight = np.where(np.isnan(empty).all(1), 0.0, 1.0)
    rest = steps("full", HOLES, 3, sample_weight=weight)
    np.testing.assert_allclose(fit.mixture.covariances, rest.mixture.covariances, rtol=1e-11)
    np.testing.assert_allclose(fit.mixture.log_prob(empty)[4], 0, atol=1e-12)
    np.testing.assert_allclose(fit.mixture.responsibilities(empty)[9], fit.mixture.weights)
    np.testing.assert_allclose(
        fit.mixture.impute(empty)[4], fit.mixture.weights @ fit.mixture.means
    )
    lost = HOLES.copy()
    lost[:, 1] = np.nan
    with pytest.raises(
        ValueError, match=r"x: .*every column, got none in 1 column \(\[1\]\); drop"
    ):
        em.fit(KEY, lost, K)
    lost[5:7, 1] = 0.0, 1.0
    with pytest.raises(ValueError, match=r"got none in 1 column \(\[1\]\)"):
        em.fit(KEY, lost, K, sample_weight=np.isnan(lost[:, 1]).astype(float))


def test_bad_input_is_refused_by_name():
    infinite = HOLES.copy()
    infinite[3, 1] = np.inf
    with pytest.raises(ValueError, match="x: .*got 1 inf, the first at row 3, column 1"):
        em.fit(KEY, infinite, K)
    with pytest.raises(ValueError, match="x: expected finite numbers, got 1 NaN"):
        em.default_prior(np.array([[1.0, 2.0], [np.nan, 3.0]]), 2)

    class Unknown(em.Poisson):
        def incomplete(self, block):
            return None

    with pytest.raises(
        ValueError, match="x: expected finite numbers for Unknown components, got .* NaN"
    ):
        em.fit(KEY, HOLES, K, Unknown())
    with pytest.raises(ValueError, match=r"x: expected values in \[0, 1\]"):
        em.fit(KEY, HOLES, K, em.Bernoulli())


def test_criteria_and_selection(x64):
    mixture = steps("full", HOLES, 5).mixture
    resp, log_p, *_ = reference.e_step(HOLES, *numbers(mixture))
    found = em.criteria(mixture, HOLES)
    bic = -2 * log_p.sum() + mixture.num_parameters * np.log(N)
    np.testing.assert_allclose(found.bic, bic, rtol=1e-12)
    np.testing.assert_allclose(found.icl, bic - 2 * np.log(resp.max(1)).sum(), rtol=1e-12)
    chosen = em.select(KEY, HOLES, (1, 2), "diag", num_restarts=1, throw=False)
    assert chosen.num_components == 2
    assert 0 < em.smallest_spread(chosen.mixture, HOLES) < 1


def test_the_estimator_takes_missing_entries():
    pi, mu, sigma = start_numbers("full")
    given = {"weights_init": pi, "means_init": mu, "precisions_init": np.linalg.inv(sigma)}
    model = GaussianMixture(K, max_iter=300, tol=1e-6, **given)
    labels = model.fit_predict(HOLES, sample_weight=WEIGHT)
    fitted = (model.weights_, model.means_, model.covariances_)
    resp, log_p, filled, _ = reference.e_step(HOLES, *fitted)
    np.testing.assert_array_equal(labels, resp.argmax(1))
    np.testing.assert_array_equal(model.predict(HOLES), labels)
    np.testing.assert_allclose(model.score_samples(HOLES), log_p, rtol=1e-10)
    np.testing.assert_allclose(model.predict_proba(HOLES), resp, atol=1e-10)
    imputed = np.where(MISSING, np.einsum("nk,nkd->nd", resp, filled), HOLES)
    np.testing.assert_allclose(model.impute(HOLES), imputed, rtol=1e-10)
    size = model._current().num_parameters
    np.testing.assert_allclose(model.bic(HOLES), -2 * log_p.sum() + size * np.log(N), rtol=1e-10)
    assert model.__sklearn_tags__().input_tags.allow_nan


COMPLETE = (*em.GAUSSIANS.values(), em.Bernoulli(), em.Poisson())
MASKED = [f.incomplete(1) for f in COMPLETE if not f.by_pattern]


@pytest.mark.parametrize("family", [*COMPLETE, *MASKED], ids=lambda f: type(f).__name__)
def test_half_the_weights_are_half_the_sums(x64, family):
    rows = np.abs(HOLES if family in MASKED else X).round().clip(max=1)
    resp = np.random.default_rng(4).uniform(size=(N, K))
    both = (jnp.asarray(resp), jnp.asarray(resp / 2))
    whole, half = (family.summarize_assigned(jnp.asarray(rows), r) for r in both)
    for a, b in zip(family.reweight(whole, jnp.asarray(0.5)), half, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
