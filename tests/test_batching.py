"""How many points run together, and that the batches change no answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax.batching import AT_ONCE, batch_size, for_each


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


def test_a_gpu_takes_more_points_together(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert batch_size(1_000, 1_000, 10_000) == AT_ONCE == 100
    assert batch_size(1_000, 50, 12_000) == 2_000
    assert batch_size(1_000, 50, 7) == 7


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="chunk_size: expected an integer >= 1, got 0"):
        batch_size(0, 16, 100)


@pytest.mark.parametrize("together", [1, 3, 7])
def test_every_point_gets_its_answer(together):
    x = jnp.arange(7.0)
    np.testing.assert_array_equal(for_each(lambda one: one**2, x, together), np.arange(7.0) ** 2)
