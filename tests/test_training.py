import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_cases import (
    BATCH,
    GUIDE,
    KEY,
    MODEL,
    OPTIMIZER,
    by_hand,
    data,
    epoch_order,
    fit,
    same,
)

from lvm_jax import gradients, models, parallel, training
from lvm_jax._core.outcome import Outcome
from lvm_jax.training import Placement, Validation, session, step
from lvm_jax.training.batches import Chunks
from lvm_jax.training.progress import events
from lvm_jax.training.step import Program


def noisy(key, x):
    return x + 0.1 * jax.random.normal(key, x.shape)


def close(left, right, tolerance=2e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), left, right
    )


# ---------------------------------------------------------------- the step and the loop


def test_steps_are_those_of_a_loop_by_hand():
    """Order, noise, clipping, schedule, the moving average, and the rest of a batch that is dropped."""
    x = data()
    trajectory, bounds = by_hand(x, 8, noisy)
    found = fit(x, transform=noisy, num_epochs=2)
    close(found.params, trajectory[-1])
    np.testing.assert_allclose(found.history.bound, np.reshape(bounds, (2, 4)).mean(1), rtol=1e-5)
    weights = 0.3 * 0.7 ** np.arange(7, -1, -1.0) / (1 - 0.7**8)
    average = jax.tree.map(lambda *v: np.tensordot(weights, np.stack(v), 1), *trajectory)
    optimizer = training.with_ema(OPTIMIZER, 0.7)
    close(fit(x, transform=noisy, num_epochs=2, optimizer=optimizer).params, average)
    assert (found.outcome, found.step) == (Outcome.MAX_STEPS, 8)
    np.testing.assert_array_equal(found.history.step, [4, 8])


def test_every_way_to_cut_and_feed_a_run_gives_the_same_bits(tmp_path):
    whole = fit()
    stored = np.memmap(tmp_path / "x", np.float32, "w+", shape=(43, 3))
    stored[:] = data()
    for options in (
        {"placement": Placement(steps_per_call=3)},
        {"placement": Placement(on_device=False)},
        {"x": stored},
    ):
        other = fit(**options)
        assert same(whole[:2], other[:2])
        np.testing.assert_array_equal(whole.history.bound, other.history.bound)


def test_blocks_of_steps_change_no_bit(store, monkeypatch):
    """As on an accelerator: epochs of four steps, cut into blocks of these lengths."""
    options = {"optimizer": optax.sgd(1e12), "num_epochs": 3, "throw": False}
    whole, broken = fit(num_epochs=5), fit(**options)
    for lengths in ((4, 1), (5, 2, 1)):
        store.clear()
        monkeypatch.setattr(step, "blocks", lambda lengths=lengths: lengths)
        other = fit(num_epochs=5)
        assert same(whole[:2], other[:2])
        np.testing.assert_array_equal(whole.history.bound, other.history.bound)
    for chosen in (options, options | {"placement": Placement(on_device=False)}):
        other = fit(**chosen)
        assert str(other.failure) == str(broken.failure)
        assert same(other[:2], broken[:2])


def test_an_epoch_has_every_row_at_most_once_and_drops_other_rows_each_time():
    dropped = [set(np.asarray(epoch_order(KEY, epoch, 43))[40:].tolist()) for epoch in range(3)]
    assert len(set.union(*dropped)) > 3
    program = Program(*[None] * 4, BATCH, *[None] * 2)
    chunks = Chunks(np.arange(43.0)[:, None], KEY, program, num_epochs=2)
    rows = np.concatenate(
        [chunks[n][: np.subtract(*chunks.span(n)[::-1])] for n in range(len(chunks))]
    )
    want = [np.asarray(epoch_order(KEY, epoch, 43))[:40] for epoch in range(2)]
    np.testing.assert_array_equal(rows.ravel(), np.concatenate(want))
    assert [chunks.find(step) for step in (0, 3, 4, 7)] == [0, 0, 1, 1]


def test_one_compilation_serves_keys_lengths_and_cuts():
    count = 0

    def likelihood(theta, z):
        nonlocal count
        count += 1
        return MODEL.likelihood(theta, z)

    model = MODEL._replace(likelihood=likelihood)
    x, estimate = data(), lambda key, joint, guide, phi, n: joint(guide(phi).sample(seed=key))
    settings = {
        "estimate": estimate,
        "num_samples": 1,
        "optimizer": optax.sgd(1e-3),
        "batch_size": 10,
    }
    training.fit(KEY, model, GUIDE, x, num_epochs=1, **settings)
    first, other = count, jax.random.key(9)
    training.fit(
        other,
        model,
        GUIDE,
        x,
        num_epochs=3,
        placement=Placement(steps_per_call=5),
        **settings,
    )
    assert 0 < first == count


def test_it_finds_the_maximum_likelihood():
    """The guide's family holds the exact posterior, so that the bound ends at PPCA's closed form."""
    x = data(400)
    theta = models.ppca(x, 2)
    optimum = float(jax.vmap(lambda row: MODEL.log_evidence(theta, row))(x).mean())
    found = fit(
        x,
        optimizer=optax.adam(optax.cosine_decay_schedule(0.03, 6_000)),
        batch_size=100,
        num_epochs=1_500,
    )
    reached = jax.vmap(lambda row: found.p.log_evidence(row))(x).mean()
    assert optimum - 2e-3 < float(reached) <= optimum + 1e-5
    assert abs(found.history.bound[-50:].mean() - optimum) < 5e-3


def test_float64_stays_float64(x64):
    found = fit(data().astype(np.float64), num_epochs=1, params=start64())
    assert {leaf.dtype for leaf in jax.tree.leaves(found[:2])} == {np.dtype("float64")}


def start64():
    return MODEL.init(KEY), GUIDE.init(KEY)


def test_initial_parameters_and_no_epochs():
    start = (MODEL.init(jax.random.key(8)), GUIDE.init(KEY))
    found = fit(params=start, num_epochs=0)
    assert same(found.params, training.Parameters(*start))
    assert same(found[:2], (MODEL(start[0]), GUIDE(start[1])))
    assert found.step == 0
    assert found.history.bound.shape == (0,)


def test_a_pair_shares_parameters():
    """The prior's mean is q's offset: one leaf, whose gradient is the sum of both."""

    def pair(params):
        theta = {**params["theta"]._asdict(), "prior_mean": params["phi"].offset.loc}
        return MODEL(type(params["theta"])(**theta)), GUIDE(params["phi"])

    start = {"theta": MODEL.init(KEY), "phi": GUIDE.init(KEY)}
    optimizer, options = optax.sgd(0.1), {"num_samples": 3, "batch_size": 43, "num_epochs": 1}
    found = training.fit(
        KEY,
        pair,
        start,
        data(),
        estimate=gradients.reparameterized(),
        optimizer=optimizer,
        **options,
    )
    np.testing.assert_array_equal(found.p.theta.prior_mean, found.q.phi.offset.loc)
    apart = training.fit(
        KEY, training.Separate(MODEL, GUIDE),
        (start["theta"]._replace(prior_mean=start["phi"].offset.loc), start["phi"]), data(),
        estimate=gradients.reparameterized(), optimizer=optimizer, **options,
    )  # fmt: skip
    moves = [
        part - start["phi"].offset.loc
        for part in (apart.p.theta.prior_mean, apart.q.phi.offset.loc)
    ]
    assert min(np.abs(move).max() for move in moves) > 0.001
    whole = found.q.phi.offset.loc - start["phi"].offset.loc
    np.testing.assert_allclose(whole, sum(moves), rtol=1e-4, atol=1e-6)
    # A leaf of the shared tree that p does not read has moved by nothing.
    np.testing.assert_array_equal(found.params["theta"].prior_mean, start["theta"].prior_mean)


# ---------------------------------------------------------------- validation


def test_early_stopping_keeps_the_best_parameters():
    """The same run, cut at the best validation, ends with the same parameters to the bit."""
    options = {"x": data(20), "batch_size": 10, "optimizer": optax.adam(0.1)}
    held_out = data(33, seed=1)
    found = fit(num_epochs=400, validation=Validation(held_out, patience=5), **options)
    values = found.history.validation_bound
    assert found.outcome == Outcome.CONVERGED
    assert found.best_step == found.history.step[np.argmax(values)]
    assert len(values) == np.argmax(values) + 1 + 5
    again = fit(num_epochs=found.best_step // 2, **options)
    assert same(found[:2], again[:2])


def test_validation_is_the_mean_bound_of_the_averages():
    """At an exact posterior every estimate is log p(x), with no noise."""
    theta = MODEL.init(KEY)
    exact = (lambda key: (), lambda phi, x: MODEL.posterior(theta, x))
    x, held_out = data(), data(33, seed=1)
    found = training.fit(
        KEY, training.Separate(MODEL, GUIDE._replace(init=exact[0], posterior=exact[1])), (theta, ()), x,
        estimate=gradients.reparameterized(), num_samples=1, optimizer=training.with_ema(optax.sgd(0.0), 0.5),
        batch_size=10, num_epochs=2, validation=Validation(held_out, every=2),
    )  # fmt: skip
    want = jax.vmap(lambda row: MODEL.log_evidence(theta, row))(held_out).mean()
    assert np.isnan(found.history.validation_bound[0])
    np.testing.assert_allclose(found.history.validation_bound[1], want, rtol=1e-5)


# ---------------------------------------------------------------- divergence


def test_a_step_too_long_is_named_with_its_parameters():
    options = {"optimizer": optax.sgd(1e12), "num_epochs": 3}
    with pytest.raises(
        FloatingPointError, match=r"step \d+: bound -?(inf|nan).*theta.*no checkpoints"
    ):
        fit(**options)
    found = fit(throw=False, **options)
    assert found.outcome == Outcome.DIVERGED
    assert found.failure.step == found.step
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found[:2]))


def test_a_bad_gradient_behind_a_good_bound_is_found_at_its_step():
    """The gradient of sqrt at 0 is not finite. That step's own bound is, and the bound of the next is not."""

    def objective(key, point, num_samples, step):
        z = point.make_q(point.phi).sample(seed=key)
        bound = point.p.log_joint(point.x)(z)
        offset = point.p.theta.offset
        hidden = jnp.sqrt(jnp.where(step == 6, 0.0, 1.0) * (1 + (offset**2).sum()))
        return training.Terms(bound + 1e-3 * hidden, bound)

    optimizer = optax.sgd(1e-3)
    for length in (100, 7, 6):
        found = fit(
            estimate=objective,
            throw=False,
            placement=Placement(steps_per_call=length),
            optimizer=optimizer,
        )
        assert found.failure.step == found.step == 6
        assert found.failure.leaves == ("gradient of theta.offset",)
        assert np.isfinite(found.failure.bound)
    with pytest.raises(
        FloatingPointError, match=r"step 6: bound -[\d.]+, not finite: gradient of theta\.offset"
    ):
        fit(estimate=objective, optimizer=optimizer)


# ---------------------------------------------------------------- what a run reports


def test_progress_counts_steps_and_estimates_the_rest():
    seen = []
    found = fit(validation=data(), on_progress=seen.append)
    assert [p.step for p in seen] == [4, 8, 12, 16, 20]
    assert [p.epoch for p in seen] == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal([p.bound for p in seen], found.history.bound)
    np.testing.assert_array_equal(
        [p.validation_bound for p in seen], found.history.validation_bound
    )
    assert np.isnan(seen[0].samples_per_second)
    for p in seen[1:]:
        np.testing.assert_allclose(p.seconds_left * p.samples_per_second, (20 - p.step) * BATCH)


def test_tensorboard_is_used_where_it_is_installed(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    fake = types.ModuleType("tensorboardX")
    fake.SummaryWriter, fake.__spec__ = SummaryWriter, types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "tensorboardX", fake)
    found = fit(num_epochs=1, checkpoints=tmp_path)
    assert written[0] == (str(tmp_path / "tensorboard"), 1)
    assert ("bound", found.history.bound[0], 4) in written
    assert written[-1] == "closed"


def test_tensorboard_may_be_absent(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert events(tmp_path, 0) is None


def test_calls_grow_to_about_a_second_whatever_the_first_one_took():
    """The first compiles; a host that waited minutes for 4,096 unseen steps could not be stopped."""
    ends = []
    fit(num_epochs=40, on_progress=lambda progress: ends.append(progress.step))
    assert ends[0] == session.FIRST
    assert ends[-1] == 160


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"estimate": None}, TypeError, "estimate: .* got a NoneType"),
        ({"num_samples": 0}, ValueError, "num_samples: expected an integer >= 1"),
        (
            {"batch_size": 44},
            ValueError,
            "x: expected .* at least 44 data points.*lower batch_size",
        ),
        ({"x": np.full((43, 3), np.nan)}, ValueError, "x: expected finite numbers"),
        ({"x": np.zeros((43, 2))}, ValueError, r"x: expected shape \[N, 3\], as the model draws"),
        ({"optimizer": 0.1}, TypeError, "optimizer: expected one of Optax"),
        ({"validation": np.zeros((0, 3))}, ValueError, "validation: expected .* one data point"),
        ({"num_epochs": -1}, ValueError, "num_epochs"),
    ],
)
def test_refusals(options, error, words):
    with pytest.raises(error, match=words):
        fit(**options)


def test_refusals_of_options():
    with pytest.raises(ValueError, match="validation.patience: expected an integer >= 1, got 0"):
        Validation(data(), patience=0)
    with pytest.raises(ValueError, match="validation: expected data"):
        Validation(None, patience=3)
    with pytest.raises(ValueError, match="checkpoints.save_every: expected"):
        training.Checkpoints("somewhere", save_every=-1.0)
    with pytest.raises(ValueError, match="placement.steps_per_call: expected"):
        Placement(steps_per_call=0)


def test_refusals_of_keys_and_objectives():
    with pytest.raises(TypeError, match="key"):
        training.fit(0, MODEL, GUIDE, data(), estimate=gradients.reparameterized(), num_samples=1,
                     optimizer=optax.sgd(0.1), batch_size=2, num_epochs=1)  # fmt: skip
    with pytest.raises(ValueError, match="kl_weight"):
        training.kl_warmup(-1.0)
    with pytest.raises(ValueError, match="decay: expected a number between 0 and 1, got 1.0"):
        training.with_ema(OPTIMIZER, 1.0)
    with pytest.raises(ValueError, match="minimum"):
        training.free_bits(-0.1)
    with pytest.raises(ValueError, match="group.*did you mean 'dimension'"):
        training.free_bits(0.1, "dimensions")
    assert parallel.rows_per_process(None, 7) == 7
