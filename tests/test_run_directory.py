import dataclasses
import errno
import itertools
import json
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import run_directory


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


def test_a_folder_is_cleared_only_if_it_is_an_earlier_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"not empty; choose another --out, or .*--overwrite"):
        run_directory.create("demo", tmp_path, overwrite=False)
    with pytest.raises(FileExistsError, match=r"not an earlier run \(it has no config.json\)"):
        run_directory.create("demo", tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    (tmp_path / "config.json").write_text("{}")
    assert list(run_directory.create("demo", tmp_path, overwrite=True).path.iterdir()) == []


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
