"""What fits share: programs of padded rows, and functions that are recognised as equal."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_cases import GUIDE, KEY, data, epoch_order, fit, same

from lvm_jax import gradients, guides, models, training
from lvm_jax._core import keys
from lvm_jax._core.recognition import StructureCache, structure
from lvm_jax.training import batches
from lvm_jax.training.log import TrainingLog
from lvm_jax.training.rows import host_order, padded_rows
from lvm_jax.training.step import Keys, Program

# ---------------------------------------------------------------- rows in buckets


@pytest.mark.parametrize("key", [KEY, keys.unrolled(KEY)], ids=["threefry", "unrolled"])
@pytest.mark.parametrize("num_rows", [1, 2, 15, 16, 17, 43, 1_625, 1_626, 2_000])
def test_an_epoch_of_padded_rows_has_jaxs_permutation(key, num_rows):
    """To the bit, on both sides of a bucket and of the N from which JAX sorts twice (1,626)."""
    for epoch in (0, 3):
        want = epoch_order(KEY, epoch, num_rows)
        np.testing.assert_array_equal(host_order(key, epoch, num_rows), want)


def test_rows_are_padded_only_where_random_numbers_are_prefixes():
    x = data(43)
    padded = padded_rows(KEY, x)
    assert padded.values.shape == (64, 3)
    np.testing.assert_array_equal(padded.values[:43], x)
    other = jax.random.key(3, impl="rbg")
    assert padded_rows(other, x).values.shape == (43, 3)
    np.testing.assert_array_equal(host_order(other, 2, 43), epoch_order(other, 2, 43))


def test_rows_that_are_fed_travel_in_chunks_of_a_bounded_size(monkeypatch):
    """Batches of 120 bytes in chunks of 400: three steps and one, in every epoch of four."""
    monkeypatch.setattr(batches, "CHUNK_BYTES", 400)
    program = Program(*[None] * 4, 10, *[None] * 2)
    chunks = batches.Chunks(data(43), KEY, program, num_epochs=2)
    assert [chunks.span(number) for number in range(4)] == [(0, 3), (3, 4), (4, 7), (7, 8)]
    assert [chunks.find(step) for step in range(8)] == [0, 0, 0, 1, 2, 2, 2, 3]
    assert (len(chunks), chunks[1].shape) == (4, (3, 10, 3))
    rows = np.concatenate([chunks[n].reshape(-1, 3)[:m] for n, m in enumerate((30, 10, 30, 10))])
    order = np.concatenate([epoch_order(KEY, epoch, 43)[:40] for epoch in (0, 1)])
    np.testing.assert_array_equal(rows, data(43)[order])


def test_fits_of_many_sizes_with_fresh_optimisers_share_few_programs():
    """40 pairs of N and M, an optimiser, a model and a guide made for each: buckets 16, 32, 64."""
    count = 0

    def counted(key, log_joint, make_q, phi, num_samples):
        nonlocal count
        count += 1
        return gradients.reparameterized()(key, log_joint, make_q, phi, num_samples)

    def one(index):
        x, held_out = data(11 + index, seed=index), data(50 - index, seed=index)
        model, guide = models.linear_gaussian(2, 3), guides.linear(guides.full_rank(2), 3)
        training.fit(
            KEY, model, guide, x, estimate=counted, num_samples=2, optimizer=optax.adam(1e-3),
            batch_size=10, num_epochs=1, validation=held_out,
        )  # fmt: skip

    one(0)
    of_one = count
    for index in range(1, 40):
        one(index)
    assert 0 < count <= 3 * of_one  # 40 times as often without buckets


def test_validation_noise_is_per_row_in_a_partial_batch():
    """23 rows in batches of 10: the mean of the rows' bounds, row i with fold_in(key, i)."""
    held_out, num_samples = data(23, seed=1), 2
    found = fit(num_epochs=1, validation=held_out, optimizer=optax.sgd(0.0))
    noise = Keys(*jax.random.split(KEY, len(Keys._fields))).validation

    def bound(index, row):
        joint = found.p.log_joint(row)
        key = jax.random.fold_in(noise, index)
        make_q = lambda phi: GUIDE.posterior(phi, row)  # noqa: E731
        estimate = gradients.sticking_the_landing()
        return estimate(key, joint, make_q, found.q.phi, num_samples)

    rows = jax.vmap(bound)(jnp.arange(23), held_out)
    assert rows.std() > 0.1  # the noise of another row would show
    np.testing.assert_allclose(found.history.validation_bound, rows.mean(), rtol=2e-6)


# ---------------------------------------------------------------- equal functions


def cosine(steps=100, rate=1e-3):
    return optax.cosine_decay_schedule(rate, steps)


def with_defaults(first, second):
    """One code, whatever the defaults."""
    return lambda x=first, *, y=second: (x, y)


ALIKE = {
    "adam": lambda: optax.adam(1e-3),
    "schedule": lambda: optax.adamw(cosine()),
    "chain": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.sgd(optax.exponential_decay(0.05, 10, 0.8), 0.9)
    ),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(1e-3),
    "schedule-free": lambda: optax.contrib.schedule_free_adamw(1e-3),
    "plateau": lambda: optax.chain(optax.adam(1e-3), optax.contrib.reduce_on_plateau()),
    "lbfgs": optax.lbfgs,
    "average": lambda: training.with_ema(optax.adam(1e-3), 0.99),
    "partition": lambda: optax.partition({"a": optax.adam(1e-3), "b": optax.sgd(1.0)}, {"x": "a"}),
    "key": lambda: optax.noisy_sgd(1e-3, key=jax.random.key(4)),
    "model": lambda: models.linear_gaussian(2, 3),
    "guide": lambda: guides.linear(guides.full_rank(2), 3),
    "estimator": gradients.sticking_the_landing,
    "array": lambda: functools.partial(jnp.add, np.arange(3.0)),
    "nan": lambda: optax.adam(float("nan")),
}
UNLIKE = {
    "rate": (optax.adam(1e-3), optax.adam(2e-3)),
    "decay": (optax.adam(1e-3), optax.adam(1e-3, b2=0.99)),
    "horizon": (optax.adam(cosine(100)), optax.adam(cosine(101))),
    "sign of zero": (optax.adam(0.0), optax.adam(-0.0)),
    "integer": (optax.adam(1), optax.adam(1.0)),
    "average": tuple(training.with_ema(optax.adam(1e-3), d) for d in (0.9, 0.99)),
    "optimiser": (optax.adam(1e-3), optax.adamax(1e-3)),
    "array": (ALIKE["array"](), functools.partial(jnp.add, np.array([0.0, 1.0, 3.0]))),
    "type": (ALIKE["array"](), functools.partial(jnp.add, np.arange(3.0, dtype=np.float32))),
    "shape": (ALIKE["array"](), functools.partial(jnp.add, np.arange(3.0)[None])),
    "key": (ALIKE["key"](), optax.noisy_sgd(1e-3, key=jax.random.key(5))),
    "default": tuple(with_defaults(y, 0) for y in (1, 2)),
    "keyword": tuple(with_defaults(0, y) for y in (1, 2)),
    "attribute": tuple(functools.wraps(wrapped)(with_defaults(0, 0)) for wrapped in (min, max)),
    "globals": tuple(types.FunctionType(with_defaults.__code__, {"y": y}) for y in (1, 2)),
    "code": (lambda x: x + 1, lambda x: x - 1),
    "large arrays": tuple(functools.partial(jnp.add, np.zeros(2**18)) for _ in range(2)),
    "objects": tuple(optax.MultiSteps(optax.adam(1e-3), 2) for _ in range(2)),
    "size": (models.linear_gaussian(2, 3), models.linear_gaussian(3, 2)),
}


@pytest.mark.parametrize("make", ALIKE.values(), ids=ALIKE)
def test_what_is_made_twice_alike_is_one_object(make):
    known = StructureCache()
    first, second = make(), make()
    assert known.first(first) is first
    assert known.first(second) is first


@pytest.mark.parametrize("pair", UNLIKE.values(), ids=UNLIKE)
def test_what_differs_is_told_apart(pair):
    known = StructureCache()
    assert [known.first(one) is one for one in pair] == [True, True]
    assert [known.first(one) is one for one in pair] == [True, True]


SCHEDULES = {
    "cosine": cosine,
    "exponential": lambda: optax.exponential_decay(0.05, 10, 0.8),
    "linear": lambda: optax.linear_schedule(0.1, 0.01, 10),
    "warm-up": lambda: optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 100),
    "piecewise": lambda: optax.piecewise_constant_schedule(0.1, {10: 0.1}),
    "one cycle": lambda: optax.cosine_onecycle_schedule(100, 0.1),
    "sgdr": lambda: optax.sgdr_schedule([{"decay_steps": 10, "init_value": 0.0, "peak_value": 0.1, "warmup_steps": 2}]),
}  # fmt: skip


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_a_schedule_that_has_run_is_that_of_another_call(make):
    """optax's cosine decay changes its closure at the first call."""
    known = StructureCache()
    first = make()
    assert known.first(first) is first
    first(jnp.int32(3))
    assert known.first(make()) is first


def test_a_function_that_has_changed_is_not_taken_for_another():
    """What it closes over is read again: a program made later would be of the new value."""

    def make():
        rates = [0.1]
        return rates, lambda step: rates[0]

    known = StructureCache()
    (rates, one), (_, other) = make(), make()
    assert known.first(one) is one
    rates[0] = 0.2
    assert known.first(other) is other
    assert known.first(one) is one


def test_recursive_functions_and_shared_parts_have_a_structure():
    def make():
        def inner(depth):
            return inner(depth - 1) if depth else 0

        pair = (inner, inner)
        return [pair] * 2

    assert structure(make()) == structure(make())
    assert structure([1, 2]) != structure((1, 2))


def test_the_least_recently_used_is_forgotten():
    known, made = StructureCache(2), [optax.sgd(rate) for rate in (0.1, 0.2, 0.3)]
    for one in (made[0], made[1], made[0], made[2]):
        assert known.first(one) is one
    assert known.first(optax.sgd(0.1)) is made[0]
    assert known.first(optax.sgd(0.2)) is not made[1]


# ---------------------------------------------------------------- the best validation


def test_the_first_of_equal_validation_bounds_is_the_best():
    """A tie is no gain: it keeps the earlier parameters, and counts against the patience."""
    log = TrainingLog(1)
    for step, bound in enumerate([-3.0, -2.0, -2.0, -2.5]):
        log.rows.append((step, 0.0, 0.0, np.nan, 0.0))
        log.validate(step, bound, step)
    assert (log.best, log.best_bound, log.best_step, log.stale) == (1, -2.0, 1, 2)


def test_a_run_that_stands_still_keeps_its_first_validation():
    """Without a step every validation is equal: patience ends the run, at the first one's step."""
    found = fit(
        optimizer=optax.sgd(0.0),
        num_epochs=9,
        validation=training.Validation(data(33, seed=1), patience=3),
    )
    assert (found.outcome.name, found.best_step, len(found.history.step)) == ("CONVERGED", 4, 4)
    assert same(found.history.validation_bound, np.full(4, found.history.validation_bound[0]))
