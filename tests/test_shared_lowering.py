"""A program of shared lowered operations is the program that JAX lowers by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shared_lowering
from jax import lax
from jax._src.interpreters import mlir
from shared_lowering import LOWERING

X, INTEGERS = np.linspace(0.1, 0.9, 12, dtype=np.float32).reshape(3, 4), np.arange(12)

PROGRAMS = {
    "elementwise": (lambda x: jnp.tanh(x) * jnp.exp(-x) + jnp.log1p(x) ** 3, X),
    "weak types": (lambda x: jnp.where(x > 0.5, x, 0) / 3, X),
    "sums": (lambda x: x.sum(0) + jnp.cumsum(x, 0).max() - x.argmax(1).sum(), X),
    "logsumexp": (jax.nn.logsumexp, X),
    "products": (lambda x: jnp.einsum("nd,md->nm", x, x, precision="highest"), X),
    "indices": (lambda i: jnp.take(jnp.asarray(X), i, axis=0, mode="clip"), INTEGERS),
    "updates": (lambda x: x.at[1, 2:].add(2.0), X),
    "linear algebra": (lambda x: jnp.linalg.cholesky(x @ x.T + jnp.eye(3)), X),
    "special functions": (lambda x: lax.lgamma(x) + lax.digamma(x) + lax.erf_inv(x), X),
    "draws": (lambda i: jax.random.normal(jax.random.key(i), (5,)), 3),
    "loops": (lambda x: lax.scan(lambda c, row: (c * row, jnp.sin(c)), x[0], x), X),
    "branches": (lambda x: lax.cond(x[0, 0] > 0.5, jnp.sort, lambda y: y * 2, x), X),
    "gradients": (jax.grad(lambda x: jnp.prod(jax.nn.softplus(x))), X),
}


def text(function, x):
    """The lowered program, of a new trace."""
    return jax.jit(lambda x: function(x)).lower(x).as_text()


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_is_that_of_jax(name, x64, monkeypatch):
    if mlir._cached_lowering_miss is not LOWERING:
        pytest.skip("nothing is shared with other flags or another jaxlib")
    with jax.enable_x64(x64):
        first = text(*PROGRAMS[name])
        known = len(LOWERING.known)
        again = text(*PROGRAMS[name])
        assert len(LOWERING.known) == known  # all were shared
        monkeypatch.setattr(mlir, "_cached_lowering_miss", LOWERING.lower)
        assert first == again == text(*PROGRAMS[name])


def test_what_a_function_gives_is_not_shared():
    jax.jit(lambda x: lax.reduce(x, np.float32(1), lambda a, b: a * b, (0,))).lower(X)
    assert "reduce" not in {place[0].primitive.name for place in LOWERING.known}
    assert not shared_lowering.is_value((jnp.add, 3))
