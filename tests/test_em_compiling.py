"""Programs over the data: they run with one BLAS thread on a CPU."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from lvm_jax._core import lapack
from lvm_jax.em import compiling


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
    assert jax.jit(lambda x: power.function(x, 2))(3.0) == 9


def blas_threads():
    """The threads of each BLAS of this process: NumPy's, and SciPy's, which JAX calls."""
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]


def seen_inside(error=None):
    """The threads of BLAS while a program runs."""
    seen = []

    @compiling.over_data()
    def program(x):
        if error is not None:
            raise error
        jax.debug.callback(lambda: seen.append(blas_threads()))
        return jnp.linalg.cholesky(x)

    program(jnp.eye(3))
    jax.effects_barrier()
    return seen


@pytest.fixture
def two_threads():
    """Two threads for every BLAS, whatever the machine has."""
    with lapack.blas().limit(limits=2, user_api="blas"):
        yield


def test_a_program_uses_one_blas_thread_and_restores_the_number(two_threads):
    number = len(blas_threads())
    assert number > 1  # SciPy's is loaded
    assert seen_inside() == [[1] * number]
    assert blas_threads() == [2] * number


def test_a_program_that_fails_gives_the_others_back(two_threads):
    with pytest.raises(RuntimeError, match="stop"):
        seen_inside(RuntimeError("stop"))
    assert set(blas_threads()) == {2}


def test_programs_in_several_threads_leave_the_limit_as_it_was(two_threads):
    threads = [threading.Thread(target=seen_inside) for _ in range(4)]
    for thread in threads:
        thread.start()
    seen_inside()
    for thread in threads:
        thread.join()
    assert set(blas_threads()) == {2}
