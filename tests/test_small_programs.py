"""What NumPy runs in the tests has the bits, the type and the place of what XLA compiles."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_programs
from jax import lax
from jax._src import pjit
from jax._src.dispatch import BACKEND_COMPILE_EVENT
from jax._src.random.prng import iota_2x32_shape_p
from jax.extend.random import threefry2x32_p
from small_programs import ARITHMETIC, EXACT, RUNNER

EXTREMES = [0.0, -0.0, 1.0, -2.5, 1e-30, 3e38, np.inf, -np.inf, np.nan, 7.0, 1 / 3]


def floats(shape, seed=0):
    x = np.random.default_rng(seed).normal(size=shape) * 10.0
    x.flat[: len(EXTREMES)] = np.roll(EXTREMES, seed)[: x.size]
    return x.astype(np.float32)


X, Y, INTEGERS = floats((5, 7)), floats((5, 7), 3), np.arange(-17, 18).reshape(5, 7)
BITS, UNSIGNED = X > 0, INTEGERS.astype(np.uint32) * np.uint32(0x9E3779B9)
FAR = np.where(X == 0, np.float32(2), X)  # from 0, whose sign XLA chooses

PROGRAMS = {
    **{name: (getattr(lax, name), X, Y) for name in ("add", "sub", "mul", "div")},
    **{name: (getattr(lax, name), X, Y) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: (getattr(lax, name), X) for name in ("neg", "abs", "is_finite", "square")},
    "and": (lax.bitwise_and, BITS, ~BITS),
    "or": (lax.bitwise_or, INTEGERS, INTEGERS + 3),
    "xor": (lax.bitwise_xor, INTEGERS, INTEGERS + 3),
    "not": (lax.bitwise_not, INTEGERS),
    "not of bits": (lax.bitwise_not, BITS),
    "integer_pow": (lambda x: lax.integer_pow(x, 2), X),
    "of integers": (lax.mul, INTEGERS, np.int32(2**30)),
    "of bytes": (lax.neg, INTEGERS.astype(np.uint8)),
    "reduce_and": (lambda x: jnp.all(x, 1), BITS),
    "reduce_or": (lambda x: jnp.any(x, (0, 1)), BITS),
    "select_n": (lambda x, y: jnp.where(x > y, x, 0), X, Y),
    "select one": (lambda x: jnp.where(True, x, 3), X),
    "copy": (jnp.array, jnp.asarray(X)),
    "convert_element_type": (lambda x: x.astype(jnp.float32), INTEGERS),
    "to bits": (lambda x: x.astype(bool), X),
    "of bits": (lambda x: x.astype(jnp.int32), BITS),
    "to bytes": (lambda x: x.astype(jnp.uint8), INTEGERS),
    "weak": (lambda x: x * 2, 3.5),
    "reshape": (lambda x: x.reshape(7, -1), X),
    "squeeze": (lambda x: jnp.squeeze(x, (1, 3)), X[:, None, :, None]),
    "transpose": (jnp.transpose, X),
    "rev": (lambda x: x[:, ::-1], X),
    "broadcast_in_dim": (lambda x: jnp.broadcast_to(x[:, None], (2, 5, 3, 7)), X),
    "iota": (lambda: lax.broadcasted_iota(jnp.int32, (3, 5), 1),),
    "slice": (lambda x: x[1:4:2, 2:], X),
    "dynamic_slice": (lambda i: lax.dynamic_slice(X, (i, i - 9), (2, 3)), np.int32(4)),
    "stack": (lambda x, y: jnp.stack([x, y], 1), X, Y),
    "concatenate": (lambda x, y: jnp.concatenate([x, y[:2]]), X, Y),
    "sqrt": (lax.sqrt, X),
    **{name: (getattr(lax, name), FAR, FAR[::-1]) for name in ("max", "min")},
    "reduce_max": (lambda x: x.max(1), FAR),
    "reduce_min": (lambda x: x.min((0, 1)), FAR),
    "max of integers": (lambda x: jnp.maximum(x, 0), INTEGERS),
    "unstack": (lambda x: tuple(jnp.unstack(x, axis=1)), X),
    "split": (lambda x: tuple(jnp.split(x, [2, 3], axis=1)), X),
    "pad": (lambda x: jnp.pad(x, ((1, 0), (2, 3)), constant_values=7), X),
    "shift_right_logical": (lambda x: lax.shift_right_logical(x, np.uint32(9)), UNSIGNED),
    "iota_2x32_shape": (lambda: iota_2x32_shape_p.bind(shape=(3, 5)),),
    "threefry2x32": (
        lambda k, x: threefry2x32_p.bind(k, ~k, x, x ^ k),
        UNSIGNED,
        UNSIGNED.T.reshape(5, 7),
    ),
    "identity": (jnp.eye, 3),
    "nothing": (lambda x: x[5:] + 1, X),
}


@pytest.fixture(autouse=True)
def run_by_numpy(monkeypatch):
    """Which conftest.py leaves out where programs are compiled as users compile them."""
    monkeypatch.setattr(pjit, "_pjit_call_impl_python", RUNNER)


@pytest.fixture
def count(monkeypatch):
    """How many programs were compiled."""
    compiled = []

    def compile(*args, **options):
        compiled.append(options["name"])
        return before(*args, **options)

    before = RUNNER.compile
    monkeypatch.setattr(RUNNER, "compile", compile)
    return lambda: len(compiled)


def bits(x):
    return x.dtype, x.weak_type, x.sharding, x.committed, x.shape, bytes(np.where(x == x, x, 0))


@pytest.mark.parametrize("name", PROGRAMS)
def test_numpy_gives_the_bits_of_xla(name, count):
    function, *args = PROGRAMS[name]
    got = jax.jit(function, static_argnums=0 if name == "identity" else ())(*args)
    assert count() == 0
    with small_programs.compiled():
        want = jax.jit(function, static_argnums=0 if name == "identity" else ())(*args)
    assert count() == 1
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    assert all(bits(one) == bits(other) for one, other in pairs)


def test_every_operation_is_among_them():
    seen = set()
    for function, *args in PROGRAMS.values():
        jaxpr = jax.make_jaxpr(function, static_argnums=0 if function is jnp.eye else ())(*args)
        seen |= {e.primitive.name for e in small_programs.unfold(jaxpr.jaxpr)}
    assert {*ARITHMETIC, *EXACT} <= seen


@pytest.mark.parametrize(
    "function, args",
    [
        (lambda x, y: x * y + x, (X, Y)),  # XLA may round once
        (jnp.exp, (X,)),
        (jnp.sum, (X,)),
        (lambda x: x.astype(jnp.int32), (X,)),
        (lambda x: x // 3, (INTEGERS,)),
        (lambda x: x**3, (X,)),
        (lambda x: x * np.float32(1e-10), (np.float32(1e-30),)),  # XLA gives 0
        (lambda x: x > 0, (np.float32(1e-40),)),
        (lambda x: x + 1, (np.zeros(2**20 + 1, np.float32),)),
        (lambda x: x + 1, (jnp.ones(3, jnp.bfloat16),)),
        (partial(jax.jit(lambda x: x + 1, donate_argnums=0)), (jnp.ones(3),)),
    ],
)
def test_xla_compiles_the_others(function, args, count):
    before = count()
    jax.jit(function)(*args) if not isinstance(function, partial) else function(*args)
    assert count() > before


def test_a_committed_array_stays_so():
    x = jax.device_put(X, jax.devices()[0])
    assert (x + 1).committed
    assert not (jnp.asarray(X) + 1).committed


def test_a_float64_stays_one_outside_enable_x64():
    with jax.enable_x64():
        x = jnp.asarray(X, jnp.float64)
    assert (x + x).dtype == x.reshape(-1).dtype == np.float64


def test_what_would_be_compiled_once_is_counted_once():
    seen = []

    def note(event, *_, **__):
        seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        shifted = jax.jit(lambda x: x - 17.5)
        shifted(shifted(X))
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert seen.count(BACKEND_COMPILE_EVENT) == 1


def test_the_result_shares_no_memory_with_the_argument():
    x = jnp.asarray(X)
    assert x.T.unsafe_buffer_pointer() != x.unsafe_buffer_pointer()
    assert x.reshape(-1).unsafe_buffer_pointer() != x.unsafe_buffer_pointer()
