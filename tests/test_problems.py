"""The problems: every truth by another computation, every guide off by what it states."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import grid, quick_jit
from scipy import special, stats

from lvm_jax import problems

MIXING = np.array([[1, 0.5, 0], [0, 1, 0.5], [0, 0, 1]])
LOGITS = np.random.default_rng(0).normal(size=(3, 3))
PROBLEMS = {
    "linear_gaussian": problems.linear_gaussian(3),
    "correlated": problems.correlated(-0.8),
    "rainforth": problems.rainforth(np.array([0.3, -1.2, 2.0])),
    "two_modes": problems.two_modes(3),
    "two_normals": problems.two_normals(),
    "four_modes": problems.four_modes(3),
    "heavy_tails": problems.heavy_tails(3),
    "discrete": problems.discrete(LOGITS),
    "gaussian_mixture": problems.gaussian_mixture(),
}
# E |x|^2, where it is finite, from the moments of z and of x given z.
SECOND_MOMENTS = {
    "linear_gaussian": (MIXING**2).sum() + 3 * 0.25,
    "rainforth": 3 * 2 + 0.3**2 + 1.2**2 + 2.0**2,
    "two_modes": 3 * (1 + (0.3**2 + 1) / 2),
    "two_normals": 4 + 0.25 + 2.25,
    "four_modes": 2 * (3 * 2**4 + 0.09) + 4 + 0.09,
    "gaussian_mixture": 0.4 * 2 + 0.3 * (5 + 2 * 0.49) + 0.2 * (5 + 2 * 1.96) + 0.1 * (3.25 + 1.62),
}


def log_evidence(problem, *rows):
    return problems.log_evidence(problem, np.array(rows, np.float32))


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_posterior_is_bayes_rule_at_every_z(name, x64):
    problem = PROBLEMS[name]

    @quick_jit
    def both(key):
        theta = jax.tree.map(jnp.asarray, problem.theta)
        key_z, key_x, key_others = jax.random.split(key, 3)
        z = problem.model.prior(theta).sample(seed=key_z)
        x = problem.model.likelihood(theta, z).sample(seed=key_x)
        posterior = problem.model.posterior(theta, x)
        others = problem.model.prior(theta).sample(seed=key_others, sample_shape=(5,))
        joint = problem.p.log_joint(x)
        ratio = jax.vmap(lambda z: joint(z) - posterior.log_prob(z))(others)
        return ratio, problem.model.log_evidence(theta, x)

    ratio, log_p = both(jax.random.key(3))
    np.testing.assert_allclose(ratio, np.full(5, log_p), rtol=1e-6)


@pytest.mark.parametrize("name", SECOND_MOMENTS)
def test_simulated_points_have_the_second_moment_of_the_model(name):
    found = problems.simulate(jax.random.key(0), PROBLEMS[name], 4_000)
    squared = (np.asarray(found.x, float) ** 2).sum(1)
    error = squared.std() / 4_000**0.5
    assert abs(squared.mean() - SECOND_MOMENTS[name]) < 4 * error < 0.2 * SECOND_MOMENTS[name]


def test_the_truth_of_a_point_is_scipys_in_double_precision():
    """Of x | z ~ N(W z, s^2 I): theta is not rounded to float32, which would cost 7 digits."""
    problem, x = PROBLEMS["linear_gaussian"], np.array([0.3, -1.7, 0.1])
    posterior, log_evidence = problems.truth(problem, x)
    covariance = MIXING @ MIXING.T + 0.25 * np.eye(3)
    want = stats.multivariate_normal(np.zeros(3), covariance).logpdf(x)
    assert log_evidence == pytest.approx(want, rel=1e-13)
    precision = np.eye(3) + MIXING.T @ MIXING / 0.25
    np.testing.assert_allclose(
        posterior.mean, np.linalg.solve(precision, MIXING.T @ x / 0.25), rtol=1e-12
    )
    found = posterior.cholesky @ posterior.cholesky.T
    np.testing.assert_allclose(found @ precision, np.eye(3), atol=1e-13)
    assert posterior.mean.dtype == np.float64
    with pytest.raises(ValueError, match="problem: expected closed forms"):
        problems.truth(problem._replace(model=problem.model._replace(posterior=None)), x)


def test_the_mean_log_evidence_of_simulated_points_is_minus_the_entropy():
    found = problems.simulate(jax.random.key(1), PROBLEMS["linear_gaussian"], 4_000)
    covariance = MIXING @ MIXING.T + 0.25 * np.eye(3)
    entropy = stats.multivariate_normal(np.zeros(3), covariance).entropy()
    error = (1.5 / 4_000) ** 0.5  # log p is a constant less half a chi-squared of 3 degrees
    assert abs(found.log_evidence.mean() + entropy) < 4 * error < 0.08


def test_simulated_points_of_heavy_tails_follow_an_f_distribution():
    found = problems.simulate(jax.random.key(0), problems.heavy_tails(2), 2_000)
    assert stats.kstest((np.asarray(found.x) ** 2).sum(1) / 4, stats.f(2, 1).cdf).pvalue > 1e-3


def test_gaussian_evidence_is_the_density_of_x():
    x = np.array([[0.7, -1.2, 2.0], [-3.0, 0.4, 0.1]])
    truth = stats.multivariate_normal(np.zeros(3), MIXING @ MIXING.T + 0.25 * np.eye(3)).logpdf(x)
    np.testing.assert_allclose(log_evidence(PROBLEMS["linear_gaussian"], *x), truth, rtol=1e-6)
    mu = np.array([0.3, -1.2, 2.0])
    truth = stats.multivariate_normal(mu, 2 * np.eye(3)).logpdf(x)
    np.testing.assert_allclose(log_evidence(PROBLEMS["rainforth"], *x), truth, rtol=1e-6)


def test_four_modes_evidence_is_its_integral():
    x = np.array([4.2, 0.3, -1.0])
    z = np.linspace(-16, 16, 20_001)
    each = stats.norm.pdf(z, 0, 2) * stats.norm.pdf(x[:2, None], z**2, 0.3)
    truth = np.log(each.sum(1) * (z[1] - z[0])).sum() + stats.norm.logpdf(x[2], 0, 4.09**0.5)
    found = log_evidence(problems.four_modes(3), x)
    np.testing.assert_allclose(found, truth, rtol=1e-6)
    posterior = problems.four_modes(3).p.posterior(jnp.asarray(x, jnp.float32))
    draw = quick_jit(lambda key: posterior.sample(seed=key, sample_shape=(500,)))
    z = np.asarray(draw(jax.random.key(0)))
    assert np.abs((z[:, :2] > 0).mean(0) - 0.5).max() < 4.5 * 0.5 / 500**0.5
    mean = (np.abs(np.linspace(-16, 16, 20_001)) * each).sum(1) / each.sum(1)
    assert (np.abs(np.abs(z[:, :2]).mean(0) - mean) < 4.5 * z[:, :2].std(0) / 500**0.5).all()


def test_two_modes_evidence_is_its_integral():
    z, points = np.asarray(grid(8.0, 0.05, 2)), np.array([[1.5, -0.4], [-2.5, 2.0]])
    found = log_evidence(problems.two_modes(2), *points)
    for x, log_p in zip(points, found, strict=True):
        each = [stats.norm(s * z, d).logpdf(x).sum(1) for s, d in ((1, 0.3), (-1, 1.0))]
        joint = stats.norm.logpdf(z).sum(1) + np.logaddexp(*each) - np.log(2)
        assert log_p == pytest.approx(np.log(np.exp(joint).sum() * 0.05**2), rel=1e-6)


def test_evidence_of_two_normals_is_its_integral():
    z = np.linspace(-9, 9, 4_001)
    prior = 0.5 * (stats.norm(-2, 0.5).pdf(z) + stats.norm(2, 0.5).pdf(z))
    truth = np.log((prior * stats.norm(z, 1.5).pdf(0.7)).sum() * (z[1] - z[0]))
    assert log_evidence(problems.two_normals(), [0.7])[0] == pytest.approx(truth, rel=1e-6)


def test_heavy_tailed_evidence_is_its_integral():
    nodes, weights = special.roots_legendre(4_000)
    z = np.tan(np.pi / 2 * nodes)  # the tails of a Cauchy in a bounded interval
    found = log_evidence(problems.heavy_tails(1), [1.3], [-40.0])
    for x, log_p in zip((1.3, -40.0), found, strict=True):
        given = stats.t(2, loc=z, scale=np.sqrt((1 + z**2) / 2)).pdf(x)
        density = stats.cauchy.pdf(z) * given * (1 + z**2)
        assert log_p == pytest.approx(np.log(np.pi / 2 * weights @ density), rel=1e-6)


def test_student_t_is_scipys():
    z = np.array([[0.2, 0.1], [9.0, -30.0]], np.float32)

    @quick_jit
    def both(key, z):
        t = problems.StudentT(jnp.array([0.5, -1.0]), jnp.float32(1.7), jnp.float32(3.0))
        return jax.vmap(t.log_prob)(z), t.sample(seed=key, sample_shape=(4_000,))

    found, drawn = map(np.asarray, both(jax.random.key(0), z))
    exact = stats.multivariate_t([0.5, -1.0], 1.7**2 * np.eye(2), df=3).logpdf(z)
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    radius = ((drawn - [0.5, -1.0]) ** 2).sum(1) / (2 * 1.7**2)
    assert stats.kstest(radius, stats.f(2, 3).cdf).pvalue > 1e-3
    assert abs((drawn[:, 0] > 0.5).mean() - 0.5) < 4 * 0.5 / 4_000**0.5


def test_discrete_evidence_is_a_sum_over_every_z():
    x = np.array([0.9, -1.4, 0.3])
    prior = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    total = 0.0
    for z in itertools.product(range(3), repeat=3):
        given = stats.norm(MIXING @ (np.array(z) - 1.0), 0.5).pdf(x).prod()
        total += prior[np.arange(3), z].prod() * given
    assert log_evidence(PROBLEMS["discrete"], x)[0] == pytest.approx(np.log(total), rel=1e-6)


def test_mixture_evidence_is_a_sum_over_components():
    x, problem = np.array([1.1, 0.4]), PROBLEMS["gaussian_mixture"]
    parts = zip((0.4, 0.3, 0.2, 0.1), problem.theta.means, (1, 0.7, 1.4, 0.9), strict=True)
    total = sum(p * stats.norm(m, s).pdf(x).prod() for p, m, s in parts)
    assert log_evidence(problem, x)[0] == pytest.approx(np.log(total), rel=1e-6)


def guide_at(problem, x):
    """q and the posterior at x, in float64."""
    theta = jax.tree.map(jnp.asarray, problem.theta)
    return jax.jit(
        lambda x: (
            problem.guide.posterior(problem.phi, x),
            problem.model.posterior(theta, x),
        )
    )(x)


def test_the_gaussian_guide_is_wider_and_beside(x64):
    q, posterior = guide_at(PROBLEMS["linear_gaussian"], np.array([0.7, -1.2, 2.0]))
    deviation = np.sqrt(np.diagonal(posterior.cholesky @ posterior.cholesky.T))
    np.testing.assert_allclose(q.distribution.scale, 1.2 * deviation, rtol=1e-9)
    np.testing.assert_allclose(q.distribution.loc, posterior.mean + 0.1 * deviation, rtol=1e-9)


def test_rainforths_gap_and_variance_are_the_published_ones(x64):
    problem, x = problems.rainforth(np.linspace(-1, 1, 20)), np.linspace(2, -1, 20)
    q, posterior = guide_at(problem, x)
    loc, scale = np.asarray(q.distribution.loc), np.asarray(q.distribution.scale)
    np.testing.assert_allclose(loc, posterior.mean, atol=1e-12)
    np.testing.assert_allclose(
        posterior.cholesky @ posterior.cholesky.T, 0.5 * np.eye(20), atol=1e-12
    )
    ratio = scale**2 / 0.5  # KL of two normals of one mean
    assert 0.5 * (ratio - 1 - np.log(ratio)).sum() == pytest.approx(10 * (1 / 3 - np.log(4 / 3)))


def test_the_gap_of_the_best_mean_field_normal_is_closed_form(x64):
    problem = PROBLEMS["correlated"]
    q, posterior = guide_at(problem, np.array([1.6, 0.2]))
    covariance = np.asarray(posterior.cholesky @ posterior.cholesky.T)
    deviation = np.sqrt(np.diagonal(covariance))
    np.testing.assert_allclose(deviation, [0.6, 0.45], rtol=1e-7)
    assert covariance[0, 1] / deviation.prod() == pytest.approx(-0.8, abs=1e-8)
    precision, variance = np.linalg.inv(covariance), np.asarray(q.distribution.scale) ** 2
    log_dets = np.linalg.slogdet(covariance)[1] - np.log(variance).sum()
    kl = 0.5 * ((np.diagonal(precision) * variance).sum() - 2 + log_dets)
    assert kl == pytest.approx(-0.5 * np.log(1 - 0.8**2), rel=1e-6)


def test_widened_keeps_the_correlations():
    posterior = problems.changes.FullRankNormal(
        np.array([1.0, 2.0]), np.array([[2.0, 0.0], [1.0, 3.0]])
    )
    q = problems.widened(posterior, widen=2.0, shift=0.5)
    np.testing.assert_allclose(q.mean, [2.0, 4.0])
    np.testing.assert_allclose(q.cholesky, [[4.0, 0.0], [2.0, 6.0]])


def test_the_guides_of_two_modes_cover_one(x64):
    q, posterior = guide_at(problems.two_modes(2), np.array([1.5, -0.4]))
    np.testing.assert_allclose(posterior.parts[0], [[1.5 / 1.09, -0.4 / 1.09], [-0.75, 0.2]])
    np.testing.assert_allclose(posterior.parts[1] ** 2, [0.09 / 1.09, 0.5])
    np.testing.assert_allclose(q.distribution.scale, [1.2 * 0.5**0.5] * 2)
    np.testing.assert_allclose(q.distribution.loc, np.array([-0.75, 0.2]) + 0.1 * 0.5**0.5)
    q, posterior = guide_at(problems.two_normals(), np.array([0.7]))
    np.testing.assert_allclose(q.distribution.loc, [(2 * 4 + 0.7 / 2.25) * 9 / 40])


def test_laplaces_normal_has_the_curvature_of_the_mode(x64):
    problem, x = PROBLEMS["heavy_tails"], np.array([0.7, -1.2, 2.0])
    q, _ = guide_at(problem, x)
    curved = -quick_jit(jax.hessian(problem.p.log_joint(x)))(0.5 * x)
    np.testing.assert_allclose(q.distribution.scale, 1.2 * np.diagonal(curved) ** -0.5, rtol=1e-6)


def test_the_discrete_guide_mixes_the_marginals_with_a_uniform(x64):
    q, table = guide_at(PROBLEMS["discrete"], np.array([0.7, -1.2, 2.0]))
    marginal = np.exp(table.log_probs).reshape(3, 9).sum(1)  # of the first variable
    own = special.softmax(np.asarray(q.distribution.logits)[0])
    np.testing.assert_allclose(own, 0.9 * marginal + 0.1 / 3, rtol=1e-6)


def test_a_changed_guide_is_the_change_of_the_posterior(x64):
    problem = PROBLEMS["linear_gaussian"]
    guide = problems.changed(problem.model, problem.theta, lambda p: p)
    q, posterior = guide_at(problem._replace(guide=guide), np.array([0.7, -1.2, 2.0]))
    np.testing.assert_array_equal(q.cholesky, posterior.cholesky)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: problems.linear_gaussian(0), "dim: expected an integer >= 1"),
        (lambda: problems.linear_gaussian(2, noise=0.0), "noise: expected a number > 0, got 0"),
        (lambda: problems.correlated(1.0), "expected a posterior covariance with eigenvalues in"),
        (lambda: problems.correlated(0.5, (1.2, 0.3)), "correlation, deviations: expected"),
        (lambda: problems.rainforth([[0.0]]), r"mean: expected mu of shape \[D\], got \(1, 1\)"),
        (lambda: problems.rainforth([np.nan]), "mean: "),
        (lambda: problems.two_modes(0), "dim: expected an integer >= 1"),
        (lambda: problems.heavy_tails(2, 0.0), "dof: expected a number > 0"),
        (lambda: problems.discrete([0.0, 1.0]), r"logits: expected shape \[K, L\] with L >= 2"),
        (lambda: problems.simulate(jax.random.key(0), problems.two_normals(), 0), "num_points: "),
        (lambda: problems.funnel(1), "dim: expected an integer >= 2"),
        (lambda: problems.wells(3, 4), "num_wells: expected at most dim = 3, got 4"),
        (lambda: problems.wells(3, 2, -1.0), "delta: expected"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_model_without_a_truth_is_refused():
    problem = PROBLEMS["linear_gaussian"]
    bare = problem.model._replace(posterior=None, log_evidence=None)
    with pytest.raises(ValueError, match="closed-form posterior"):
        problems.changed(bare, problem.theta, problems.shifted_marginals)
    with pytest.raises(ValueError, match="closed-form log_evidence"):
        problems.log_evidence(problem._replace(model=bare), np.zeros((1, 3), np.float32))
