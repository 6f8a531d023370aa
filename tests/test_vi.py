"""Variational inference on a log-density whose evidence, posterior and best ELBOs are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import multivariate_normal

from lvm_jax import distributions, evidence, guides, vi

KEY = jax.random.key(2)
RNG = np.random.default_rng(0)
ROWS, NOISE = RNG.normal(size=(12, 3)), 0.7
ROWS[:, 2] = 1.0  # of the intercept
Y = ROWS @ [1.0, -0.5, 2.0] + NOISE * RNG.normal(size=12)
START = {"slopes": jnp.zeros(2), "intercept": jnp.float32(0.0)}
PRECISION = np.eye(3) / 4 + ROWS.T @ ROWS / NOISE**2  # of the posterior of (intercept, slopes)
MEAN = np.linalg.solve(PRECISION, ROWS.T @ Y / NOISE**2)
TRUTH = multivariate_normal(cov=4 * ROWS @ ROWS.T + NOISE**2 * np.eye(12)).logpdf(Y)
pytestmark = pytest.mark.usefixtures("compile_quickly")


def log_density(z):
    """Bayesian linear regression: weights N(0, 2^2 I), noise N(0, 0.7^2)."""
    weights = jnp.concatenate([z["slopes"], z["intercept"][None]])
    prior = distributions.normal(jnp.zeros(3), jnp.full(3, 2.0)).log_prob(weights)
    fitted = jnp.asarray(ROWS, jnp.float32) @ weights
    return prior + distributions.normal(fitted, jnp.full(12, NOISE)).log_prob(jnp.asarray(Y))


@pytest.fixture(scope="module")
def full_rank():
    return vi.fit(KEY, log_density, START, family="full_rank")


def test_a_gaussian_posterior_is_found_exactly(full_rank):
    """Every log-weight is then log Z, so that ELBO, log Z and their errors are exact."""
    assert full_rank.elbo.value == pytest.approx(TRUTH, abs=2e-3)
    assert full_rank.elbo.standard_error < 1e-3
    assert full_rank.log_evidence.log_evidence == pytest.approx(TRUTH, abs=2e-3)
    assert full_rank.ess == pytest.approx(10_000, rel=1e-3)
    factor, order = np.asarray(full_rank.q.flat.cholesky), [2, 0, 1]  # leaves go by their names
    covariance = np.linalg.inv(PRECISION)[np.ix_(order, order)]
    np.testing.assert_allclose(factor @ factor.T, covariance, atol=2e-3)


def test_draws_are_pytrees_of_the_posterior(full_rank):
    draws = full_rank.resample(jax.random.key(4), 4_000).z
    assert draws["slopes"].shape == (4_000, 2)
    found = np.concatenate([draws["slopes"].mean(0), draws["intercept"].mean()[None]])
    error = np.sqrt(np.diag(np.linalg.inv(PRECISION)) / 4_000)
    assert (np.abs(found - MEAN) < 5 * error).all()
    z, log_q = full_rank.q.sample_and_log_prob(seed=KEY, sample_shape=(2, 3))
    assert z["slopes"].shape == (2, 3, 2)
    one = jax.tree.map(lambda leaf: leaf[1, 2], z)
    assert full_rank.q.log_prob(one) == pytest.approx(float(log_q[1, 2]), abs=1e-4)


def test_mean_field_reaches_its_best_elbo_and_weights_close_the_gap():
    """KL(q || p) of the best factorised Gaussian is (sum_d log Lambda_dd - log |Lambda|) / 2."""
    found = vi.fit(KEY, log_density, START, num_draws=20_000)
    gap = 0.5 * (np.log(np.diag(PRECISION)).sum() - np.linalg.slogdet(PRECISION)[1])
    assert gap > 0.05
    assert abs(found.elbo.value - (TRUTH - gap)) < 5 * found.elbo.standard_error + 2e-3
    assert found.elbo.standard_error < 0.01
    assert abs(found.log_evidence.log_evidence - TRUTH) < 5 * found.log_evidence.standard_error
    assert found.log_evidence.num_samples == 20_000
    assert found.k_hat < 0.7
    again = jax.jit(lambda key: evidence.importance(key, log_density, found.q, 20_000))(KEY)
    assert abs(again.log_evidence - TRUTH) < 5 * again.standard_error


def test_a_family_of_guides_and_an_array_as_start():
    """N(loc, 1 I) of a density of variance 1: the ELBO is log Z = 3."""
    found = vi.fit(
        KEY, lambda z: 3 + distributions.normal(jnp.array([1.0, -2.0]), jnp.ones(2)).log_prob(z),
        np.zeros(2, np.float32), family=guides.location(2, 1.0), optimizer=optax.adam(0.1),
        num_steps=300, num_draws=500,
    )  # fmt: skip
    assert found.elbo.value == pytest.approx(3, abs=1e-3)
    assert found.log_evidence.num_samples == 1_000
    np.testing.assert_allclose(found.eta.loc, [1, -2], atol=0.02)


def test_a_start_in_a_steep_tail():
    """exp(4 z - e^z), log Z = log 3!: of N(m, s^2) the best has s^2 = 1/4, e^(m + 1/8) = 4.

    The first gradients are near e^9. Adam without clipping keeps their squares for 1,000 steps.
    """
    found = vi.fit(KEY, lambda z: 4 * z - jnp.exp(z), 9.0, num_draws=20_000)
    best = 4 * (np.log(4) - 1 / 8) - 4 + 0.5 * np.log(2 * np.pi * np.e / 4)
    assert np.log(6) - best < 0.05
    assert abs(found.elbo.value - best) < 5 * found.elbo.standard_error + 1e-3


def test_a_fit_prints_its_two_numbers(full_rank):
    words = f"VariationalFit(elbo={full_rank.elbo!r}, log_evidence={full_rank.log_evidence!r})"
    assert repr(full_rank) == words
    assert words.count(" ± ") == 2


def test_a_q_that_diverges_raises():
    with pytest.raises(FloatingPointError, match="log_density: q is not finite after 2 steps"):
        vi.fit(KEY, lambda z: -jnp.sqrt(z).sum(), -jnp.ones(2), num_steps=2)


def normal_density(z):
    return -0.5 * (z**2).sum()


ONE = np.zeros(2, np.float32)
REFUSED = {
    "legacy key": ({"key": jax.random.PRNGKey(0)}, TypeError, r"key: .* use jax\.random\.key"),
    "vector": (
        {"log_density": lambda z: -(z**2)}, ValueError,
        r"log_density: expected a function of one z, float32\[2\], to one real number, got .*sum over",
    ),
    "another z": (
        {"log_density": lambda z: z["mu"]}, ValueError, "log_density: .* but it fails on the start"
    ),
    "number": ({"log_density": 3.0}, TypeError, "log_density: .* got a float"),
    "integers": (
        {"start": {"mu": 0.0, "k": np.arange(2)}}, TypeError,
        r"start\['k'\]: expected real numbers, got int64; write 0\.0 for 0",
    ),
    "text": ({"start": ["a"]}, TypeError, r"start\[0\]: expected real numbers"),
    "nan": ({"start": ONE * np.nan}, ValueError, "start: expected finite .*2 NaN"),
    "nothing": ({"start": {}}, ValueError, r"start: expected at least one array .* got \{\}"),
    "family": (
        {"family": "full-rank"}, ValueError, "family: expected one of .*did you mean 'full_rank'"
    ),
    "guide": (
        {"family": guides.shared(guides.mean_field(2))}, TypeError, "family: .* got Guide"
    ),
    "dimension": (
        {"family": guides.mean_field(3)}, ValueError, r"family: expected one of \[2\], .* 2 numbers"
    ),
    "flow of one": ({"family": "flow", "start": 0.0}, ValueError, "family: expected mean_field"),
    "estimate": ({"estimate": "vimc"}, ValueError, "estimate: .*did you mean 'vimco'"),
    "no estimate": ({"estimate": None}, TypeError, "estimate: .* got a NoneType"),
    "steps": ({"num_steps": -1}, ValueError, "num_steps: expected an integer >= 0"),
    "draws": ({"num_draws": 0}, ValueError, "num_draws: expected an integer >= 1"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", REFUSED)
def test_bad_arguments_are_refused_by_name(wrong):
    change, error, words = REFUSED[wrong]
    given = {"key": KEY, "log_density": normal_density, "start": ONE} | change
    with pytest.raises(error, match=f"^{words}"):
        vi.fit(given.pop("key"), given.pop("log_density"), given.pop("start"), **given)


def test_it_is_refused_under_transformations(full_rank):
    with pytest.raises(TypeError, match=r"vi\.fit: .*it is a host function"):
        jax.jit(lambda start: vi.fit(KEY, normal_density, start))(ONE)
    with pytest.raises(ValueError, match="num_draws: expected an integer >= 1"):
        full_rank.resample(KEY, 0)
