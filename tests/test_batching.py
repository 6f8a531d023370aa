"""How many points run together, and that the batches change no answer."""

import jax
import jax.numpy as jnp
import model_cases
import numpy as np
import pytest

from lvm_jax import guides
from lvm_jax.batching import AT_ONCE, batch_size, for_each, for_first, plenty
from lvm_jax.evidence import dataset


@pytest.mark.parametrize(
    "rows, num_points, together",
    [
        (16, 100, 25),  # 31 would leave 7 points over
        (16, 1_000, 25),
        (16, 97, 31),  # a prime has no even batches
        (16, 20, 20),
        (50, 1_000, 10),
        (1_000, 7, 1),
    ],
)
def test_batches_of_500_rows(rows, num_points, together, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert batch_size(500, rows, num_points) == together


def test_a_gpu_takes_more_rows_together(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert plenty(1_000) == AT_ONCE * 1_000
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert plenty(1_000) == 1_000


def test_evaluate_runs_more_points_together_on_a_gpu_and_draws_the_same(monkeypatch):
    bed, x = model_cases.full(), np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    guide, seen, found = guides.shared(guides.mean_field(2)), [], []

    def watch(one, points, together, number):
        seen.append(together)
        return for_first(one, points, together, number)

    monkeypatch.setattr(dataset, "for_first", watch)
    phi = guide.init(jax.random.key(0))
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        jax.clear_caches()
        where = jax.random.key(1), bed.model, guide, bed.theta, phi, x
        found.append(dataset.evaluate(*where, 50, chunk_size=20).log_evidence)
    assert seen == [1, AT_ONCE]
    np.testing.assert_allclose(*found, rtol=1e-5)
    assert np.std(found[0] - jax.vmap(bed.model.log_evidence, (None, 0))(bed.theta, x)) > 0.01


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="chunk_size: expected an integer >= 1, got 0"):
        batch_size(0, 16, 100)


@pytest.mark.parametrize("together", [1, 3, 7])
def test_every_point_gets_its_answer(together):
    x = jnp.arange(7.0)
    np.testing.assert_array_equal(for_each(lambda one: one**2, x, together), np.arange(7.0) ** 2)
