import errno
import hashlib
import json
import shutil
import signal
import threading
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from training_cases import OPTIMIZER, data, fit, lines, same

from lvm_jax import training
from lvm_jax._core.outcome import Outcome
from lvm_jax.training import Checkpoints, Placement, Validation, checkpoint, session
from lvm_jax.training.store import Store

OPTIONS = {
    "optimizer": training.with_ema(OPTIMIZER, 0.9),
    "validation": data(21, seed=2),
    "num_epochs": 4,
}  # fmt: skip, 16 steps


class Crash(Exception):
    pass


def stop_at(step, action):
    """A callback that acts once the run has made `step` steps."""

    def act(progress):
        if progress.step >= step:
            action()

    return act


def crash():
    raise Crash


def run(directory, *, keep=3, save_every=0.0, config=None, **options):
    """A run that saves after every call, of 3 steps or less: a checkpoint at 3, 4, 7, 8, ..."""
    where = {
        "checkpoints": Checkpoints(directory, save_every, keep, config),
        "placement": Placement(steps_per_call=3),
    }
    return fit(**OPTIONS | where | options)


@pytest.fixture(scope="module", autouse=True)
def calls_of_one_length():
    """Checkpoints after fixed steps, on a machine of any speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "LONG", float("inf"))
        yield


@pytest.fixture(scope="module")
def whole():
    return fit(**OPTIONS)


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A run that crashed at step 11, in the middle of its third epoch."""
    directory = tmp_path_factory.mktemp("cut")
    with pytest.raises(Crash):
        run(directory, on_progress=stop_at(11, crash))
    return directory


@pytest.fixture
def crashed(cut, tmp_path):
    shutil.copytree(cut, tmp_path / "run")
    return tmp_path / "run"


def checkpoints(directory):
    return sorted((directory / "checkpoints").glob("step-*"))


def assert_is(found, whole):
    """Every number of the run, to the bit, but for the seconds that it took."""
    assert same(found._replace(history=found.history._replace(seconds=0)),
                whole._replace(history=whole.history._replace(seconds=0)))  # fmt: skip


# ---------------------------------------------------------------- going on


def test_a_crashed_run_goes_on_to_the_same_bits(crashed, whole):
    assert [path.name for path in checkpoints(crashed)] == [
        "step-000000004",
        "step-000000007",
        "step-000000008",
    ]
    assert_is(run(crashed), whole)
    written = lines(crashed)
    assert [line["step"] for line in written] == [4, 8, 12, 16]
    assert [line["bound"] for line in written] == whole.history.bound.tolist()
    assert [line["validation_bound"] for line in written] == whole.history.validation_bound.tolist()


def test_a_checkpoint_in_the_middle_of_an_epoch_keeps_its_first_steps(crashed, whole):
    shutil.rmtree(crashed / "checkpoints" / "step-000000008")
    assert_is(run(crashed), whole)
    assert [line["step"] for line in lines(crashed)] == [4, 8, 12, 16]


def test_a_finished_run_makes_no_step_and_a_longer_one_goes_on(tmp_path, whole):
    short = run(tmp_path, num_epochs=2)
    assert short.step == 8
    again = run(tmp_path, num_epochs=2, on_progress=crash)
    assert_is(again, short)
    assert_is(run(tmp_path), whole)


def test_early_stopping_is_remembered(tmp_path):
    options = {
        "validation": Validation(data(21, seed=2), patience=2),
        "optimizer": optax.sgd(-1e-3),
        "num_epochs": 9,
    }
    first = run(tmp_path, **options)
    assert (first.outcome, first.best_step, first.step) == (Outcome.CONVERGED, 4, 12)
    assert_is(run(tmp_path, **options, on_progress=crash), first)


def test_the_last_few_stay(tmp_path):
    run(tmp_path, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000015", "step-000000016"]


def test_what_a_killed_save_left_is_cleared(crashed, whole):
    left = crashed / "checkpoints" / ".writing-step-000000011"
    left.mkdir()
    (left / "facts.json").write_text("{")
    assert_is(run(crashed), whole)
    assert not left.exists()


# ---------------------------------------------------------------- damage


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("harm", [truncate, flip, Path.unlink])
def test_damage_to_any_file_is_seen(cut, tmp_path, harm):
    path = checkpoints(cut)[-1]
    assert checkpoint.verify(path) is None
    files = [file.relative_to(path) for file in path.rglob("*") if file.is_file()]
    assert len(files) > 6
    for file in files:
        copy = shutil.copytree(path, tmp_path / "copy")
        harm(copy / file)
        found = checkpoint.verify(copy)
        # A changed manifest may be read as that of other files.
        assert file.name in found or (file.name == checkpoint.MANIFEST and found)
        shutil.rmtree(copy)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (truncate, "has .* bytes instead of"),
        (flip, "its checksum is wrong"),
        (Path.unlink, "missing"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(crashed, whole, harm, words):
    newest = checkpoints(crashed)[-1]
    harm(
        max((newest / "arrays").rglob("*"), key=lambda file: file.is_file() and file.stat().st_size)
    )
    with pytest.warns(training.CheckpointWarning, match=f"step-000000008 is damaged .*{words}"):
        found = run(crashed)
    assert_is(found, whole)
    assert (crashed / "checkpoints" / "damaged-step-000000008").is_dir()


def test_no_good_checkpoint_is_an_error_then_and_later(crashed):
    for path in checkpoints(crashed):
        flip(path / "facts.json")
    with (
        pytest.warns(
            training.CheckpointWarning, match="step-.* is damaged .facts.json was changed"
        ),
        pytest.raises(
            training.CheckpointError, match="no good checkpoint is left in .*start again"
        ),
    ):
        run(crashed)
    with pytest.raises(training.CheckpointError, match="no good checkpoint"):
        run(crashed)


# ---------------------------------------------------------------- another run's directory


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"x": data(43, seed=1)}, r"x: float32\[43, 3\] \w+ then, float32\[43, 3\] \w+ now"),
        ({"validation": data(20)}, "validation: "),
        ({"batch_size": 11}, "batch_size: 10 then, 11 now"),
        ({"num_samples": 3}, "num_samples: 2 then, 3 now"),
        ({"optimizer": training.with_ema(OPTIMIZER, 0.8)}, "optimizer: "),
        ({"estimate": training.kl_warmup(0.5)}, "estimate: "),
        ({"config": {"layers": 2}}, r"config: None then, {'layers': 2} now"),
    ],
)
def test_other_settings_are_refused_by_name(cut, options, words):
    with pytest.raises(ValueError, match=f"checkpoints: .*other settings .*{words}"):
        run(cut, **options)


# ---------------------------------------------------------------- a disk that refuses


def test_a_full_disk_stops_the_run_and_leaves_the_last_good_checkpoint(
    tmp_path, monkeypatch, whole
):
    save, count = checkpoint.save_arrays, 0

    def full(path, arrays):
        nonlocal count
        count += 1
        save(path, arrays)
        if count > 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_arrays", full)
    words = "checkpoint of step 7 could not be written .*No space left.*last good checkpoint is .*step-000000004"
    with pytest.raises(training.CheckpointError, match=words) as caught:
        run(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000003", "step-000000004"]
    assert not list((tmp_path / "checkpoints").glob(".*"))
    monkeypatch.undo()
    assert_is(run(tmp_path), whole)


def fail_with(error):
    def save(path, arrays):
        raise error

    return save


def test_an_error_that_is_not_the_disks_is_raised_as_it_is(tmp_path, monkeypatch):
    """Such as of an Orbax that cannot write: free space would not help."""
    error = ValueError("BadOrbax: pytree_metadata_options is not known")
    monkeypatch.setattr(checkpoint, "save_arrays", fail_with(error))
    with pytest.raises(
        ValueError, match="^BadOrbax: pytree_metadata_options is not known$"
    ) as caught:
        run(tmp_path)
    assert caught.value is error
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("error", "number", "words"),
    [
        (
            ValueError("x [os_error_code='28']"),
            errno.ENOSPC,
            "No space left .*Free some space, then",
        ),
        (
            OSError(errno.EROFS, "y"),
            errno.EROFS,
            r"Read-only file system\); no .*written\. Run the",
        ),
    ],
)
def test_an_error_of_the_disk_has_its_number_and_cure(tmp_path, monkeypatch, error, number, words):
    monkeypatch.setattr(checkpoint, "save_arrays", fail_with(error))
    with pytest.raises(training.CheckpointError, match=f"checkpoint of step 3 .*{words}") as caught:
        run(tmp_path)
    assert caught.value.errno == number


def test_a_divergence_names_the_last_good_checkpoint(tmp_path):
    words = r"step 7: .*validation bound nan; the last good checkpoint is .*step-000000007"
    with pytest.raises(FloatingPointError, match=words):
        run(tmp_path, optimizer=optax.sgd(lambda count: 1e-3 + 1e30 * (count == 7)))
    assert checkpoint.verify(checkpoints(tmp_path)[-1]) is None


# ---------------------------------------------------------------- signals


def ctrl_c():
    """SIGINT, handled: Python may be late where other threads run, and makes one of two in a row."""
    handler = signal.getsignal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    for _ in range(10_000):
        if signal.getsignal(signal.SIGINT) is not handler:
            return
        time.sleep(0.001)


def test_ctrl_c_saves_and_the_same_call_goes_on(tmp_path, whole):
    before = signal.getsignal(signal.SIGINT)
    ask = stop_at(7, ctrl_c)
    with pytest.raises(
        KeyboardInterrupt, match="stopped at step 7 and saved in .*the same call resumes"
    ):
        run(tmp_path, save_every=1e9, on_progress=ask)
    assert signal.getsignal(signal.SIGINT) is before
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000007"]
    assert_is(run(tmp_path), whole)


def test_ctrl_c_may_be_a_value_and_twice_is_at_once(tmp_path, interrupts):
    def twice():
        ctrl_c()
        ctrl_c()

    found = run(tmp_path / "once", on_progress=stop_at(3, ctrl_c), throw=False)
    assert (found.outcome, found.step) == (Outcome.INTERRUPTED, 3)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(tmp_path / "twice", on_progress=stop_at(3, twice))
    assert caught.value.args == ()


# ---------------------------------------------------------------- the arrays themselves


def test_arrays_come_back_to_the_bit(tmp_path):
    arrays = {
        "empty['a/b']": np.zeros((0, 3), np.float32),
        "scalar": np.array(3, np.int32),
        "theta.layers[0]['w.x']": np.array([[np.nan, -0.0, np.inf]], np.float64),
        "half": np.asarray(jax.numpy.arange(3, dtype="bfloat16")),
    }
    checkpoint.write(tmp_path / "one", arrays, {"step": 7})
    found, facts = checkpoint.read(tmp_path / "one")
    assert facts["step"] == 7
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert found[name].tobytes() == value.tobytes()


# ---------------------------------------------------------------- the folder


def test_the_manifest_is_the_sha256_of_every_file(tmp_path):
    checkpoint.write(tmp_path / "one", {"a": np.arange(7.0)}, {})
    written = json.loads((tmp_path / "one" / "manifest.json").read_text())
    found = [p for p in (tmp_path / "one").rglob("*") if p.is_file() and p.name != "manifest.json"]
    assert written == {
        str(p.relative_to(tmp_path / "one")): [
            len(p.read_bytes()), hashlib.sha256(p.read_bytes()).hexdigest()
        ]
        for p in found
    }  # fmt: skip


def test_files_are_synced_before_the_folder_is_renamed(tmp_path, monkeypatch):
    flushed, path = [], tmp_path / "one"
    monkeypatch.setattr(checkpoint, "_flush", lambda entry: flushed.append((entry, path.exists())))
    checkpoint.write(path, {"a": np.arange(7.0)}, {})
    *inside, last = flushed
    assert last == (tmp_path, True)
    writing = tmp_path / ".writing-one"
    assert {entry for entry, _ in inside} == {
        writing, *(writing / entry.relative_to(path) for entry in path.rglob("*"))
    }  # fmt: skip
    assert not any(named for _, named in inside)


def test_a_step_that_is_damaged_twice_is_set_aside_twice(tmp_path):
    store = Store(tmp_path, keep=3)
    for _ in range(3):
        for step in (3, 4):
            store.save(step, {"a": np.array(step)}, {"step": step})
        store.wait()
        (tmp_path / "step-000000004" / "facts.json").unlink()
        with pytest.warns(training.CheckpointWarning, match=r"facts\.json is missing"):
            path, arrays, facts = store.latest()
        assert (path.name, int(arrays["a"]), facts["step"]) == ("step-000000003", 3, 3)
    store.close()
    assert sorted(p.name for p in tmp_path.glob("damaged-*")) == [
        "damaged-step-000000004", "damaged-step-000000004-1", "damaged-step-000000004-2"
    ]  # fmt: skip


def test_a_check_never_waits_and_every_later_check_raises_the_error(tmp_path, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def write(path, arrays, facts):
        begun.set()
        assert go_on.wait(60)
        raise checkpoint.CheckpointError(errno.ENOSPC, "full", str(path))

    monkeypatch.setattr(checkpoint, "write", write)
    store = Store(tmp_path, keep=3)
    store.save(3, {}, {})
    assert begun.wait(60)
    store.check()
    go_on.set()
    with pytest.raises(training.CheckpointError, match="step 3 .*no checkpoint was written"):
        store.wait()
    with pytest.raises(training.CheckpointError, match="step 3"):
        store.check()
    store.close()
