"""The unrolled generator draws what jax.random draws, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import threefry

from lvm_jax import data, distributions
from lvm_jax._core import keys
from lvm_jax.distributions.normals import FullRankNormal, LowRankNormal


@pytest.fixture(autouse=True)
def draw_with_the_library(monkeypatch):
    """By its own rounds of Threefry: the other tests draw by a function of C, see quick.py."""
    monkeypatch.setattr(keys, "threefry", threefry.LIBRARY)


DRAWS = {
    "normal": lambda key: jax.random.normal(key, (7, 3)),
    "half": lambda key: jax.random.normal(key, (5,), jnp.bfloat16),
    "bits of 8": lambda key: jax.random.bits(key, (9,), jnp.uint8),
    "bits of 16": lambda key: jax.random.bits(key, (9,), jnp.uint16),
    "scalar": lambda key: jax.random.uniform(key),
    "nothing": lambda key: jax.random.uniform(key, (0, 3)),
    "integers": lambda key: jax.random.randint(key, (50,), -(2**31), 2**31 - 1),
    "order": lambda key: jax.random.permutation(key, 10),
    "split": lambda key: jax.random.key_data(jax.random.split(key, (2, 3))),
    "fold in": lambda key: jax.random.key_data(jax.random.fold_in(key, 2**31 + 5)),
    "row by row": lambda key: jax.vmap(lambda key: jax.random.bernoulli(key, 0.3, (5,)))(
        jax.random.split(jax.random.fold_in(key, 1), 4)
    ),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("x64", [False, True])
def test_every_draw_is_that_of_jax(name, x64):
    with jax.enable_x64(x64):
        key = jax.random.key(2**31 - 7)
        quick = keys.unrolled(key)
        assert jax.random.key_impl(quick) == keys.UNROLLED
        want, got = DRAWS[name](key), jax.jit(DRAWS[name])(quick)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("words", [threefry.LIBRARY, threefry.of_jax], ids=["library", "jax"])
def test_the_published_answers(words):
    """The known answers of Random123 for 20 rounds (Salmon et al. 2011)."""
    # key, counter, answer
    rows = [
        (0, 0, 0, 0, 0x6B200159, 0x99BA4EFE),
        (*[0xFFFFFFFF] * 4, 0x1CB996FC, 0xBB002BE7),
        (0x13198A2E, 0x03707344, 0x243F6A88, 0x85A308D3, 0xC4923A9C, 0x483DF7A0),
    ]
    for *given, high, low in rows:
        key, counter = np.array(given, np.uint32).reshape(2, 2)
        assert [int(word) for word in jax.jit(words)(key, *counter)] == [high, low]


def test_64_bits_and_a_seed_of_its_own():
    with jax.enable_x64():
        key, quick = jax.random.key(5), jax.random.key(5, impl=keys.UNROLLED)
        want = jax.random.normal(key, (6,), jnp.float64)
        np.testing.assert_array_equal(jax.random.normal(quick, (6,), jnp.float64), want)


def test_other_generators_stay_as_they_are():
    other = jax.random.key(0, impl="rbg")
    assert keys.unrolled(other) is other
    with jax.threefry_partitionable(False):
        key = jax.random.key(0)
        assert keys.unrolled(key) is key


def test_what_the_library_draws_is_unchanged():
    # Each against the same formula on jax.random's own numbers.
    key, x = jax.random.key(3), jnp.linspace(0.0, 1.0, 6)
    loc, scale = jnp.arange(3.0), jnp.array([1.0, 0.5, 2.0])
    noise = np.asarray(jax.random.normal(key, (4, 3)))
    got = distributions.normal(loc, scale).sample(seed=key, sample_shape=(4,))
    np.testing.assert_allclose(got, np.asarray(loc) + np.asarray(scale) * noise, rtol=1e-6)
    got = FullRankNormal(loc, jnp.diag(scale)).sample(seed=key, sample_shape=(4,))
    np.testing.assert_allclose(got, np.asarray(loc) + np.asarray(scale) * noise, rtol=1e-6)
    own = np.asarray(jax.random.normal(jax.random.split(key)[1], (4, 3)))
    got = LowRankNormal(loc, jnp.zeros((3, 1)), scale).sample(seed=key, sample_shape=(4,))
    np.testing.assert_allclose(got, np.asarray(loc) + np.asarray(scale) * own, rtol=1e-6)
    np.testing.assert_array_equal(
        data.BINARIZATIONS["dynamic"].transform(key, x),
        jax.random.bernoulli(key, x).astype(x.dtype),
    )


def test_too_many_draws_are_refused():
    many = jax.jit(lambda key: jax.random.bits(key, (2**17, 2**17)))
    with pytest.raises(ValueError, match="at most 2\\^32 draws"):
        many.lower(keys.unrolled(jax.random.key(0)))


@pytest.mark.parametrize("number", [1, 2, 3, keys.MOST, keys.MOST + 1])
@pytest.mark.parametrize("kind", ["threefry2x32", "rbg", "unrolled"])
def test_split_has_the_keys_of_jax(number, kind):
    """rbg and the unrolled generator: numbers of keys need not be prefixes of larger ones."""
    key = keys.unrolled(jax.random.key(3)) if kind == "unrolled" else jax.random.key(3, impl=kind)
    found = keys.split(key, number)
    assert isinstance(found, tuple)
    want = jax.random.key_data(jax.random.split(key, number))
    np.testing.assert_array_equal([jax.random.key_data(one) for one in found], want)


def test_split_is_one_program_for_all_numbers():
    before = keys._first_keys._cache_size()
    for seed, number in enumerate((2, 3, 5, keys.MOST)):
        keys.split(jax.random.key(seed), number)
    assert keys._first_keys._cache_size() <= before + 1
