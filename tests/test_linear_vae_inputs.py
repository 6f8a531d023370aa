"""What the linear VAE is given: data, noise variances, options; and what it refuses."""

import jax
import numpy as np
import pytest

from experiments import linear_vae as experiment
from experiments import linear_vae_data as data
from experiments import linear_vae_exact as exact
from experiments import linear_vae_training as training


def test_guides_have_the_parameters_that_their_options_say():
    sizes = {}
    for family in ("mean_field", "full_rank"):
        for covariance in ("shared", "per_x"):
            config = experiment.Config(guide=family, covariance=covariance)
            guide = training.make_guide(config, 3, 6)
            phi = jax.eval_shape(guide.init, jax.random.key(0))
            sizes[family, covariance] = sum(leaf.size for leaf in jax.tree.leaves(phi))
    # a location and a spread of 3, or of 3 and 3 below the diagonal; and what 6 columns move
    assert sizes == {
        ("mean_field", "shared"): 6 + 18, ("mean_field", "per_x"): 6 + 36,
        ("full_rank", "shared"): 9 + 18, ("full_rank", "per_x"): 9 + 54,
    }  # fmt: skip


def test_images_are_centred_and_brought_to_one_scale():
    loaded = data.load("digits", None, False)
    assert loaded.shape == (8, 8)
    assert (loaded.x.astype(np.float64) ** 2).mean() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(loaded.x.mean(0), 0, atol=1e-6)
    back = loaded.x * loaded.scale + loaded.mean
    assert back.min() == pytest.approx(0, abs=1e-6)
    assert back.max() == pytest.approx(1, abs=1e-6)


def test_default_noises_are_spread_over_the_spectrum():
    loaded = data.load("digits", None, False)
    config = experiment.filled(experiment.Config(), loaded)
    found = exact.spectrum(loaded.x)
    noises = experiment.noise_variances(config, loaded, found)
    assert noises[0] is None
    assert [found.above(noise) for noise in noises[1:]] == [0, 2, 5, 7, 10]


def test_rows_that_are_equal_are_refused(tmp_path):
    np.save(tmp_path / "flat.npy", np.ones((20, 4)))
    with pytest.raises(ValueError, match="data: expected rows that differ"):
        experiment.main(experiment.Config(data=str(tmp_path / "flat.npy"), out=tmp_path / "run"))


def test_a_curve_is_dense_at_its_beginning():
    found = training.epochs_to_record(100, 6)
    assert found == [1, 3, 6, 16, 40, 100]
    assert training.epochs_to_record(2, 20) == [1, 2]


def test_wide_data_have_the_spectrum_of_their_rows():
    x = np.random.default_rng(3).normal(size=(5, 9))
    centred = x - x.mean(0)
    found = exact.spectrum(x)
    want = np.linalg.eigvalsh(centred.T @ centred / 5)[::-1]
    np.testing.assert_allclose(found.values, want, atol=1e-12)
    assert found.vectors.shape == (9, 4)
    covariance = found.vectors @ np.diag(found.values[:4]) @ found.vectors.T
    np.testing.assert_allclose(covariance, centred.T @ centred / 5, atol=1e-12)
