"""Variational inference on a log-density whose evidence, posterior and best ELBOs are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from lvm_jax import distributions, evidence, guides, problems, vi
from lvm_jax.vi import gaussian

KEY = jax.random.key(2)
RNG = np.random.default_rng(0)
ROWS, NOISE = RNG.normal(size=(12, 3)), 0.7
ROWS[:, 2] = 1.0  # of the intercept
Y = ROWS @ [1.0, -0.5, 2.0] + NOISE * RNG.normal(size=12)
START = {"slopes": jnp.zeros(2), "intercept": jnp.float32(0.0)}
PRECISION = np.eye(3) / 4 + ROWS.T @ ROWS / NOISE**2  # of the posterior of (intercept, slopes)
MEAN = np.linalg.solve(PRECISION, ROWS.T @ Y / NOISE**2)
TRUTH = multivariate_normal(cov=4 * ROWS @ ROWS.T + NOISE**2 * np.eye(12)).logpdf(Y)
WELLS = problems.wells(2, 2, 4.0)


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
    assert full_rank.elbo.value == pytest.approx(TRUTH, abs=1e-4)
    assert full_rank.elbo.standard_error < 1e-4
    assert full_rank.log_evidence.log_evidence == pytest.approx(TRUTH, abs=1e-4)
    assert full_rank.ess == pytest.approx(10_000, rel=1e-3)
    factor, order = np.asarray(full_rank.q.flat.cholesky), [2, 0, 1]  # leaves go by their names
    covariance = np.linalg.inv(PRECISION)[np.ix_(order, order)]
    np.testing.assert_allclose(factor @ factor.T, covariance, rtol=1e-3, atol=1e-4)
    assert full_rank.converged
    assert full_rank.method == "natural_gradient"
    assert full_rank.evaluations < 1_000


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


def test_mean_field_reaches_its_best_elbo_and_weights_close_the_gap(unrefined):
    """KL(q || p) of the best factorised Gaussian is (sum_d log Lambda_dd - log |Lambda|) / 2."""
    found = vi.fit(KEY, log_density, START, family="mean_field", num_draws=20_000)
    gap = 0.5 * (np.log(np.diag(PRECISION)).sum() - np.linalg.slogdet(PRECISION)[1])
    assert gap > 0.05
    assert abs(found.elbo.value - (TRUTH - gap)) < 5 * found.elbo.standard_error + 2e-3
    assert found.elbo.standard_error < 0.01
    assert abs(found.log_evidence.log_evidence - TRUTH) < 5 * found.log_evidence.standard_error
    assert found.importance.num_samples == 20_000
    assert found.k_hat < 0.7
    again = jax.jit(lambda key: evidence.importance(key, log_density, found.q, 20_000))(KEY)
    assert abs(again.log_evidence - TRUTH) < 5 * again.standard_error


def test_the_trace_rises_to_the_elbo(full_rank):
    trace = full_rank.trace
    assert (np.diff(trace.evaluations) > 0).all()
    assert trace.evaluations[-1] == full_rank.evaluations
    assert abs(trace.elbo[-1] - TRUTH) < 5 * trace.standard_error[-1] + 0.05
    assert trace.error[-1] <= 0.01
    assert 0 < trace.rate[-1] <= 0.4


def test_adam_fits_any_family_of_guides(unrefined):
    """N(loc, 1 I) of a density of variance 1: the ELBO is log Z = 3."""

    def shifted(z):
        return 3 + distributions.normal(jnp.array([1.0, -2.0]), jnp.ones(2)).log_prob(z)

    found = vi.fit(
        KEY, shifted, np.zeros(2, np.float32), family=guides.location(2, 1.0),
        method=vi.adam(first_rate=0.1), num_draws=500,
    )  # fmt: skip
    assert found.elbo.value == pytest.approx(3, abs=0.01)
    assert found.importance.num_samples == 1_000
    np.testing.assert_allclose(found.q.flat.base.distribution.loc, [1, -2], atol=0.1)


def test_a_flow_is_nearer_than_a_gaussian(unrefined):
    """A skewed density: z_1 = log of a Gamma(3) variable, z_2 | z_1 ~ N(z_1^2, 1), log Z = log 2."""

    def skewed(z):
        return (
            3 * z[0] - jnp.exp(z[0]) + distributions.normal(z[:1] ** 2, jnp.ones(1)).log_prob(z[1:])
        )

    def loss(eta):
        """-ELBO of z_1 = m + s e_1, z_2 = a + b e_1 + t e_2: with z_1^2 = m^2 + 2 m s e_1 + s^2 e_1^2."""
        m, a, b, log_s, log_t = eta
        s, t = np.exp(log_s), np.exp(log_t)
        away = (a - m**2 - s**2) ** 2 + (b - 2 * m * s) ** 2 + 2 * s**4 + t**2
        joint = 3 * m - np.exp(m + s**2 / 2) - 0.5 * away - 0.5 * np.log(2 * np.pi)
        return -joint - log_s - log_t - np.log(2 * np.pi * np.e)

    gaussian = -minimize(loss, [1.0, 1.0, 1.0, -0.5, 0.0]).fun
    flow = vi.fit(KEY, skewed, np.zeros(2, np.float32), family="flow", max_evaluations=12_000)
    assert gaussian < flow.elbo.value - 5 * flow.elbo.standard_error
    assert abs(flow.elbo.value - np.log(2)) < 0.1
    assert abs(flow.log_evidence.log_evidence - np.log(2)) < 0.05


def test_a_start_in_a_steep_tail(unrefined):
    """exp(4 z - e^z), log Z = log 3!: of N(m, s^2) the best has s^2 = 1/4, e^(m + 1/8) = 4."""
    found = vi.fit(KEY, lambda z: 4 * z - jnp.exp(z), 9.0, num_draws=20_000)
    best = 4 * (np.log(4) - 1 / 8) - 4 + 0.5 * np.log(2 * np.pi * np.e / 4)
    assert np.log(6) - best < 0.05
    assert abs(found.elbo.value - best) < 5 * found.elbo.standard_error + 1e-3


def test_the_budget_ends_a_fit(unrefined, full_rank):
    budget = full_rank.evaluations // 2
    found = vi.fit(KEY, log_density, START, family="full_rank", max_evaluations=budget)
    assert found.reason is vi.Reason.BUDGET
    assert not found.converged
    assert found.evaluations <= budget


def test_a_fit_prints_its_numbers(full_rank):
    words = repr(full_rank)
    assert f"elbo={full_rank.elbo!r}" in words
    assert f"log_evidence={full_rank.log_evidence!r}" in words
    assert "reason=CONVERGED" in words


def half_line(z):
    return jnp.log(z["scale"]).sum() - z["scale"].sum()


def test_a_density_on_a_part_of_the_space_is_reported(unrefined):
    with pytest.raises(FloatingPointError, match=r"log_density: not finite .* give `constrain`"):
        vi.fit(KEY, half_line, {"scale": np.full(2, 0.1, np.float32)})


def test_a_start_that_is_not_finite_names_its_leaf(unrefined):
    start = {"a": np.ones(2, np.float32), "scale": -np.ones(2, np.float32)}
    bad = r"log_density: .* its value is nan; start where the density is finite"
    with pytest.raises(FloatingPointError, match=bad):
        vi.fit(KEY, half_line, start)

    def steep(z):
        return -jnp.sqrt(jnp.abs(z["scale"])).sum() - (z["a"] ** 2).sum()

    start["scale"] = np.zeros(2, np.float32)
    with pytest.raises(FloatingPointError, match=r"its gradient in start\['scale'\] is not finite"):
        vi.fit(KEY, steep, start)
    found = vi.fit(KEY, steep, start, throw=False, max_evaluations=500)
    assert found.reason is vi.Reason.START_NOT_FINITE


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
    "method": ({"method": "adm"}, ValueError, "method: .*did you mean 'adam'"),
    "factory": ({"method": vi.adam}, TypeError, "method: .* got a function"),
    "tolerance": ({"tolerance": 0.0}, ValueError, r"tolerance: expected nats > 0, got 0\.0"),
    "budget": ({"max_evaluations": 0}, ValueError, "max_evaluations: expected an integer >= 1"),
    "memory": (
        {"start": np.zeros(50_000, np.float32)}, ValueError,
        "family: expected low_rank or mean_field for 50,000 numbers, got full_rank, .* 9.3 GiB",
    ),
    "method of other families": (
        {"family": "flow", "method": "natural_gradient"}, ValueError,
        "family: expected one of full_rank, mean_field for this method, got flow",
    ),
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


@pytest.mark.parametrize("method", ["natural_gradient", "adam"])
def test_a_diagonal_start_and_metric_reach_the_best_mean_field(method, monkeypatch, unrefined):
    """As for more than 1,000 numbers: no Hessian and no matrix of D x D numbers."""
    monkeypatch.setattr(gaussian, "MAX_DENSE", 2)
    fit = vi.fit(
        KEY,
        log_density,
        START,
        family="mean_field",
        method=method,
        tolerance=0.002,
        num_draws=20_000,
    )
    best = TRUTH + 0.5 * np.linalg.slogdet(PRECISION)[1] - 0.5 * np.log(np.diag(PRECISION)).sum()
    assert float(fit.elbo.value) == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_a_start_at_a_saddle_is_left(family, unrefined):
    """The gradient is 0 between the wells; the best normal is in one of them."""
    target = WELLS
    found = vi.fit(KEY, target.log_density, jnp.zeros(2), family=family, max_evaluations=20_000)
    assert float(found.elbo.value) == pytest.approx(target.log_evidence - 2 * np.log(2), abs=0.1)
