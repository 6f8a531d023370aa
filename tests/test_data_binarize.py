import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_files import FOUR, RANDOM, TEST, TRAIN, publish

from lvm_jax import data
from lvm_jax.data import binarize

GREY = RANDOM.uniform(size=(20, 12)).astype(np.float32)


def test_a_dynamic_draw_is_bernoulli_with_the_grey_level():
    grey = np.array([0.0, 0.1, 0.5, 0.9, 1.0], np.float32)
    keys = jax.random.split(jax.random.key(1), 20_000)
    draws = jax.jit(jax.vmap(binarize.dynamic, (0, None)))(keys, grey)
    assert set(np.unique(draws)) == {0, 1}
    assert draws.dtype == jnp.float32
    error = np.sqrt(grey * (1 - grey) / 20_000)  # 0 at both ends: bits stay bits
    draws = np.asarray(draws, np.float64)
    assert (np.abs(draws.mean(axis=0) - grey) <= 5 * error).all()
    covariance = np.cov(draws[:, 1:4], rowvar=False)  # pixels are independent
    bound = 5 * np.outer(error, error)[1:4, 1:4] * np.sqrt(20_000)
    assert (np.abs(covariance - np.diag(np.diag(covariance))) <= bound).all()


def test_a_fixed_draw_is_the_frozen_stream_whatever_follows():
    grey = RANDOM.uniform(size=(2_500, 7)).astype(np.float32)
    uniforms = np.random.RandomState(5).random_sample((2_500, 7))
    bits = binarize.fixed(5, grey)
    np.testing.assert_array_equal(bits, uniforms < grey)
    np.testing.assert_array_equal(binarize.fixed(5, grey[:1_234]), bits[:1_234])
    assert bits.dtype == np.float32
    share = (binarize.fixed(6, grey) != bits).mean()  # E 2 p (1 - p) = 1/3 for p uniform
    assert abs(share - 1 / 3) < 5 * np.sqrt(1 / 3 * 2 / 3 / bits.size)
    np.testing.assert_array_equal(binarize.fixed(6, bits), bits)


def test_the_threshold_is_one_half_and_belongs_to_the_ones():
    levels_of_a_byte = np.arange(256, dtype=np.float32) / np.float32(255)
    for x in (levels_of_a_byte, jnp.asarray(levels_of_a_byte)):
        np.testing.assert_array_equal(binarize.threshold(x), np.arange(256) >= 128)
        assert binarize.threshold(x).dtype == np.float32
    np.testing.assert_array_equal(binarize.threshold(np.array([0.5, 0.49999997])), [1, 0])


def test_binarized_draws_what_measures_a_model_once(tmp_path, monkeypatch):
    publish(monkeypatch, tmp_path, "mnist", FOUR)
    grey, parts = data.load_images("mnist"), data.load_images("mnist", "4/2/4")
    drawn = {name: data.binarized(grey, name, seed=1) for name in data.BINARIZATIONS}
    other = data.binarized(parts, "dynamic", seed=1)
    np.testing.assert_array_equal(drawn["dynamic"].test, drawn["fixed"].test)
    np.testing.assert_array_equal(drawn["dynamic"].test, other.test)
    np.testing.assert_array_equal(drawn["fixed"].test, binarize.fixed((1, 2), grey.test))
    np.testing.assert_array_equal(drawn["fixed"].train, binarize.fixed((1, 0), grey.train))
    np.testing.assert_array_equal(other.validation, binarize.fixed((1, 1), parts.validation))
    np.testing.assert_array_equal(drawn["dynamic"].train, grey.train)
    np.testing.assert_array_equal(drawn["threshold"].train, TRAIN.reshape(6, 6) >= 128)
    np.testing.assert_array_equal(drawn["threshold"].test, TEST.reshape(4, 6) >= 128)
    assert drawn["none"] is grey
    assert {name: d.fixed_bits for name, d in drawn.items()} == {
        "dynamic": False, "fixed": True, "threshold": True, "none": False
    }  # fmt: skip
    assert drawn["fixed"].source == grey.source + "; binarisation fixed"
    assert data.binarized(drawn["threshold"], "fixed", seed=1) is drawn["threshold"]
    transforms = {name: way.transform for name, way in data.BINARIZATIONS.items()}
    assert transforms.pop("dynamic") is binarize.dynamic
    assert set(transforms.values()) == {None}


@pytest.mark.parametrize(
    "method, seed, error, message",
    [
        ("dinamic", 0, ValueError, "method: expected one of dynamic, .* did you mean 'dynamic'"),
        ("fixed", -1, ValueError, "seed: expected an integer >= 0, got -1"),
        ("fixed", 0.5, TypeError, "seed: expected an integer"),
    ],
)
def test_binarized_refuses_what_it_does_not_know(method, seed, error, message):
    with pytest.raises(error, match=message):
        data.binarized(data.from_array(GREY), method, seed)
