"""How many points run together, and that the batches change no answer."""

import importlib

import jax
import jax.numpy as jnp
import model_cases
import numpy as np
import pytest

from lvm_jax import annealing, decomposition, evidence, guides
from lvm_jax._core import batching
from lvm_jax._core.batching import (
    CHUNKS_PER_BATCH,
    LONG,
    batch_size,
    costly_batch_size,
    map_first_points,
    map_points,
    rows_for_device,
)
from lvm_jax.compiling import bucket
from lvm_jax.evidence import dataset

GUIDE = guides.shared(guides.mean_field(2))(guides.mean_field(2).init(jax.random.key(0)))


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
    assert rows_for_device(1_000) == CHUNKS_PER_BATCH * 1_000
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert rows_for_device(1_000) == 1_000


def test_evaluate_runs_more_points_together_on_a_gpu_and_draws_the_same(monkeypatch):
    problem, x = (
        model_cases.full(),
        np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32),
    )
    guide, seen, found = guides.shared(guides.mean_field(2)), [], []

    def watch(one, points, together, number):
        seen.append(together)
        return map_first_points(one, points, together, number)

    monkeypatch.setattr(batching, "map_first_points", watch)
    phi = guide.init(jax.random.key(0))
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        jax.clear_caches()
        where = jax.random.key(1), problem.model(problem.theta), guide(phi), x
        found.append(dataset.evaluate(*where, 50, chunk_size=20).log_evidence)
    assert seen == [1, CHUNKS_PER_BATCH]
    np.testing.assert_allclose(*found, rtol=1e-5)
    exact = model_cases.quick_jit(jax.vmap(problem.model.log_evidence, (None, 0)))
    assert np.std(found[0] - exact(problem.theta, x)) > 0.01


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="chunk_size: expected an integer >= 1, got 0"):
        batch_size(0, 16, 100)


@pytest.mark.parametrize("together", [1, 3, 7])
def test_every_point_gets_its_answer(together):
    x = jnp.arange(7.0)
    np.testing.assert_array_equal(map_points(lambda one: one**2, x, together), np.arange(7.0) ** 2)


@pytest.mark.parametrize("together", [1, 3, 5, 16])
@pytest.mark.parametrize("number", [1, 6, 13])
def test_only_the_first_points_are_computed(together, number):
    x, seen = (np.arange(13.0), np.arange(26.0).reshape(13, 2)), []

    def one(point):
        jax.debug.callback(lambda at: seen.extend(np.atleast_1d(at).tolist()), point[0])
        return point[0] ** 2, {"sum": point[1].sum()[None]}

    found, other = jax.jit(lambda number: map_first_points(one, x, together, number))(number)
    jax.effects_barrier()
    batch = min(together, 13)
    rows = -(-number // batch) * batch  # whole batches; the last one of all may overlap another
    assert set(seen) == set(range(min(rows, 13)))
    assert len(seen) == rows
    np.testing.assert_array_equal(found[:number], np.arange(number) ** 2.0)
    np.testing.assert_array_equal(other["sum"][:number, 0], (4 * np.arange(number) + 1.0))
    np.testing.assert_array_equal(found[min(rows, 13) :], np.zeros(13 - min(rows, 13)))


@pytest.mark.parametrize(
    "number, together",
    [(1, 1), (3, 2), (7, 4), (15, 8), (17, 32), (90, 64), (1_100, 96)],
)
def test_few_points_make_a_small_batch(number, together):
    assert costly_batch_size(1_000, 10, number, LONG) == together


@pytest.mark.parametrize("rows, programs", [(16, 68), (4, 93)])
def test_batches_of_long_runs_have_few_sizes_and_little_padding(rows, programs):
    sizes = {
        number: costly_batch_size(1_000, rows, number, LONG + 1) for number in range(16, 1_025)
    }
    computed = {number: -(-number // size) * size for number, size in sizes.items()}
    assert all(number <= computed[number] <= 1.0625 * number for number in sizes)
    assert max(sizes.values()) == 1_000 // rows
    assert len({(bucket(number), size) for number, size in sizes.items()}) == programs  # of 1,009


@pytest.mark.parametrize("cost", [1, LONG + 1])
def test_a_batch_below_16_points_is_a_power_of_two_at_any_cost(cost):
    assert [costly_batch_size(1_000, 16, number, cost) for number in (3, 15)] == [2, 8]
    assert costly_batch_size(1_000, 64, 17, cost) == 8


def test_batches_of_long_runs_depend_on_the_number_of_points():
    assert [costly_batch_size(1_000, 16, number, LONG + 1) for number in (17, 100)] == [17, 50]
    assert [costly_batch_size(1_000, 16, number, LONG) for number in (17, 100)] == [32, 32]


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    "place, rows, cost, call",
    [
        ("evidence.annealed", 6, 6 * 4 * 3, lambda *given: evidence.evaluate_annealed(
            *given[:2], None, given[2], 6, annealing.plan(annealing.linear(4), annealing.hmc(3)))),
        ("decomposition.rate_distortion", 6, 6 * 4 * 3, lambda *given: decomposition.rate_distortion(
            *given, 6, betas=np.linspace(0, 1, 5), transition=annealing.hmc(3))),
        ("decomposition.local", 5 * 2, 5 * 2 * 7, lambda key, p, x: decomposition.fit_local(
            key, p, GUIDE, x, guides.mean_field(2), ascent=decomposition.Ascent(7, 5, 2))),
    ],
)  # fmt: skip
def test_a_batch_depends_on_the_evaluations_of_a_point(place, rows, cost, call, monkeypatch):
    """Chains, temperatures and evaluations of a move; or draws, starts and steps of an ascent."""
    model, theta, x, *_ = model_cases.CASES["diagonal"]()

    def stop(*given):
        raise Stop(given)

    monkeypatch.setattr(importlib.import_module(f"lvm_jax.{place}"), "costly_batch_size", stop)
    with pytest.raises(Stop) as found:
        call(jax.random.key(0), model(theta), x)
    assert found.value.args[0][1:] == (rows, len(x), cost)
