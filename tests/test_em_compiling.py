"""Programs over the data: made at their first call, and without an option that XLA does not know."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax.em import compiling


@pytest.fixture
def options(monkeypatch):
    """Set LEAN for one test, and ask XLA anew about it."""

    def put(value):
        monkeypatch.setattr(compiling, "LEAN", value)
        compiling.lean_options.cache_clear()

    yield put
    compiling.lean_options.cache_clear()


def test_an_option_that_this_xla_knows_is_kept():
    assert compiling.lean_options() == compiling.LEAN


def test_an_option_that_xla_does_not_know_is_left_out(options):
    options({"xla_cpu_use_no_such_thing": False})
    assert compiling.lean_options() is None
    program = compiling.over_data(1)(lambda x, power: x**power)
    np.testing.assert_array_equal(program(jnp.arange(4), 2), [0, 1, 4, 9])


def test_a_program_is_its_function_compiled_once_for_each_static_argument():
    traces = []

    @compiling.over_data(1)
    def power(x, number):
        """x to the number."""
        traces.append(number)
        return x**number

    assert power.__doc__ == "x to the number."
    for number in (2, 3, 2):
        np.testing.assert_allclose(power(jnp.arange(3.0), number), np.arange(3.0) ** number)
    assert traces == [2, 3]
    assert power.jitted._cache_size() == 2
    assert jax.jit(lambda x: power.function(x, 2))(3.0) == 9
