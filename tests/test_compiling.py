"""Buckets of sizes, and the store of compiled programs: what it shares, bounds and releases."""

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax import compiling, models
from lvm_jax.compiling import BoundedJit, Store, bounded_jit, bucket, first_rows, pad_rows


@pytest.fixture
def options(monkeypatch):
    """Set LEAN for one test, and detect it again."""

    def put(value):
        monkeypatch.setattr(compiling, "LEAN", value)
        compiling.lean_options.cache_clear()

    yield put
    compiling.lean_options.cache_clear()


@pytest.mark.parametrize(
    "size, padded",
    [
        *[(1, 16), (16, 16), (17, 32), (50, 64), (1_000, 1_024), (1_024, 1_024)],
        *[(1_025, 1_536), (1_537, 2_048), (5_000, 6_144), (8_192, 8_192)],
        *[(8_193, 9_216), (16_384, 16_384), (16_385, 18_432), (200_000, 212_992)],
    ],
)
def test_a_size_goes_to_the_next_bucket(size, padded):
    assert bucket(size) == padded


def test_buckets_are_few_and_waste_little_where_data_are_large():
    sizes = np.arange(1, 20_001)
    padded = np.array([bucket(int(size)) for size in sizes])
    assert (padded >= sizes).all()
    assert all(bucket(int(size)) == size for size in np.unique(padded))
    assert len(np.unique(padded[50:5_001])) == 10
    assert (padded[1_024:] < 1.5 * sizes[1_024:]).all()
    assert (padded[8_192:] < 1.125 * sizes[8_192:]).all()


def test_rows_are_padded_by_the_last_one_and_cut_off_again():
    x, index = np.arange(6.0).reshape(3, 2), np.arange(3, dtype=np.uint32)
    padded = pad_rows({"x": x, "index": index}, 5)
    np.testing.assert_array_equal(padded["x"], [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]])
    np.testing.assert_array_equal(padded["index"], [0, 1, 2, 2, 2])
    assert padded["index"].dtype == np.uint32
    np.testing.assert_array_equal(first_rows(padded, 3)["x"], x)
    assert pad_rows(x, 3) is x


def test_a_function_compiles_once_for_each_shape_type_and_static_argument(store, x64):
    traces = []

    @bounded_jit(1)
    def power(x, number):
        """x to the number."""
        traces.append((x.shape, x.dtype.name, number))
        return x**number

    assert power.__doc__ == "x to the number."
    for size, dtype, number in ((3, "f4", 2), (3, "f4", 3), (3, "f8", 2), (5, "f4", 2)) * 2:
        x = np.arange(size, dtype=dtype)
        np.testing.assert_array_equal(power(x, number), x**number)
    assert len(traces) == len(set(traces)) == len(store) == 4


def test_static_arguments_made_alike_share_a_program(store):
    """Two models of one factory are two sets of closures; of other sizes they are others."""
    traces = []

    @bounded_jit(1)
    def draw(key, model):
        traces.append(model)
        return model.prior(model.init(key)).sample(seed=key)

    for size in (2, 2, 3, 2):
        assert draw(jax.random.key(0), models.linear_gaussian(size, 3)).shape == (size,)
    assert len(traces) == len(store) == 2


def test_a_traced_argument_calls_the_function_itself(store):
    double = bounded_jit()(lambda x: 2 * x)
    assert jax.grad(lambda x: double(x) ** 2)(3.0) == 24
    assert len(store) == 0


def test_the_least_recently_used_program_is_released_first():
    store = Store(max_maps=10)
    for name, maps in (("a", 4), ("b", 4), ("c", 2)):
        store.add(name, print, maps)
    assert store.get("a") is print  # now "b" is the oldest
    store.add("d", print, 3)
    assert [name for name in "abcd" if store.get(name)] == ["a", "c", "d"]
    store.add("large", print, 11)  # kept alone: it is in use
    assert len(store) == 1
    assert store.get("large") is print
    store.clear()
    assert len(store) == store.maps == 0


def test_memory_maps_level_off(store):
    """Forty shapes take several times the limit; the process keeps little more than the limit."""
    if not compiling.count_maps():
        pytest.skip("this system does not count memory maps")

    @bounded_jit()
    def several(x):
        return jnp.sin(x).sum() + jnp.cumsum(x)[-1] + jnp.sort(x)[0] + (x[:, None] @ x[None]).max()

    def entries():
        return [entry.maps for entry in store._entries.values()]

    for size in range(2, 6):  # the first one also loads libraries
        several(np.zeros(size, np.float32))
    store.max_maps, taken = 4 * max(entries()[1:]), []
    start = compiling.count_maps()
    for size in range(6, 46):
        several(np.zeros(size, np.float32))
        taken.append(entries()[-1])
        assert store.maps <= max(store.max_maps, taken[-1])
    assert sum(taken) > 3 * store.max_maps
    assert compiling.count_maps() - start < 2 * store.max_maps


def test_options_that_this_xla_accepts_are_kept(options, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    options(compiling.LEAN)
    assert compiling.lean_options() == compiling.LEAN
    assert compiling.lean_options(0) == {**compiling.LEAN, compiling.LEVEL: 0}


def test_a_level_in_the_environment_is_kept(options, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--{compiling.LEVEL}=0")
    options(compiling.LEAN)
    for level in (None, 1):
        assert compiling.LEVEL not in compiling.lean_options(level)


def test_an_option_that_xla_does_not_accept_is_left_out(options, store):
    options({"xla_cpu_use_no_such_thing": False, "xla_cpu_use_fusion_emitters": False})
    assert compiling.lean_options() == {"xla_cpu_use_fusion_emitters": False}
    program = bounded_jit(1, lean=True)(lambda x, power: x**power)
    np.testing.assert_array_equal(program(jnp.arange(4), 2), [0, 1, 4, 9])


def test_a_system_that_does_not_count_maps_has_a_bound_all_the_same(store, monkeypatch):
    monkeypatch.setattr(compiling, "count_maps", lambda: 0)
    program = BoundedJit(lambda x: x + 1, (), lean=False)
    store.max_maps = 2 * compiling.ASSUMED_MAPS
    for size in range(1, 6):
        program(np.zeros(size, np.float32))
    assert len(store) == 2


def test_a_program_that_compiles_in_a_thread_is_traced_once(store):
    """And a call waits for it: the pool has one thread, which is busy until the call."""
    traces, began = [], threading.Event()

    @bounded_jit(1)
    def power(x, number):
        traces.append(number)
        return x**number

    with ThreadPoolExecutor(1) as pool:
        pool.submit(began.wait)
        x = np.arange(4, dtype=np.float32)
        power.compile_in(pool, x, 3)
        power.compile_in(pool, x, 3)
        (entry,) = store._entries.values()
        threading.Timer(0.01, began.set).start()
        np.testing.assert_array_equal(power(x, 3), x**3)
    assert traces == [3]
    assert next(iter(store._entries.values())) is entry


def test_an_error_of_a_compilation_in_a_thread_is_raised_by_the_call(store, monkeypatch):
    double = bounded_jit()(lambda x: 2 * x)

    def fail(self):
        raise MemoryError("of the compiler")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    with ThreadPoolExecutor(1) as pool:
        double.compile_in(pool, np.ones(3))
    with pytest.raises(MemoryError, match="of the compiler"):
        double(np.ones(3))
    np.testing.assert_array_equal(double(np.ones(3)), 2 * np.ones(3))  # compiles again


def test_the_end_of_a_background_pool_does_not_wait():
    release = threading.Event()
    with compiling.in_background() as pool:
        waiting = pool.submit(release.wait, 20.0)
    assert not waiting.done()
    release.set()
    assert waiting.result()


def test_an_error_leaves_a_background_pool_and_its_program_is_compiled(store):
    @compiling.bounded_jit()
    def double(x):
        return 2 * x

    def fail():
        with compiling.in_background() as pool:
            double.compile_in(pool, np.float32(3))
            raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        fail()
    assert double(np.float32(3)) == 6
    assert len(store) == 1
