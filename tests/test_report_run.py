"""A run and its folder: resumed after a kill, locked, never cleared by mistake; the runner."""

import contextlib
import dataclasses
import errno
import hashlib
import importlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from experiment_cycle import check_whole
from scipy import stats
from toys.line.config import Config

from lvm_jax import plotting, report
from lvm_jax.report import directory, stages
from lvm_jax.report import run as run_module

TESTS = Path(__file__).parent
LINE = "toys.line"


class Pair(NamedTuple):
    left: np.ndarray
    right: dict[str, float]


def lines(path):
    text = (path / "metrics.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def numbers(path):
    found = json.loads((path / "results.json").read_text(encoding="utf-8"))
    return {name: value for name, value in found.items() if name != "provenance"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return report.execute(LINE, Config(seed=1), tmp_path_factory.mktemp("line") / "run")


def test_a_run_leaves_all_of_its_files(finished):
    found, metrics = check_whole(finished, "slopes", "slopes-grey")
    assert found["slope"] == finished.result.slope
    assert "points" not in found
    assert [(row["step"], row["missing"]) for row in metrics] == [(0, None), (1, None), (2, None)]
    summary = json.loads((finished.path / "summary.json").read_text())
    assert summary["headline"] == [[f"{finished.result.slope:.3f} ± 0.025", "slope"]]


def test_a_killed_run_goes_on_to_the_same_numbers(finished, tmp_path, capsys):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "toys", "line", "--seed", "1", "--kill-at", "2"]
    killed = subprocess.run([*command, "--out", str(out)], cwd=TESTS, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert len(lines(out)) == 2
    assert not (out / "results.json").exists()
    with (out / "metrics.jsonl").open("a") as file:  # as if killed in the middle of a line
        file.write('{"seconds": 1.0, "step"')
    halves = [out / ".writing-x", *(one / ".writing-x" for one in out.glob(".stages/*"))]
    for half in halves:
        half.write_text("half of a file")
    again = report.execute(LINE, Config(seed=1, kill_at=2), out)
    assert numbers(out) == numbers(finished.path)
    assert lines(out) == lines(finished.path)
    assert len(halves) == 2
    assert not any(half.exists() for half in halves)
    check_whole(again, "slopes", "slopes-grey")
    assert "have changed" not in capsys.readouterr().err


@pytest.mark.parametrize("what", ["sources", "contents"])
def test_stages_of_other_source_files_or_data_are_not_read(what, tmp_path, monkeypatch, capsys):
    def interrupted(self, name, *arguments, stage=report.Run.stage):
        if name == "step 1":
            raise KeyboardInterrupt
        return stage(self, name, *arguments)

    monkeypatch.setattr(report.Run, "stage", interrupted)
    with pytest.raises(KeyboardInterrupt, match=f"resume it with --out {tmp_path}/run"):
        report.execute(LINE, Config(), tmp_path / "run")
    monkeypatch.undo()
    assert len(list((tmp_path / "run").glob(".stages/*/step_0-*.pkl"))) == 1
    monkeypatch.setattr(run_module, what, lambda of: [b"other"])
    report.execute(LINE, Config(), tmp_path / "run")
    message = f"source files or data have changed: {tmp_path}/run starts again"
    assert message in capsys.readouterr().err
    assert [row["step"] for row in lines(tmp_path / "run")] == [0, 1, 2]


def test_the_contents_of_data_are_its_arrays_wherever_they_are():
    def found(value):
        tree = (3, {"rows": [Config(), np.array([1.0, value])]}, lambda: None)
        return list(stages.contents(tree))

    assert found(2.0) == found(2.0) == [np.array([1.0, 2.0]).tobytes()]
    assert found(2.0) != found(3.0)


def test_a_finished_run_is_extended_and_otherwise_kept(finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished.path, out)
    with pytest.raises(
        FileExistsError, match=r"out: .* noise = 0.1, this one has 0.2; .*--overwrite"
    ):
        report.execute(LINE, Config(seed=1, noise=0.2), out)
    assert (out / "report.html").read_bytes() == (finished.path / "report.html").read_bytes()
    longer = Config(seed=1, num_steps=4)
    with pytest.raises(ZeroDivisionError), report.opened("line", longer, out):
        raise ZeroDivisionError  # the extended run is killed at its start
    report.execute(LINE, longer, out)
    assert [row["step"] for row in lines(out)] == [0, 1, 2, 3]
    assert lines(out)[:3] == lines(finished.path)


def files(path):
    names = [one for one in path.rglob("*") if one.is_file() and one.name != ".lock"]
    return {str(one.relative_to(path)): one.read_bytes() for one in names}


@pytest.fixture
def again(finished, tmp_path, monkeypatch):
    """A finished run, whose experiment must not fit a line again."""
    measure = importlib.import_module("toys.line.measure")
    monkeypatch.setattr(measure, "fit", lambda *_: pytest.fail("measured again"))
    return Path(shutil.copytree(finished.path, tmp_path / "run"))


def test_a_finished_run_is_drawn_again_from_its_stages(again, finished, monkeypatch, capsys):
    figures = importlib.import_module("toys.line.figures")
    monkeypatch.setattr(figures, "slopes", lambda result, *_: plotting.new_figure()[0])
    (again / "figures" / "of_an_earlier_page.png").write_bytes(b"")
    before = files(again)
    done = report.execute(LINE, Config(seed=1), again)
    assert "is finished: its page is drawn from the stored stages" in capsys.readouterr().err
    after = files(again)
    changed = {name for name, content in before.items() if after.get(name) != content}
    assert changed == {"report.html", "figures/of_an_earlier_page.png", "figures/slopes.png",
                       "figures/slopes-grey.png"}  # fmt: skip
    assert done.result.slope == finished.result.slope
    assert done.checks == finished.checks
    stamp = json.loads(before["results.json"])["provenance"]["started"]
    assert stamp in after["report.html"].decode()
    check_whole(done, "slopes", "slopes-grey")


def test_a_drawing_that_fails_leaves_the_finished_run(again, monkeypatch):
    before = files(again)
    figures = importlib.import_module("toys.line.figures")
    monkeypatch.setattr(figures, "slopes", lambda result, *_: 1 / 0)
    with pytest.raises(ValueError, match=r"report.md, line \d+: ZeroDivisionError"):
        report.execute(LINE, Config(seed=1), again)
    assert files(again) == before


@pytest.mark.parametrize("what", ["sources", "contents"])
def test_a_finished_run_of_other_code_or_data_is_not_drawn_again(what, again, monkeypatch):
    before = files(again)
    monkeypatch.setattr(run_module, what, lambda of: [b"other"])
    with pytest.raises(
        FileExistsError, match="out: .* finished run .* but source files or data .*--overwrite"
    ):
        report.execute(LINE, Config(seed=1), again)
    assert files(again) == before


def test_an_extended_run_drops_the_stages_of_its_other_options(finished, tmp_path):
    out = Path(shutil.copytree(finished.path, tmp_path / "run"))
    report.execute(LINE, Config(seed=1, num_steps=4), out)
    assert len(list(out.glob(".stages/*/*.pkl"))) == 4


def test_numbers_are_on_the_disk_before_anything_is_drawn(tmp_path, monkeypatch):
    def fail(figure):
        assert numbers(tmp_path / "run")["slope_error"] > 0
        raise ValueError("a figure cannot be drawn")

    monkeypatch.setattr(plotting, "png", fail)
    with pytest.raises(ValueError, match="a figure cannot be drawn"):
        report.execute(LINE, Config(), tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()  # not finished


def test_bad_options_leave_no_folder(tmp_path):
    with pytest.raises(ValueError, match="sizes: expected rising numbers"):
        report.execute(LINE, Config(sizes=(2, 1)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_check_that_is_off_or_not_finite_does_not_hold():
    assert report.near("x", 1.0, 1.1, 0.2).holds
    assert not report.near("x", 1.0, 1.3, 0.2).holds
    assert not report.near("x", float("nan"), 1.0, 0.2).holds
    assert report.near("x", 1, 1.1, 0.2, "paper").expected == "1.1 ± 0.2, paper"


def opened(out, overwrite=False, name="line", **values):
    return report.opened(name, Config(**values), out, overwrite)


NOT_RUNS = {
    "no configuration": None,
    "another program's": '{"model_type": "bert", "seed": 0}',
    "not JSON": "seed: 0, experiment: line",
    "no object": '["seed", "experiment"]',
}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("config", NOT_RUNS.values(), ids=NOT_RUNS)
def test_a_folder_that_is_no_run_is_never_cleared(config, overwrite, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with (
        pytest.raises(
            FileExistsError, match=r"out: expected an empty folder or a run, .*another --out"
        ),
        opened(tmp_path, overwrite),
    ):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_the_run_of_another_experiment_is_never_cleared(tmp_path):
    with opened(tmp_path) as run:
        run.write("weights.bin", "a week of training")
    with (
        pytest.raises(FileExistsError, match="has a run of line, this one is of circle"),
        opened(tmp_path, overwrite=True, name="circle"),
    ):
        pass
    assert (tmp_path / "weights.bin").exists()


@pytest.mark.parametrize("is_link", [False, True])
def test_overwrite_clears_an_earlier_run_and_nothing_beside_it(tmp_path, is_link):
    (tmp_path / "beside.txt").write_text("kept")
    out = tmp_path / "run"
    with opened(out) as run:
        run.write("figures/a.png", b"png")
        (out / "figures/beside").symlink_to(tmp_path / "beside.txt")
        (out / "up").symlink_to(tmp_path)
    if is_link:  # the folder itself may be a link, or a mount: it stays
        (tmp_path / "latest").symlink_to(out)
        out = tmp_path / "latest"
    with opened(out, overwrite=True, noise=0.5):
        assert {entry.name for entry in out.iterdir()} == {"config.json", ".lock", ".stages"}
    assert out.is_symlink() == is_link
    assert (tmp_path / "beside.txt").read_text() == "kept"


def test_what_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with (
        pytest.raises(FileExistsError, match="out: expected a folder, got the file"),
        opened(tmp_path / "out"),
    ):
        pass
    with (
        pytest.raises(NotADirectoryError, match="cannot write .*another folder"),
        opened(tmp_path / "out/a"),
    ):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def denied(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # root may write everywhere
    with (
        pytest.raises(PermissionError, match=r"cannot write \(Permission denied\); choose another"),
        opened(tmp_path / "run"),
    ):
        pass


def test_a_second_process_is_refused_with_the_first_named(tmp_path):
    out = tmp_path / "run"
    with opened(out):
        assert run_module.in_use(out)
        busy = rf"out: .* is in use by process {os.getpid()} on .*; wait for its end, or choose"
        for overwrite in (False, True):
            with pytest.raises(FileExistsError, match=busy), opened(out, overwrite):
                pass
    assert (out / ".lock").exists()  # of a process that has ended
    assert not run_module.in_use(out)
    with opened(out):
        assert run_module.in_use(out)


def test_runs_without_a_folder_get_one_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with opened(None) as first, opened(None) as second, opened(None) as third:
        names = [run.path.name for run in (first, second, third)]
    assert len(set(names)) == 3
    assert all(Path(name).match("line-20??????-??????*") for name in names)


def test_a_stage_comes_back_as_it_was(tmp_path):
    value = {"pair": Pair(jnp.arange(3.0), {"a": 0.5}), "config": Config(), "list": [1, "b", None]}
    calls = []
    found = []
    for _ in range(2):
        with opened(tmp_path / "run") as run:
            found.append(run.stage("S = 4 / x", lambda: calls.append(0) or value))
    assert len(calls) == 1
    for one in found:
        assert one["list"] == value["list"]
        assert one["config"] == Config()
        assert one["pair"].right == {"a": 0.5}
        assert isinstance(one["pair"].left, np.ndarray)
        np.testing.assert_array_equal(one["pair"].left, [0.0, 1.0, 2.0])


def test_a_stage_holds_no_functions(tmp_path):
    with opened(tmp_path / "run") as run:
        for wrong in (len, lambda: 0, os.path.join):
            with pytest.raises(TypeError, match="stage 'fit': expected arrays and data classes"):
                run.stage("fit", lambda wrong=wrong: {"f": wrong})
        run.stage("fit", lambda: 1.0)
    with opened(tmp_path / "run") as run:
        (file,) = (tmp_path / "run").glob(".stages/*/fit-*.pkl")
        command = pickle.dumps(os.system)
        for content in (hashlib.sha256(command).digest() + command, command, b"cut"):
            file.write_bytes(content)
            with pytest.raises(ValueError, match=r"fit-.*pkl: expected a finished stage.*delete"):
                run.stage("fit", lambda: 1.0)


@pytest.mark.parametrize("place", [0, 50, 300, -1])
def test_a_stage_of_which_one_byte_has_changed_is_refused(place, tmp_path):
    content = bytearray(stages.as_bytes("fit", np.arange(100.0)))
    content[place] ^= 1
    (tmp_path / "fit.pkl").write_bytes(content)
    with pytest.raises(ValueError, match="fit.pkl: expected a finished .* a damaged one; delete"):
        stages.from_file(tmp_path / "fit.pkl")


@pytest.mark.parametrize("file", [".lock", "config.json", ".stages", "metrics.jsonl", "points.npz"])
def test_a_full_disk_anywhere_loses_nothing(file, finished, tmp_path, monkeypatch):
    full, targets = OSError(errno.ENOSPC, "No space left on device"), []

    @contextlib.contextmanager
    def filled(target, clear_errors=directory.clear_errors):
        with clear_errors(target):
            targets.append(target)
            if file in str(target):
                raise full
            yield

    out = tmp_path / "run"
    for module in (run_module, directory):
        monkeypatch.setattr(module, "clear_errors", filled)
    with pytest.raises(OSError, match="No space left.*free some space and run the command again"):
        report.execute(LINE, Config(seed=1), out)
    assert file in str(targets[-1])
    monkeypatch.undo()
    done = report.execute(LINE, Config(seed=1), out)
    assert numbers(out) == numbers(finished.path)
    assert lines(out) == lines(finished.path)
    check_whole(done, "slopes", "slopes-grey")


def test_two_stages_of_one_name_are_refused(tmp_path):
    with opened(tmp_path / "run") as run:
        assert run.stage("S = 1", lambda: 1.0) == 1.0
        with pytest.raises(ValueError, match="name: expected a name that no other .*'S = 1' again"):
            run.stage("S = 1", lambda: 2.0)


def test_the_page_has_the_numbers_to_expect_and_marks_the_wrong_one(tmp_path, monkeypatch):
    measure = importlib.import_module("toys.line.measure")
    wrong = report.near("a wrong number", 1.0, 2.0, 0.5, "by hand")
    monkeypatch.setattr(measure, "checks", lambda result: [wrong, wrong._replace(low=0.0)])
    done = report.execute(LINE, Config(), tmp_path / "run")
    page = (done.path / "report.html").read_text(encoding="utf-8")
    row = "<td>a wrong number</td><td>1</td><td>2 ± 0.5, by hand</td>"
    assert f'<tr class="marked">{row}<td>NO</td>' in page
    assert f"<tr>{row}<td>yes</td>" in page


def test_the_configuration_holds_the_precision(tmp_path, x64):
    with opened(tmp_path / "run"):
        stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored == {
        "experiment": "line",
        "x64": True,
        **json.loads(json.dumps(dataclasses.asdict(Config()))),
    }


def test_the_example_of_the_page_is_an_experiment(tmp_path, monkeypatch):
    page = TESTS.parent / "docs" / "extending" / "experiment.md"
    blocks = re.findall(r"```(?:python|markdown)\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    (tmp_path / "naive").mkdir()
    for name, block in zip(
        ("config.py", "measure.py", "figures.py", "report.md"), blocks, strict=True
    ):
        (tmp_path / "naive" / name).write_text(block, encoding="utf-8")
    package = importlib.import_module("experiments")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    config = importlib.import_module("experiments.naive.config").Config()
    done = report.execute("experiments.naive", config, tmp_path / "run")
    check_whole(done, "error")
    z = np.linspace(-10, 10, 4001)
    weights = stats.norm.pdf(1.0, z, 1) / stats.norm.pdf(1.0, 0, 2**0.5)
    second = np.sum(weights**2 * stats.norm.pdf(z)) * (z[1] - z[0])
    np.testing.assert_allclose(done.result.expected, -(second - 1) / (2 * np.array([8, 16, 32])))
