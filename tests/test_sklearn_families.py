"""The estimators of mixtures of Student-t components and of factor analysers."""

import jax
import numpy as np
import pytest
from sklearn_checks import not_passed

from lvm_jax import em
from lvm_jax.sklearn import MixtureOfFactorAnalyzers, StudentMixture

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(size=(60, 3)), RNG.normal(size=(40, 3)) + [6, 0, 3]])
MODELS = {
    "student": StudentMixture(2, degrees=5.0, random_state=0),
    "factors": MixtureOfFactorAnalyzers(2, noise="isotropic", random_state=0),
}


@pytest.mark.parametrize("name", MODELS)
def test_methods_are_those_of_the_mixture(name):
    model = MODELS[name]
    labels = model.fit_predict(X)
    with jax.enable_x64(True):
        mixture = jax.device_put(model._current())
        np.testing.assert_allclose(model.score_samples(X), mixture.log_prob(X), rtol=1e-12)
        np.testing.assert_allclose(model.predict_proba(X), mixture.responsibilities(X), rtol=1e-9)
        assert model.lower_bound_ == pytest.approx(model.score(X), rel=1e-12)
        bic = em.criteria(mixture, X).bic
    assert model.bic(X) == pytest.approx(bic, rel=1e-12)
    assert model.converged_
    assert sorted(np.bincount(labels)) == [40, 60]
    assert model.sample(10)[0].shape == (10, 3)
    np.testing.assert_allclose(model.weights_ @ model.means_, X.mean(0), atol=0.2)
    if name == "student":
        np.testing.assert_array_equal(model.degrees_, [5.0, 5.0])
        assert model.scales_.shape == (2, 3, 3)
    else:
        assert model.loadings_.shape == (2, 3, 1)
        outer = model.loadings_ @ model.loadings_.transpose(0, 2, 1)
        total = outer + model.noise_variances_[:, None, None] * np.eye(3)
        with jax.enable_x64(True):
            np.testing.assert_allclose(mixture.covariances, total, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:EM of")  # step limits, and degrees of freedom at a limit
@pytest.mark.parametrize("model", [StudentMixture(), MixtureOfFactorAnalyzers()])
def test_check_estimator_has_no_failures(unchecked, model):
    assert not_passed(model) == []


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match="rank: expected fewer factors than the 3 columns"):
        MixtureOfFactorAnalyzers(n_factors=3).fit(X)
    with pytest.raises(ValueError, match="The 'degrees' parameter"):
        StudentMixture(degrees=-1.0).fit(X)
