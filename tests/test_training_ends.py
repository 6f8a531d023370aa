"""Optimisers that take the loss, validations that are NaN, and runs that are extended."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_cases import ESTIMATE, GUIDE, KEY, MODEL, data, fit, same

from lvm_jax import training
from lvm_jax._core.outcome import Outcome
from lvm_jax.training import Validation
from lvm_jax.training.diagnosis import Failure

# ---------------------------------------------------------------- what an optimiser may ask for


def test_an_optimiser_sees_the_loss_that_it_descends():
    """value is minus the bound of the minibatch."""
    seen = []

    def update(updates, state, params=None, *, value, grad, value_fn, **_):
        jax.debug.callback(lambda *each: seen.append(each), value, value_fn(params))
        return jax.tree.map(lambda leaf: -1e-3 * leaf, grad), state

    spy = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    found = fit(optimizer=optax.chain(optax.clip(1.0), spy), num_epochs=1)
    jax.effects_barrier()
    values, again = np.array(seen).T
    np.testing.assert_allclose(values.mean(), -found.history.bound[0], rtol=1e-6)
    np.testing.assert_allclose(values, again, rtol=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(optax.adam(0.03), optax.contrib.reduce_on_plateau(patience=2)),
        optax.lbfgs(linesearch=optax.scale_by_backtracking_linesearch(5)),
    ],
    ids=["plateau", "line search"],
)
def test_optimisers_that_need_the_loss_train(optimizer):
    found = fit(optimizer=optimizer, num_epochs=6, throw=False)
    assert found.outcome == Outcome.MAX_STEPS
    assert found.history.bound[-1] > found.history.bound[0]


def test_schedule_free_returns_the_average_of_its_iterates():
    """z_t = z_{t-1} - rate g(y_t); x_T, to validate and to use, is the mean of z_1 ... z_T."""
    moves = []

    def note(updates, state, params=None):
        jax.debug.callback(moves.append, updates, ordered=True)
        return updates, state

    spy = optax.GradientTransformation(lambda params: optax.EmptyState(), note)
    inner = optax.contrib.schedule_free(optax.chain(optax.sgd(0.01), spy), 0.01, b1=0.9)
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), inner)
    found = fit(optimizer=optimizer, num_epochs=3, validation=data(20, seed=1))
    jax.effects_barrier()
    keys = jax.random.split(KEY, 5)
    z = training.Parameters(MODEL.init(keys[0]), GUIDE.init(keys[1]))
    assert found.best_step == found.step == len(moves)
    path = [z := jax.tree.map(np.add, z, move) for move in moves]
    average = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *path)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        found.params,
        average,
    )
    unwatched = fit(optimizer=optimizer, num_epochs=3)
    assert same(found[:2], unwatched[:2])


def test_schedule_free_for_some_parameters_returns_their_averages():
    """Its averages are of theta alone, and no answer for theta and phi together."""
    free = optax.contrib.schedule_free(optax.sgd(0.01), 0.01, b1=0.9)
    labels = training.Parameters("free", "plain")
    optimizer = optax.partition({"free": free, "plain": optax.sgd(0.01)}, labels)
    found = fit(optimizer=optimizer, num_epochs=1)
    last = training.with_ema(optimizer, 1e-6)  # its average is the last iterate
    moved = fit(optimizer=last, num_epochs=1)
    for one, other in zip(jax.tree.leaves(found[:2]), jax.tree.leaves(moved[:2]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_an_average_within_a_chain_is_that_of_the_parameters():
    """Equal to one around the whole optimiser, where nothing changes the updates after it."""
    adam = optax.adam(0.03)
    inner = optax.chain(optax.clip(0.5), training.with_ema(adam, 0.8))
    outer = training.with_ema(optax.chain(optax.clip(0.5), adam), 0.8)
    first, second = (fit(optimizer=optimizer, num_epochs=2) for optimizer in (inner, outer))
    assert same(first[:2], second[:2])
    start = training.Parameters(MODEL.init(KEY), GUIDE.init(KEY))
    assert same(fit(params=tuple(start), optimizer=inner, num_epochs=0).params, start)


# ---------------------------------------------------------------- where a run breaks


def test_a_validation_that_is_no_number_has_diverged():
    """Its squares overflow in float32; the training data are as ever."""
    held_out = data(12, seed=1) * np.float32(1e25)
    with pytest.raises(
        FloatingPointError, match=r"diverged at step 3: bound -?[\d.]+, validation bound (nan|-inf)"
    ):
        fit(validation=held_out)
    found = fit(validation=held_out, throw=False)
    assert (found.outcome, found.step) == (Outcome.DIVERGED, 4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found[:2]))


def test_a_bad_bound_with_finite_gradients_names_the_largest_gradient():
    def objective(key, point, num_samples, step):
        value = point.p.log_joint(point.x)(point.make_q(point.phi).sample(seed=key))
        return training.Terms(value, jnp.inf)

    found = fit(estimate=objective, throw=False)
    keys = jax.random.split(KEY, 5)
    theta, phi = jax.jit(MODEL.init)(keys[0]), jax.jit(GUIDE.init)(keys[1])
    assert (found.outcome, found.step) == (Outcome.DIVERGED, 0)
    assert isinstance(found.failure, Failure)
    assert same(found.failure.state.parameters, training.Parameters(theta, phi))
    assert "all gradients are finite, the largest that of theta." in str(found.failure)


# ---------------------------------------------------------------- a run that is extended


def test_a_validation_at_an_end_leaves_no_trace_in_a_longer_run(tmp_path):
    """Three epochs end between two validations: the run of six has no validation after the third."""
    options = {"validation": Validation(data(20, seed=1), every=2, patience=3)}
    options |= {"optimizer": optax.adam(0.05), "estimate": ESTIMATE}
    ended = fit(num_epochs=3, checkpoints=tmp_path, **options)
    assert np.isfinite(ended.history.validation_bound[1:]).all()
    repeated = fit(num_epochs=3, checkpoints=tmp_path, **options)
    assert same(repeated[:2], ended[:2])
    for one, other in zip(repeated.history[:4], ended.history[:4], strict=True):
        np.testing.assert_array_equal(one, other)
    longer = fit(num_epochs=6, checkpoints=tmp_path, **options)
    whole = fit(num_epochs=6, **options)
    assert same(longer[:2], whole[:2])
    assert (longer.best_step, longer.step) == (whole.best_step, whole.step)
    np.testing.assert_array_equal(longer.history.validation_bound, whole.history.validation_bound)
    assert np.isnan(whole.history.validation_bound[2])


def test_a_finished_run_that_goes_on_counts_its_last_validation_once(tmp_path):
    """Without a step each validation equals the first, which the fourth after it ends."""
    options = {"validation": Validation(data(20, seed=1), patience=4), "optimizer": optax.sgd(0.0)}
    fit(num_epochs=2, checkpoints=tmp_path, **options)
    longer = fit(num_epochs=9, checkpoints=tmp_path, **options)
    assert (longer.outcome, longer.step, longer.best_step) == (Outcome.CONVERGED, 20, 4)
