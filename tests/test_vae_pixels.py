"""Images in the units of likelihoods, against the grey levels of the digits as scikit-learn has them."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lvm_jax import data, likelihoods, vae

GREY = load_digits().data  # whole numbers from 0 to 16


def rows_of(x):
    return np.unique(x, axis=0)


def whole(pixels):
    return np.concatenate([pixels.train, pixels.validation, pixels.test])


@pytest.mark.parametrize("name", likelihoods.LIKELIHOODS)
def test_digits_are_integers_for_counts_and_fractions_otherwise(name):
    pixels = vae.load_pixels("digits", likelihood=name, binarization="none")
    assert (pixels.levels, pixels.binarization, pixels.transform) == (17, "none", None)
    assert pixels.high == (16 if name in vae.COUNTS else 1)
    np.testing.assert_array_equal(rows_of(whole(pixels)) * 16 / pixels.high, rows_of(GREY))


def test_bernoulli_images_are_redrawn_for_training_and_fixed_for_evaluation():
    pixels = vae.load_pixels("digits", seed=3)
    assert (pixels.levels, pixels.binarization, pixels.high) == (2, "dynamic", 1)
    assert pixels.transform is data.BINARIZATIONS["dynamic"].transform
    assert set(np.unique(pixels.train * 16)) == set(range(17))
    for part, grey in (("train_fixed", pixels.train), ("test", data.load_images("digits").test)):
        bits = getattr(pixels, part)
        assert set(np.unique(bits)) == {0, 1}
        error = np.sqrt((grey * (1 - grey)).sum())
        assert abs((bits - grey).sum()) < 5 * error  # E[bit] = grey level
    cut = vae.load_pixels("digits", binarization="threshold")
    np.testing.assert_array_equal(rows_of(whole(cut)), rows_of(GREY >= 8))


def test_chosen_rows_have_their_indices_and_smaller_choices_are_subsets():
    pixels = vae.load_pixels("digits", likelihood="gaussian")
    few, many = (pixels.choose(most, 5) for most in (10, 10_000))
    for name in vae.PARTS:
        np.testing.assert_array_equal(few.rows[name], getattr(pixels, name)[few.indices[name]])
        np.testing.assert_array_equal(few.indices[name], many.indices[name][:10])
        np.testing.assert_array_equal(np.sort(many.indices[name]), np.arange(many.out_of[name]))


def test_wrong_words_are_refused():
    with pytest.raises(ValueError, match="likelihood: expected .* got 'bernouli'"):
        vae.load_pixels("digits", likelihood="bernouli")
    with pytest.raises(ValueError, match="method: expected"):
        vae.load_pixels("digits", binarization="cut")
