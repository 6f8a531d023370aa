import dataclasses
import errno
import itertools
import json
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import publish, run_directory


class Pair(NamedTuple):
    left: int
    right: float


@dataclasses.dataclass(frozen=True)
class Settings:
    out: Path
    pair: Pair


@pytest.fixture
def run(tmp_path):
    return run_directory.create("demo", tmp_path / "run", overwrite=False)


def test_json_is_read_back_as_what_it_stood_for(run):
    values = {
        "nan": np.nan, "inf": -np.inf, "array": np.arange(3), "jax": jnp.float32(0.5),
        "settings": Settings(Path("a/b"), Pair(1, float("inf"))), "many": [np.int64(2), (3.0, None)],
        7: True,
    }  # fmt: skip
    path = run.write_json("deep/values.json", values)
    assert json.loads(path.read_text()) == {
        "nan": None, "inf": None, "array": [0, 1, 2], "jax": 0.5,
        "settings": {"out": "a/b", "pair": {"left": 1, "right": None}}, "many": [2, [3.0, None]],
        "7": True,
    }  # fmt: skip


def test_metrics_are_appended_line_by_line(run):
    for step in range(3):
        run.log(step=step, value=np.float32(step) / 2)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["value"]) for row in lines] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(lines))


@pytest.mark.parametrize("fails", ["replace", "fdopen"])
def test_a_full_disk_leaves_the_earlier_file_and_says_what_to_do(run, monkeypatch, fails):
    run.write("results.json", "earlier")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_directory.os, fails, full)
    with pytest.raises(OSError, match=r"No space left.*Free some space or choose .* --out"):
        run.write("results.json", "later")
    monkeypatch.undo()
    assert (run.path / "results.json").read_text() == "earlier"
    assert [entry.name for entry in run.path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("blocked", ["results", "metrics"])
def test_a_target_that_cannot_be_written_is_named_with_the_cure(run, blocked):
    (run.path / "results").write_text("a file where a folder has to be")
    (run.path / "metrics.jsonl").mkdir()
    with pytest.raises(
        OSError, match=r"cannot write \(.*choose another folder with --out"
    ) as error:
        run.log(step=1) if blocked == "metrics" else run.write("results/values.json", "{}")
    assert blocked in error.value.filename


NOT_RUNS = {
    "no configuration": None,
    "another program's": '{"model_type": "bert", "seed": 0}',
    "not JSON": "seed: 0, out: null, overwrite: false",
    "no object": '["seed", "out", "overwrite"]',
}


@pytest.mark.parametrize("config", NOT_RUNS.values(), ids=NOT_RUNS)
def test_a_folder_that_is_no_run_is_never_cleared(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(FileExistsError, match=r"not empty; choose another --out, or .*--overwrite"):
        run_directory.create("demo", tmp_path, overwrite=False)
    with pytest.raises(FileExistsError, match="not an earlier run .* choose another --out"):
        run_directory.create("demo", tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("is_link", [False, True])
def test_overwrite_clears_an_earlier_run_and_nothing_beside_it(run, tmp_path, is_link):
    (tmp_path / "beside.txt").write_text("kept")
    run.write_json("config.json", publish.Options())
    run.write("figures/a.png", b"png")
    (run.path / "figures/beside").symlink_to(tmp_path / "beside.txt")
    (run.path / "up").symlink_to(tmp_path)
    out = run.path
    if is_link:  # the folder itself may be a link, or a mount: it stays
        out = tmp_path / "latest"
        out.symlink_to(run.path)
    assert list(run_directory.create("demo", out, overwrite=True).path.iterdir()) == []
    assert out.is_symlink() == is_link
    assert run.path.is_dir()
    assert (tmp_path / "beside.txt").read_text() == "kept"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(FileExistsError, match="out: expected a folder, got the file"):
        run_directory.create("demo", tmp_path / "out", overwrite=True)


def test_the_default_folder_carries_name_and_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_directory.create("demo", None, overwrite=False)
    assert run.path.parent == Path("runs")
    assert run.path.match("demo-20??????-??????")


def test_provenance_says_what_it_takes_to_run_again(run):
    provenance = run.provenance(seed=3)
    assert provenance["seed"] == 3
    assert provenance["libraries"]["numpy"] == np.__version__
    assert provenance["device"].startswith("cpu")
    assert set(provenance) >= {"command", "started", "git", "python", "platform"}


def test_outside_a_checkout_there_is_no_commit_to_name(tmp_path):
    assert run_directory.git_state(tmp_path) is None
