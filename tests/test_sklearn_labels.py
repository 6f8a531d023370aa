"""Known components of some samples in the estimators of mixtures."""

import numpy as np
import pytest

from lvm_jax.sklearn import GaussianMixture, MixtureOfFactorAnalyzers, StudentMixture

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(size=(30, 2)), RNG.normal(size=(50, 2)) + [1.5, 0]])
LABELS = np.repeat([1, 0], [30, 50])


def test_known_components_have_the_moments_of_their_samples():
    """The second label is that of the first cluster; lower_bound_ includes the labels."""
    model = GaussianMixture(2, covariance_type="spherical", random_state=0, reg_covar=0.0)
    assert (model.fit_predict(X, labels=LABELS) == LABELS).all()
    parts = [X[k == LABELS] for k in (0, 1)]
    means = np.array([part.mean(0) for part in parts])
    variances = np.array([part.var(0).mean() for part in parts])
    np.testing.assert_allclose(model.means_, means, rtol=1e-9)
    np.testing.assert_allclose(model.covariances_, variances, rtol=1e-9)
    np.testing.assert_allclose(model.weights_, [50 / 80, 30 / 80], rtol=1e-9)
    log_p = np.log(model.weights_) - np.log(2 * np.pi * variances) - 1  # two columns: -2 / 2
    np.testing.assert_allclose(model.lower_bound_, np.array([50, 30]) @ log_p / 80, rtol=1e-9)
    some = model.fit_predict(X, labels=np.where(np.arange(80) % 10 == 0, LABELS, -1))
    assert (some[::10] == LABELS[::10]).all()
    assert 0 < (some != LABELS).sum() < 25


@pytest.mark.parametrize(
    "model", [GaussianMixture(2), StudentMixture(2), MixtureOfFactorAnalyzers(2)]
)
def test_bad_labels_are_refused_by_name(model, tmp_path):
    with pytest.raises(ValueError, match="^labels: expected labels 0 to 1, .* got 2 at row 0"):
        model.fit(X, labels=LABELS + 1)
    if isinstance(model, GaussianMixture):
        np.save(tmp_path / "x.npy", X)
        with pytest.raises(TypeError, match="^labels: expected None with data that stream"):
            model.fit(tmp_path / "x.npy", labels=LABELS)
