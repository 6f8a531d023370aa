"""NaN in data that stream, for families of entries and of blocks of columns, against memory."""

import jax
import numpy as np
import pytest

from lvm_jax import em
from lvm_jax.em import chunks, incomplete

KEY = jax.random.key(0)
N, K = 601, 2
RNG = np.random.default_rng(7)
Z = RNG.integers(K, size=N)[:, None]
LOST = RNG.random((N, 3)) < 0.25
LOST[::3], LOST[5] = False, True  # some rows are complete, and one has no value
WEIGHT = RNG.uniform(0.1, 3.0, N)
COUNTS = RNG.poisson(1.0 + 3 * Z, (N, 3)).astype(float)
MIXED = np.c_[RNG.gamma(2.0, 1.0 + 3 * Z, (N, 1)), RNG.normal(size=(N, 2)) + 2 * Z]
CASES = {
    "negative binomial": (em.NegativeBinomial(30), np.minimum(COUNTS, 30)),
    "product": (em.Product([("full", (1, 2)), (em.Gamma(), (0,))]), MIXED),
}


@pytest.mark.filterwarnings("ignore:x. 5 rows")
@pytest.mark.parametrize("name", CASES)
def test_three_chunks_and_parts_by_hand_make_the_steps_of_memory(x64, monkeypatch, name):
    """One part has complete rows alone, and is lifted before the sum."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 256 * 3 * 8)
    monkeypatch.setattr(incomplete, "block_size", lambda *_: 8)
    family, x = CASES[name]
    x = np.where(LOST, np.nan, x)
    options = {"tolerance": 0.0, "throw": False, "regularization": 0.0, "sample_weight": WEIGHT}
    options["start"] = em.initialize(KEY, x, K, family)
    fits = [em.fit(KEY, x, K, family, **options, max_steps=steps) for steps in (2, 3)]
    streamed = em.fit(KEY, lambda: [x], K, family, **options, max_steps=2)
    np.testing.assert_allclose(streamed.info.trace, fits[0].info.trace, rtol=1e-11)
    assert_close(streamed.mixture, fits[0].mixture)
    parts = [em.accumulate(fits[0].mixture, x[i::3], WEIGHT[i::3]) for i in range(3)]
    assert_close(em.maximize(sum(parts), fits[0].mixture, 0.0), fits[1].mixture)


def assert_close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)
