"""LAPACK on a CPU: pieces of a batch are the batch bit for bit, and BLAS has one thread."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from lvm_jax._core import lapack
from lvm_jax.compiling import bounded_jit

RNG = np.random.default_rng(0)
A = RNG.normal(size=(3, 15, 20, 20))
S = A @ np.swapaxes(A, -1, -2) + np.eye(20)
CALLS = {
    "cholesky": (jnp.linalg.cholesky, S),
    "triangular_solve": (partial(jax.scipy.linalg.solve_triangular, lower=True), S, A),
    "lu": (jnp.linalg.inv, A),
    "qr": (jnp.linalg.qr, A),
    "eigh": (jnp.linalg.eigh, S),
    "svd": (jnp.linalg.svd, A[..., :12]),
    "complex": (jnp.linalg.cholesky, S + 0j),
}
HANGS = """
import jax, jax.numpy as jnp, numpy as np
import lvm_jax.compiling

def step(_, a):  # four independent solves of 64 matrices
    solve = lambda s: jax.scipy.linalg.solve_triangular(factor * s, jnp.sin(a + s), lower=True)
    return sum(solve(1.0 + s) for s in range(4))

factor = np.tril(np.random.default_rng(0).normal(size=(64, 40, 40))) / 9 + np.eye(40)
factor = factor.astype(np.float32)
print(float(jax.jit(lambda a: jax.lax.fori_loop(0, 100, step, a).mean())(factor)))
"""


@pytest.mark.parametrize("name", CALLS)
def test_pieces_change_no_bit(x64, name):
    function, *arguments = CALLS[name]
    program = jax.jit(lambda *args: function(*args))
    one_by_one = jax.jit(lambda *args: [function(*each) for each in zip(*args, strict=True)])
    flat = [a.reshape(-1, *a.shape[2:]) for a in arguments]
    if lapack.affected(lapack.version("jaxlib")):
        assert "while" in program.lower(*arguments).as_text()
    whole = jax.tree.leaves(program(*arguments))
    single = jax.tree.map(lambda *leaves: np.stack(leaves), *one_by_one(*flat))
    for a, b in zip(whole, jax.tree.leaves(single), strict=True):
        np.testing.assert_array_equal(np.asarray(a).reshape(b.shape), b)


def test_a_small_batch_is_one_call():
    assert "while" not in jax.jit(jnp.linalg.cholesky).lower(S[0, :5]).as_text()


def test_independent_solves_do_not_hang():
    done = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=120, check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert 0 < abs(float(done.stdout)) < np.inf


@pytest.mark.parametrize(
    "release, expected",
    [("0.9.2", False), ("0.10.0", True), ("0.10.2", True), ("0.11.1", True), ("0.11.2", False)],
)
def test_the_releases_that_divide_batches(release, expected):
    assert lapack.affected(release) is expected


def test_only_programs_that_call_lapack_limit_the_threads_of_blas():
    seen = []

    def threads(x):
        seen.append(
            {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}
        )
        return x

    @bounded_jit()
    def solves(x):
        y = jnp.linalg.inv(x)
        return jax.pure_callback(threads, jax.ShapeDtypeStruct(y.shape, y.dtype), y)

    @bounded_jit()
    def adds(x):
        y = x + 1
        return jax.pure_callback(threads, jax.ShapeDtypeStruct(y.shape, y.dtype), y)

    x = np.eye(3, dtype=np.float32)
    with lapack.blas().limit(limits=2, user_api="blas"):
        for program in (solves, solves, adds, adds):
            jax.block_until_ready(program(x))
        threads(x)
    assert seen == [{1}, {1}, {2}, {2}, {2}]
