import jax
import jax.numpy as jnp
import numpy as np
import pytest
from em_reference import blobs, em_step, numbers
from scipy import stats
from scipy.special import logsumexp
from sklearn.cluster import KMeans

from lvm_jax import em
from lvm_jax.em import kmeans, starts
from lvm_jax.em.statistics import Data

N, D, K = 301, 3, 3
X = blobs(N, D, K)
KEY = jax.random.key(0)
OUTLIER = X.copy()
OUTLIER[0] = 40.0


def good_start(x):
    return em.gaussian_mixture(np.full(K, 1 / K), x[1 : K + 1], np.tile(np.eye(D), (K, 1, 1)))


def bad_start(x):
    """One component on a lone outlier: its covariance is zero after one step."""
    mu = np.concatenate([x[:1], x[2 : K + 1]])
    origin = good_start(x).origin
    return em.gaussian_mixture(np.full(K, 1 / K), mu, np.tile(np.eye(D), (K, 1, 1)), origin=origin)


def test_known_mixture_is_recovered_within_its_standard_errors():
    # Clusters ten deviations apart: the standard errors are those of labelled data.
    rng = np.random.default_rng(4)
    pi, centres = np.array([0.5, 0.3, 0.2]), 10.0 * np.eye(3)
    deviations = np.array([1.0, 0.7, 1.3])
    z = rng.choice(K, N, p=pi)
    x = centres[z] + deviations[z, None] * rng.normal(size=(N, D))
    fit = em.fit(KEY, x, K)
    assert fit.info.outcome == em.Outcome.CONVERGED
    weights, means, covariances = numbers(fit.mixture)
    order = np.argmax(means, axis=1)
    assert sorted(order) == [0, 1, 2]
    pi, centres, deviations = pi[order], centres[order], deviations[order]
    count = N * pi
    assert (np.abs(weights - pi) < 5 * np.sqrt(pi * (1 - pi) / N)).all()
    assert (np.abs(means - centres) < 5 * (deviations / np.sqrt(count))[:, None]).all()
    truth = deviations[:, None, None] ** 2 * np.eye(D)
    error = deviations**2 / np.sqrt(count)  # of a covariance; sqrt(2) more for a variance
    assert (np.abs(covariances - truth) < 5 * error[:, None, None] * np.sqrt(1 + np.eye(D))).all()


def test_step_limit_warns_and_tolerance_converges():
    with pytest.warns(
        em.ConvergenceWarning, match=f"EM of {K} components did not converge in 2 steps"
    ):
        fit = em.fit(KEY, X, K, max_steps=2, tolerance=0.0)
    assert fit.info.outcome == em.Outcome.MAX_STEPS
    assert fit.info.num_steps == 2
    fit = em.fit(KEY, X, K, tolerance=1e-3, max_steps=500)
    trace = fit.info.trace
    assert fit.info.outcome == em.Outcome.CONVERGED
    assert len(trace) == fit.info.num_steps
    assert abs(trace[-1] - trace[-2]) < 1e-3
    assert (np.abs(np.diff(trace[:-1])) >= 1e-3).all()


def test_max_steps_zero_returns_the_start():
    initial = good_start(X)
    fit = em.fit(KEY, X, K, start=initial, max_steps=0)
    np.testing.assert_allclose(fit.mixture.means, initial.means, rtol=1e-5)
    assert (fit.info.num_steps, fit.info.trace.shape) == (0, (0,))
    value = float(np.mean(initial.log_prob(X)))
    np.testing.assert_allclose(fit.info.log_likelihood, value, rtol=1e-5)


@pytest.mark.parametrize("covariance_type", em.GAUSSIANS)
def test_collapse_is_an_error_or_a_value(x64, covariance_type):
    x, means = OUTLIER, OUTLIER[:K]
    if covariance_type == "tied":  # a shared covariance collapses only if all scatters do
        means = 6.0 * np.eye(D)  # sums and means of these are exact, so the scatter is exactly 0
        x = np.repeat(means, 100, axis=0)
    shapes = {
        "full": np.tile(np.eye(D), (K, 1, 1)), "tied": 1e-3 * np.eye(D),
        "diag": np.ones((K, D)), "spherical": np.ones(K),
    }  # fmt: skip
    initial = em.gaussian_mixture(
        np.full(K, 1 / K), means, shapes[covariance_type], covariance_type
    )
    options = {"start": initial, "regularization": 0.0, "tolerance": 0.0}
    with pytest.raises(
        FloatingPointError, match="components: every restart failed .degenerate after"
    ):
        em.fit(KEY, x, K, covariance_type, **options)
    fit = em.fit(KEY, x, K, covariance_type, throw=False, **options)
    assert fit.info.outcome == em.Outcome.DEGENERATE
    assert (np.linalg.eigvalsh(fit.mixture.covariances) > 0).all()  # those of the step before
    kept = em.fit(KEY, x, K, covariance_type, throw=False, **{**options, "regularization": 1e-3})
    assert kept.info.outcome in (em.Outcome.CONVERGED, em.Outcome.MAX_STEPS)


def test_a_bad_restart_does_not_poison_the_others(x64):
    good, bad = good_start(OUTLIER), bad_start(OUTLIER)
    options = {"regularization": 0.0, "tolerance": 0.0, "max_steps": 3, "throw": False}
    alone = em.fit(KEY, OUTLIER, K, start=good, **options)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), bad, good)
    together = em.fit(KEY, OUTLIER, K, start=both, **options)
    outcomes = [em.Outcome.DEGENERATE, em.Outcome.MAX_STEPS]
    np.testing.assert_array_equal(together.info.restart_outcomes, outcomes)
    np.testing.assert_array_equal(together.info.restart_num_steps, [0, 3])
    assert together.info.best_restart == 1
    for got, want in zip(numbers(together.mixture), numbers(alone.mixture), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(together.info.trace, alone.info.trace, rtol=1e-12)


def test_a_failed_restart_never_wins(x64):
    # The failed one has the higher objective: the other starts much too wide.
    bad, good = bad_start(OUTLIER), good_start(OUTLIER)
    wide = good.components._replace(scale=100 * good.components.scale)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), bad.components, wide)
    initial = em.Mixture(jnp.stack([bad.log_weights] * 2), both, bad.origin, bad.family)
    info = em.fit(
        KEY, OUTLIER, K, start=initial, regularization=0.0, max_steps=1, throw=False
    ).info  # fmt: skip
    outcomes = [em.Outcome.DEGENERATE, em.Outcome.MAX_STEPS]
    np.testing.assert_array_equal(info.restart_outcomes, outcomes)
    assert info.restart_objectives[0] > info.restart_objectives[1] + 1
    assert info.best_restart == 1


def test_the_best_restart_wins_and_one_program_serves_a_grid(store):
    sizes = []
    for seed in range(3):
        for tolerance, regularization in ((1e-2, 1e-6), (1e-4, 1e-3)):
            fit = em.fit(
                jax.random.key(seed), X, K, start="random_from_data", num_restarts=4,
                tolerance=tolerance, regularization=regularization, max_steps=20 + seed,
                throw=False,
            )  # fmt: skip
            info = fit.info
            assert info.best_restart == np.argmax(info.restart_objectives)
            assert np.ptp(info.restart_objectives) > 0  # the restarts differ, so there is a choice
            assert info.trace[-1] == info.restart_objectives[info.best_restart]
            score = float(np.mean(fit.mixture.log_prob(X)))
            np.testing.assert_allclose(info.log_likelihood, score, rtol=1e-5)
            sizes.append(len(store))
    assert all(size == sizes[0] for size in sizes)
    em.initialize(KEY, X, K, "diag", start="random_from_data", num_restarts=4)
    assert len(store) == sizes[0] + 1  # the centres do not depend on the family


@pytest.mark.parametrize("start", em.STARTS)
def test_same_key_same_numbers_and_another_key_others(start):
    options = {"start": start, "num_restarts": 4}
    first = em.initialize(KEY, X, K, **options)
    again = em.initialize(KEY, X, K, **options)
    other = em.initialize(jax.random.key(1), X, K, **options)
    np.testing.assert_array_equal(first.means, again.means)
    assert not np.array_equal(first.means, other.means)
    np.testing.assert_allclose(first.weights.sum(-1), 1, rtol=1e-6)
    # Whatever the assignment, the M-step keeps the mean of the data.
    mean = np.einsum("rk,rkd->rd", first.weights, first.means)
    np.testing.assert_allclose(mean, np.tile(X.mean(0), (4, 1)), atol=1e-5)


def test_seeds_are_different_points_though_rows_repeat():
    distinct = X[:K].astype(np.float32)
    data = Data(jnp.asarray(np.repeat(distinct, [200, 100, 1], axis=0)), None, jnp.zeros(D))
    for choose in (starts._different_rows, kmeans.seed):
        compiled = jax.jit(choose, static_argnums=2)
        for seed in range(10):
            found = np.asarray(compiled(jax.random.key(seed), data, K, K))
            order = np.lexsort(distinct.T), np.lexsort(found.T)
            np.testing.assert_array_equal(found[order[1]], distinct[order[0]])


def test_rows_of_weight_zero_are_never_seeds():
    x = X.astype(np.float32)
    x[::7] = 1e4  # nearly all of the squared distance
    weight = np.where(np.arange(N) % 7 == 0, 0.0, 1.0 + np.arange(N) % 3).astype(np.float32)
    data = Data(jnp.asarray(x), jnp.asarray(weight), jnp.zeros(D))
    for choose in (starts._different_rows, kmeans.seed):
        compiled = jax.jit(choose, static_argnums=2)
        for seed in range(5):
            assert np.abs(compiled(jax.random.key(seed), data, K, K)).max() < 100


def test_draws_have_the_frequencies_of_the_mass():
    mass = np.array([0.0, 1, 2, 3, 0, 4, 5, 6, 7, 0, 8], np.float32)
    num, p = 20_000, mass / mass.sum()
    drawn = kmeans.draw(KEY, jnp.asarray(mass), num)
    counts = np.bincount(drawn, minlength=mass.size)
    assert (np.abs(counts - num * p) <= 5 * np.sqrt(num * p * (1 - p))).all()  # 0 where mass is 0


def test_lloyd_is_sklearns_kmeans_from_the_same_centres(x64):
    centres = np.stack([X[:K], X[10 : 10 + K]])
    data = Data(jnp.asarray(X), None, jnp.zeros(D))
    ours = jax.jit(kmeans.lloyd, static_argnums=2)(jnp.asarray(centres), data, 128, 300, 0.0, K)
    for r in range(2):
        model = KMeans(K, init=centres[r], n_init=1, algorithm="lloyd", tol=0.0).fit(X)
        np.testing.assert_allclose(ours.inertia[r], model.inertia_, rtol=1e-10)
        np.testing.assert_allclose(ours.centres[r], model.cluster_centers_, rtol=1e-10)


def test_progress_is_reported_at_every_interval():
    seen = []
    fit = em.fit(
        KEY, X, K, max_steps=20, tolerance=0.0, throw=False,
        on_progress=seen.append,
    )  # fmt: skip
    assert [row["step"] for row in seen] == [8, 16, 20]
    trace = fit.info.trace
    np.testing.assert_allclose([row["objective"] for row in seen], trace[[7, 15, 19]], rtol=1e-6)
    silent = em.fit(KEY, X, K, max_steps=20, tolerance=0.0, throw=False)
    np.testing.assert_allclose(silent.info.trace, trace, rtol=1e-6)


def test_an_empty_component_keeps_its_place_and_is_named(x64):
    start = good_start(X)
    moved = start.components._replace(deviations=start.components.deviations.at[2].set(1e3))
    initial = type(start)(start.log_weights, moved, start.origin, start.family)
    with pytest.warns(UserWarning, match=r"components \(2,\) lost all their points"):
        fit = em.fit(KEY, X, K, start=initial, regularization=0.0)
    assert fit.info.empty_components == (2,)
    np.testing.assert_allclose(fit.mixture.means[2], initial.means[2], rtol=1e-12)
    two = (np.full(2, 0.5), X[1:3], np.tile(np.eye(D), (2, 1, 1)))
    for _ in range(fit.info.num_steps):
        two, _ = em_step(X, *two, "full")
    np.testing.assert_allclose(fit.mixture.means[:2], two[1], rtol=1e-8)


FAMILIES = {
    "bernoulli": (em.Bernoulli(), stats.bernoulli, np.array([0.2, 0.5, 0.8])),
    "poisson": (em.Poisson(), stats.poisson, np.array([1.0, 4.0, 9.0])),
}


@pytest.mark.parametrize(("family", "law", "level"), FAMILIES.values(), ids=FAMILIES)
def test_other_families_follow_the_same_equations(x64, family, law, level):
    rng = np.random.default_rng(5)
    truth = np.stack([np.roll(level, k) for k in range(K)])
    x = law.rvs(truth[rng.integers(K, size=N)], random_state=rng).astype(float)
    theta, pi = truth * 0.8 + 0.1, np.array([0.5, 0.3, 0.2])
    mixture = em.Mixture(jnp.log(pi), jnp.asarray(theta), jnp.zeros(D), family)
    joint = np.log(pi) + law.logpmf(x[:, None, :], theta).sum(-1)
    np.testing.assert_allclose(mixture.log_prob(x), logsumexp(joint, axis=1), rtol=1e-12)
    trace, weight = [], rng.uniform(0.1, 3.0, N)
    fit = em.fit(
        KEY, x, K, family=family, start=mixture, max_steps=3, tolerance=0.0,
        sample_weight=weight, throw=False,
    )  # fmt: skip
    for _ in range(3):
        joint = np.log(pi) + law.logpmf(x[:, None, :], theta).sum(-1)
        log_p = logsumexp(joint, axis=1)
        trace.append(weight @ log_p / weight.sum())
        resp = np.exp(joint - log_p[:, None]) * weight[:, None]
        pi, theta = resp.sum(0) / weight.sum(), resp.T @ x / resp.sum(0)[:, None]
    np.testing.assert_allclose(fit.mixture.means, theta, rtol=1e-10)
    np.testing.assert_allclose(fit.mixture.weights, pi, rtol=1e-10)
    np.testing.assert_allclose(fit.info.trace, trace, rtol=1e-10)
    assert fit.mixture.num_parameters == K * D + K - 1
    sample, z = map(np.asarray, fit.mixture.sample(KEY, 20_000))
    for k in range(K):
        rows = sample[z == k]
        error = law.std(theta[k]) / np.sqrt(len(rows))
        assert (np.abs(rows.mean(0) - theta[k]) < 5 * error).all()
