import jax
import numpy as np
import pytest
import variational_reference as reference
from em_reference import blobs
from scipy.special import betaln, gammaln, logsumexp

from lvm_jax import data, em

N, D = 100, 2
X = blobs(N, D, 2, seed=3)
KEY = jax.random.key(0)
CASES = (
    ("full", "dirichlet"),
    ("tied", "dirichlet_process"),
    ("diag", "dirichlet"),
    ("spherical", "dirichlet_process"),
)
SCALES = {
    "full": np.array([[2.0, 0.5], [0.5, 1.0]]), "tied": np.array([[2.0, 0.5], [0.5, 1.0]]),
    "diag": np.array([2.0, 1.0]), "spherical": 1.5,
}  # fmt: skip
ALPHA = 0.7


def prior_of(kind):
    return em.NormalInverseWishart(np.array([0.5, -0.3]), 0.4, 4.5, SCALES[kind])


def fit(kind, weights, x=X, number=3, **options):
    """A fit of N rows, those after the rows of x of weight 0: all have one program."""
    weight = np.zeros(N)
    weight[: len(x)] = options.pop("sample_weight", 1.0)
    options = {"concentration": ALPHA, "prior": prior_of(kind), "tolerance": 1e-9, **options}
    options["sample_weight"], x = weight, np.concatenate([x, X[: N - len(x)]])
    return em.variational(KEY, x, number, kind, weights=weights, **options)


def numbers(kind, posterior):
    """concentration, strength, degrees, means and the scales Psi, in the shape of the type."""
    degrees, covariances = np.asarray(posterior.degrees), np.asarray(posterior.covariances)
    scales = covariances * degrees[:, None, None]
    if kind == "tied":
        scales = scales[0]
    elif kind == "diag":
        scales = np.stack([np.diag(scale) for scale in scales])
    elif kind == "spherical":
        scales = scales[:, 0, 0]
    concentration, strength, means = posterior.concentration, posterior.strength, posterior.means
    return tuple(map(np.asarray, (concentration, strength, degrees, means, scales)))


@pytest.mark.parametrize(("kind", "weights"), CASES)
def test_bound_has_all_terms_and_never_falls(x64, kind, weights):
    posterior, info = fit(kind, weights)
    want = reference.elbo(X, kind, prior_of(kind), np.full(3, ALPHA), *numbers(kind, posterior))
    np.testing.assert_allclose(info.elbo, want, rtol=1e-12)
    assert np.diff(np.append(info.trace, info.elbo)).min() >= -1e-9
    assert info.outcome == em.Outcome.CONVERGED
    np.testing.assert_allclose(posterior.counts.sum(), N, rtol=1e-12)


def weights_of_one(weights, n):
    """log of the probability that n rows are of the first component, K = 1."""
    return betaln(1 + n, ALPHA) - betaln(1, ALPHA) if weights == "dirichlet_process" else 0.0


@pytest.mark.parametrize(("kind", "weights"), CASES)
def test_one_component_has_the_exact_evidence_and_predictive_density(x64, kind, weights):
    posterior, info = fit(kind, weights, number=1)
    prior = prior_of(kind)

    def log_marginal(x):
        return reference.log_marginal(x, np.zeros(len(x), int), 1, kind, prior)

    np.testing.assert_allclose(info.elbo, log_marginal(X) + weights_of_one(weights, N), rtol=1e-12)
    new = np.array([[0.0, 0.0], [4.0, -5.0], [30.0, 1.0]])
    for row, got in zip(new, posterior.log_prob(new), strict=True):
        old = log_marginal(np.vstack([X, row])) - log_marginal(X)
        if weights == "dirichlet_process":  # the row may be of a component after K
            fresh = reference.log_marginal(
                np.vstack([X, row]), np.repeat([0, 1], [N, 1]), 2, kind, prior
            ) - log_marginal(X)
            share = (1 + N) / (1 + N + ALPHA)
            old = np.logaddexp(np.log(share) + old, np.log1p(-share) + fresh)
        np.testing.assert_allclose(got, old, rtol=1e-10)


def partitions(n):
    """All partitions of n rows, as labels by order of appearance."""
    if n == 1:
        return [(0,)]
    return [(*z, k) for z in partitions(n - 1) for k in range(max(z) + 2)]


@pytest.mark.parametrize(("kind", "weights"), CASES)
def test_bound_is_below_the_evidence_by_enumeration(x64, kind, weights):
    x, prior = X[:6], prior_of(kind)
    terms = []
    for z in partitions(len(x)):
        counts = np.bincount(z)
        number, n = len(counts), len(x)
        log_marginal = reference.log_marginal(x, np.array(z), number, kind, prior)
        if weights == "dirichlet_process":  # the Chinese restaurant process
            log_p = number * np.log(ALPHA) + gammaln(counts).sum()
            log_p += gammaln(ALPHA) - gammaln(ALPHA + n)
        elif number > 2:
            continue
        else:  # two labels of each partition, also of one with an empty component
            both = np.append(counts, [0] * (2 - number))
            log_p = gammaln(2 * ALPHA) - gammaln(2 * ALPHA + n) + np.log(2)
            log_p += (gammaln(ALPHA + both) - gammaln(ALPHA)).sum()
        terms.append(log_p + log_marginal)
    exact = logsumexp(terms)
    info = fit(kind, weights, x, 2).info
    assert exact - 4 < info.elbo < exact


@pytest.mark.parametrize(("kind", "weights"), CASES[1:3])
def test_samples_of_mixtures_have_the_predictive_density(x64, kind, weights):
    posterior, num = fit(kind, weights, X[:20], 2).posterior, 4_000
    drawn = posterior.sample(jax.random.key(1), num)
    rows = np.array([[0.0, 0.0], X[0], [5.0, -4.0]])
    weight, mean, scale = map(np.asarray, (drawn.weights, drawn.means, drawn.components.scale))
    assert weight.shape == (num, 2 + (weights == "dirichlet_process"))
    np.testing.assert_allclose(weight.sum(1), 1, rtol=1e-12)
    if kind == "tied":
        covariance = (scale @ scale.transpose(0, 2, 1))[:, None]
    else:
        covariance = scale[..., None] ** 2 * np.eye(D)
    d = rows[:, None, None] - mean
    square = np.einsum("nskd,nskd->nsk", d, np.linalg.solve(covariance, d[..., None])[..., 0])
    density = np.exp(-square / 2) / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))
    density = (density * weight).sum(2)
    error = density.std(1) / np.sqrt(num)
    assert (np.abs(density.mean(1) - np.exp(posterior.log_prob(rows))) < 5 * error).all()


def test_a_weight_of_two_is_a_row_twice(x64):
    weight = 1.0 + np.arange(40) % 3
    start = fit("full", "dirichlet", X[:40], max_steps=0, throw=False).posterior
    options = {"start": start, "max_steps": 20, "tolerance": 0.0, "throw": False}
    weighted = fit("full", "dirichlet", X[:40], sample_weight=weight, **options)
    repeated = fit("full", "dirichlet", np.repeat(X[:40], weight.astype(int), axis=0), **options)
    np.testing.assert_allclose(weighted.info.trace, repeated.info.trace, rtol=1e-9)
    np.testing.assert_allclose(weighted.posterior.means, repeated.posterior.means, rtol=1e-8)


def completed_step(x, kind, posterior):
    """Means m_k and Psi_k / nu_k after a step in NumPy, with the missing entries as latent."""
    prior, resp = prior_of(kind), np.asarray(posterior.responsibilities(x))
    means, covariances = np.asarray(posterior.means), np.asarray(posterior.covariances)
    found = []
    for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        filled, extra = x.copy(), np.zeros((D, D))
        for row, r in zip(filled, resp[:, k], strict=True):
            m = np.isnan(row)
            if m.any():
                gain = covariance[np.ix_(m, ~m)] @ np.linalg.inv(covariance[np.ix_(~m, ~m)])
                row[m] = mean[m] + gain @ (row[~m] - mean[~m])
                extra[np.ix_(m, m)] += r * (
                    covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(~m, m)]
                )
        n = resp[:, k].sum()
        centre = resp[:, k] @ filled / n
        d = centre - prior.mean
        scatter = (filled - centre).T @ ((filled - centre) * resp[:, k : k + 1]) + extra
        scatter += prior.strength * n / (prior.strength + n) * np.outer(d, d)
        if kind == "diag":
            scatter = np.diag(np.diag(scatter) + prior.scale)
        else:
            scatter = scatter + prior.scale
        mean = (prior.strength * prior.mean + n * centre) / (prior.strength + n)
        found.append((mean, scatter / (prior.degrees + n)))
    return tuple(np.stack(each) for each in zip(*found, strict=True))


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_missing_entries_are_latent(x64, kind):
    holes = X.copy()
    holes[::3, 0], holes[1::3, 1] = np.nan, np.nan
    posterior, info = fit(kind, "dirichlet", holes, 2, max_steps=3_000, tolerance=1e-13)
    assert np.diff(np.append(info.trace, info.elbo)).min() >= -1e-9
    means, covariances = completed_step(holes, kind, posterior)
    np.testing.assert_allclose(posterior.means, means, atol=1e-4)
    np.testing.assert_allclose(posterior.covariances, covariances, atol=1e-4)


def test_float32_keeps_the_bound_of_tight_clusters_far_from_zero():
    rng = np.random.default_rng(0)
    x = np.repeat([[-30.0, 30.0], [30.0, 30.0]], 50, axis=0) + 2e-3 * rng.normal(size=(100, 2))
    prior = em.NormalInverseWishart(np.array([0.0, 30.0]), 1e-8, 4.0, 1e-5 * np.eye(2))
    bounds = []
    for wide in (True, False):
        with jax.enable_x64(wide):
            info = fit("full", "dirichlet", x, 2, prior=prior, tolerance=1e-4).info
            bounds.append(info.elbo)
    assert info.exact_steps > 0
    np.testing.assert_allclose(*bounds, rtol=1e-4)


def test_unused_components_return_to_the_prior(x64):
    x = np.concatenate([X[:50] * 0.1, X[:50] * 0.1 + 20])
    posterior = fit("full", "dirichlet", x, 3, concentration=1e-3).posterior
    assert abs(posterior.effective_components - 2) < 1e-6
    empty = int(np.argmin(posterior.counts))
    assert posterior.counts[empty] < 1e-9
    np.testing.assert_allclose(posterior.means[empty], prior_of("full").mean, atol=1e-9)
    np.testing.assert_allclose(posterior.covariances[empty], SCALES["full"] / 4.5, rtol=1e-9)
    assert np.bincount(posterior.assign(x), minlength=3).tolist().count(50) == 2


def test_a_dirichlet_process_has_two_components_of_old_faithful():
    x = np.asarray(data.old_faithful().x)
    options = {"weights": "dirichlet_process", "num_restarts": 10}
    posterior, info = em.variational(KEY, x, 8, **options)
    assert info.restart_elbos[info.best_restart] == info.restart_elbos.max()
    np.testing.assert_allclose(posterior.prior.concentration, 1 / 8)
    np.testing.assert_allclose(posterior.prior.components.scale, np.cov(x.T), rtol=1e-5)
    assert tuple(map(float, posterior.prior.components[1:3])) == (1, 4)
    largest = np.sort(posterior.counts)[::-1]
    np.testing.assert_allclose(largest[:2], [175, 97], atol=2)  # those of the clusters
    assert largest[2] < 1


BAD = {
    "family": ({"family": "diagonal"}, ValueError, "family: expected one of full, tied, diag"),
    "weights": ({"weights": "beta"}, ValueError, "weights: expected one of dirichlet"),
    "shape": ({"concentration": np.ones(2)}, ValueError, r"concentration: .*shape \(3,\)"),
    "sign": ({"concentration": 0.0}, ValueError, "concentration: expected positive numbers, got 0"),
    "prior": ({"prior": em.ConjugatePrior()}, TypeError, r"prior.components: expected an em.Norm"),
    "degrees": (
        {"prior": prior_of("full")._replace(degrees=1.0)}, ValueError, "more than D - 1 = 1, got 1",
    ),
    "missing": ({"x": np.where(X > 3, np.nan, X)}, ValueError, "prior: .*missing entries"),
    "constant": ({"x": X * [1.0, 0.0]}, ValueError, r"got constant columns \[1\]"),
    "path": ({"x": lambda: iter([X])}, TypeError, "x: expected an array"),
    "dimensions": ({"x": X[:, 0]}, ValueError, "x: expected"),
    "few": ({"x": X[:2]}, ValueError, "x: expected more rows than columns for the default prior"),
    "rows": (
        {"x": X[:2], "prior": prior_of("full")}, ValueError,
        "x: expected at least num_components = 3 rows, got 2",
    ),
    "start": ({"start": "best"}, ValueError, "start: expected one of"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "error", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        em.variational(KEY, **{"x": X, "num_components": 3, **options})


def test_another_width_is_refused(x64):
    posterior = fit("full", "dirichlet").posterior
    with pytest.raises(ValueError, match="x: expected 2 columns as in the fit, got 1"):
        posterior.log_prob(X[:, :1])
