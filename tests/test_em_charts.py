"""Standard errors of constrained components, against numerical derivatives in NumPy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from covariance_models import covariances, sizes
from em_reference import e_step, numbers
from scipy import stats
from scipy.optimize import least_squares
from scipy.special import logsumexp

from lvm_jax import em
from lvm_jax.em import charts
from lvm_jax.em.parsimonious import Constrained

K, D = 2, 3
KEY = jax.random.key(0)
RNG = np.random.default_rng(3)
MEANS = np.array([[0.0, 0, 0], [3, 1, 2]])
SIGMA = covariances("EVE", 0.5 * RNG.normal(size=sum(sizes("EVE", K, D))), K, D)
X = np.concatenate(
    [RNG.multivariate_normal(m, s, n) for m, s, n in zip(MEANS, SIGMA, (90, 60), strict=True)]
)
WEIGHT = RNG.integers(1, 4, len(X)).astype(float)


def converged(name):
    """The maximum of the likelihood, where all three kinds of errors are defined."""
    options = {"sample_weight": WEIGHT, "regularization": 0.0, "tolerance": 1e-13}
    return em.fit(KEY, X, K, name, max_steps=3000, **options).mixture


def simulated(name):
    """The mixture of which X is a sample; there scores are enough."""
    components = em.Gaussians(jnp.asarray(MEANS), jnp.linalg.cholesky(SIGMA))
    log_weights, family = jnp.log(jnp.array([0.6, 0.4])), em.COVARIANCE_FAMILIES[name]
    return em.Mixture(log_weights, components, jnp.zeros(D), family)


class Model:
    """A covariance model as a function of as many numbers as it has free parameters."""

    def __init__(self, name, mixture):
        self.name = name
        weights, means, sigma = numbers(mixture)
        volume, shape, angles = sizes(name, K, D)
        last = volume + np.arange(D - 1, shape, D)  # of each shape, which is centred
        self.free = np.setdiff1d(np.arange(volume + shape + angles), last)
        rng = np.random.default_rng(0)
        for _ in range(50):
            start = rng.normal(size=len(self.free))
            found = least_squares(
                lambda t: (self.sigma(t) - sigma).ravel(), start, xtol=1e-15, gtol=1e-15, ftol=1e-15
            )
            if found.cost < 1e-20:
                break
        assert found.cost < 1e-20
        self.theta = np.concatenate([weights[:1], means.ravel(), found.x])

    def sigma(self, free):
        theta = np.zeros(sum(sizes(self.name, K, D)))
        theta[self.free] = free
        return covariances(self.name, theta, K, D)

    def mixture(self, theta):
        weights = np.array([theta[0], 1 - theta[0]])
        return weights, theta[1 : 1 + K * D].reshape(K, D), self.sigma(theta[1 + K * D :])

    def estimates(self, theta):
        weights, means, sigma = self.mixture(theta)
        return np.concatenate([weights, means.ravel(), sigma[:, *np.tril_indices(D)].ravel()])

    def covariance(self, x, weight, kind):
        """The covariance matrix of the estimates, by central differences."""
        log_p = lambda theta: e_step(x, *self.mixture(theta))[1]  # noqa: E731
        step = 2e-4
        changes = step * np.eye(len(self.theta))

        def slope(function):
            pairs = [(function(self.theta + h), function(self.theta - h)) for h in changes]
            return np.stack([(a - b) / (2 * step) for a, b in pairs], -1)

        scores, jacobian = slope(log_p), slope(self.estimates)
        outer = scores.T * weight @ scores
        if kind == "scores":
            return jacobian @ np.linalg.solve(outer, jacobian.T)
        hessian = np.zeros((len(changes), len(changes)))
        for i, g in enumerate(changes):
            for j, h in enumerate(changes[: i + 1]):
                corners = ((1, 1), (1, -1), (-1, 1), (-1, -1))
                values = [s * t * weight @ log_p(self.theta + s * g + t * h) for s, t in corners]
                hessian[i, j] = hessian[j, i] = -sum(values) / (4 * step**2)
        inverse = jacobian @ np.linalg.inv(hessian)
        return inverse @ outer @ inverse.T


@pytest.mark.parametrize(
    ("name", "at", "kind"), [("VEV", converged, "sandwich"), ("EVE", simulated, "scores")]
)
@pytest.mark.filterwarnings("ignore:standard_errors. the mixture is .* from the maximum")
def test_a_constrained_model_has_the_errors_of_numerical_derivatives(x64, name, at, kind):
    """Covariances of the weights, the means and the covariances, for each pair of estimates."""
    mixture = at(name)
    found = em.standard_errors(mixture, X, WEIGHT, kind=kind, with_covariance=True)
    expected = Model(name, mixture).covariance(X, WEIGHT, kind)
    kept = np.diag(expected) > 1e-12  # not the zeros of diagonal matrices
    expected = expected[np.ix_(kept, kept)]
    scale = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(
        found.covariance / scale / scale[:, None], expected / scale / scale[:, None], atol=1e-4
    )
    errors = np.concatenate(
        [found.weights, found.means.ravel(), found.covariances[:, *np.tril_indices(D)].ravel()]
    )
    np.testing.assert_allclose(errors[kept], scale, rtol=1e-4)


def test_a_chart_has_as_many_coordinates_as_the_model_has_parameters():
    for number, dim in ((3, 3), (2, 1), (1, 2)):
        means = jnp.zeros((number, dim))
        for name, family in em.COVARIANCE_FAMILIES.items():
            if isinstance(family, Constrained):
                found = sum(part.size for part in charts.zeros(name, means))
                assert found == family.num_component_parameters(number, dim), name


def noisy_log_prob(theta, x, log_volume):
    """Two diagonal Student-t components of 5 degrees of freedom in the plane, and noise."""
    weights = np.array([*theta[:2], 1 - theta[:2].sum()])
    means, scales = theta[2:6].reshape(2, 2), theta[6:].reshape(2, 2)
    laws = [
        stats.multivariate_t(m, np.diag(s**2), df=5) for m, s in zip(means, scales, strict=True)
    ]
    joint = [np.log(w) + law.logpdf(x) for w, law in zip(weights[:2], laws, strict=True)]
    return logsumexp([*joint, np.full(len(x), np.log(weights[2]) - log_volume)], axis=0)


@pytest.mark.filterwarnings("ignore:standard_errors. the mixture is .* from the maximum")
def test_constants_have_no_error_and_others_that_of_numerical_derivatives(x64):
    """Given degrees of freedom, and the box of the noise: 0, without a warning."""
    x = np.concatenate([X[:, :2], RNG.uniform(-6, 8, (20, 2))])
    scale = jnp.sqrt(jnp.diagonal(jnp.asarray(SIGMA), 0, 1, 2)[:, :2])
    means = jnp.asarray(MEANS[:, :2])
    inner = em.Students(em.Gaussians(means, scale), jnp.full(2, 5.0))
    begin = em.Mixture(jnp.log(jnp.array([0.6, 0.4])), inner, jnp.zeros(2), em.Student("diag", 5.0))
    fit = em.with_noise(begin, x)
    theta = np.concatenate([np.exp(fit.log_weights[:2]), means.ravel(), scale.ravel()])
    log_volume, step = float(fit.components.log_volume[2]), 1e-5
    pairs = [
        [noisy_log_prob(theta + s * h, x, log_volume) for s in (1, -1)]
        for h in step * np.eye(len(theta))
    ]
    scores = np.array([(a - b) / (2 * step) for a, b in pairs])
    expected = np.sqrt(np.diag(np.linalg.inv(scores @ scores.T)))
    found = em.standard_errors(fit, x, kind="scores")
    np.testing.assert_allclose(found.weights[:2], expected[:2], rtol=1e-4)
    np.testing.assert_allclose(found.means[:2].ravel(), expected[2:6], rtol=1e-4)
    inner = found.components.inner
    np.testing.assert_allclose(inner.normal.scale[:2].ravel(), expected[6:], rtol=1e-4)
    constants = (inner.degrees, found.means[2], found.components.width, found.components.log_volume)
    assert all((part == 0).all() for part in constants)
    assert not any("boundary" in words for words in found.problems)


@pytest.mark.filterwarnings("ignore:standard_errors. the mixture is .* from the maximum")
def test_the_rotation_of_factors_changes_only_the_errors_of_the_loadings(x64):
    loadings = np.array([[1.0, 0.2], [0.8, -0.5], [0.1, 1.2], [-0.6, 0.7]])
    x = RNG.normal(size=(200, 2)) @ loadings.T + 0.5 * RNG.normal(size=(200, 4))
    family = em.FactorAnalyzers(2, "isotropic")
    normal = em.Gaussians(jnp.zeros((1, 4)), jnp.full(1, 0.5))
    parts = em.Factors(normal, jnp.asarray(loadings)[None])
    fit = em.Mixture(jnp.zeros(1), parts, jnp.zeros(4), family)
    own = fit.components
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    turned = replace(fit, components=own._replace(loadings=own.loadings @ turn))
    one, other = (em.standard_errors(each, x, kind="scores") for each in (fit, turned))
    np.testing.assert_allclose(other.means, one.means, rtol=1e-6)
    np.testing.assert_allclose(
        other.components.normal.scale, one.components.normal.scale, rtol=1e-6
    )
    assert abs(other.components.loadings / one.components.loadings - 1).max() > 0.1
