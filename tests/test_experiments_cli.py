"""The command line: the list, help, wrong names and options, exit codes, sweeps and lists of runs."""

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from toys.line.config import Config

from experiments import __main__ as cli
from lvm_jax import report
from lvm_jax.report import command as tool
from lvm_jax.report import options, parsing, sweep

TESTS = Path(__file__).parent
ROOT = TESTS.parent
NAMES = tuple(tool.available("experiments"))


def toys(*arguments):
    return tool.main("toys", [str(word) for word in arguments])


def test_the_list_has_every_experiment_with_its_first_line_and_time(capsys):
    assert cli.main([]) == 0
    listed = capsys.readouterr().out
    assert "gradient_snr" in NAMES
    for name, line in tool.available("experiments").items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", listed, re.M)
        assert re.search(r"\(.*\b(s|min|hours?|days?)\b.*\)\.$", line), line


@pytest.mark.parametrize(
    ("wrong", "right"), [("gradient-snr.py", "gradient_snr"), ("run", "runs"), ("VAE", "vae")]
)
def test_a_wrong_name_suggests_the_nearest(wrong, right, capsys):
    assert cli.main([wrong]) == 2
    error = capsys.readouterr().err
    assert f"did you mean {right!r}?" in error
    assert error.startswith("error: expected one of ")


@pytest.fixture(scope="module")
def helps():
    """The help of every experiment, from one process; and the slow packages that it imported."""
    asked = f"""
import contextlib, io, json, sys
from experiments.__main__ import main
shown = {{}}
for name in {NAMES}:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main([name, "--help"])
        except SystemExit as stop:
            assert stop.code == 0
    shown[name] = out.getvalue()
slow = {{"jax", "numpy", "matplotlib", "typeguard", "asyncio"}} & set(sys.modules)
print(json.dumps([shown, sorted(slow)]))
"""
    done = command("-c", asked)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_help_explains_every_option(name, helps):
    shown = words(helps[0][name])
    config = __import__(f"experiments.{name}.config", fromlist=["Config"]).Config
    for part in (config, parsing.Runner):
        texts = options.described(part)
        for option in options.hints(part):
            assert f" {words(option)} " in shown
            assert texts[option], option
            assert words(texts[option]) in shown, option


def test_help_imports_nothing_that_is_slow(helps):
    assert helps[1] == []


def words(text):
    return re.sub(r"[\W_]+", " ", text).strip()


def test_a_wrong_option_is_named_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        toys("line", "--num-step", "3")
    assert stop.value.code == 2
    assert "--num-steps" in capsys.readouterr().err


WRONG_LISTS = {
    "nothing": ([], "expected values separated by spaces, got nothing; None is an empty list"),
    "commas": (["1,4"], "values are separated by spaces: 1 4, got '1,4'"),
    "comma and space": (["1,", "4"], "values are separated by spaces: 1, got '1,'"),
    "text": (["1", "a"], "expected an integer, got 'a'"),
}


@pytest.mark.parametrize(("values", "message"), WRONG_LISTS.values(), ids=WRONG_LISTS)
def test_a_wrong_list_of_values_is_refused_with_its_cure(values, message, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        toys("line", "--sizes", *values, "--noise", "0.5")
    assert stop.value.code == 2
    assert f"Error parsing --sizes: {message}" in capsys.readouterr().err


def test_an_empty_list_is_the_word_none():
    config, _ = parsing.parse(Config, "line", "", ["--sizes", "None"])
    assert config.sizes == ()
    assert parsing.as_arguments("sizes", ()) == ["--sizes", "None"]
    assert parsing.value_of(options.hints(Config)["sizes"], "None") == ()


def test_options_become_the_configuration():
    line = [
        "--sizes",
        "1",
        "4",
        "9",
        "--rule",
        "median",
        "--expected",
        "2.5",
        "--x64",
        "--overwrite",
        "--out",
        "a/b",
    ]
    config, runner = parsing.parse(Config, "line", "", line)
    assert config == Config(sizes=(1, 4, 9), rule="median", expected=2.5)
    assert runner == parsing.Runner(Path("a/b"), overwrite=True, x64=True)
    assert parsing.parse(Config, "line", "", []) == (Config(), parsing.Runner())


REFUSED = {
    "range": (["--noise", "0"], "--noise: expected a finite number that is above 0, got 0.0"),
    "condition": (["--sizes", "4", "1"], "--sizes: expected rising numbers, got (4, 1)"),
    "no run": (["--out", "."], "--out: expected an empty folder or a run, got ."),
    "sweep name": (["--sweep", "nois=1"], "got 'nois'; did you mean 'noise'?"),
    "sweep value": (["--sweep", "noise=1,-1"], "--noise: expected a finite number that is above 0"),
    "sweep type": (["--sweep", "seed=a"], "--seed: expected an integer, got 'a'"),
    "sweep choice": (["--sweep", "rule=medan"], "--rule: expected one of least_squares, median"),
    "sweep form": (["--sweep", "noise"], "sweep: expected option=value,value, got 'noise'"),
    "sweep empty": (["--sweep"], "sweep: expected option=value,value after --sweep"),
    "sweep axis twice": (["--sweep", "seed=1", "seed=2"], "sweep: expected seed once, as seed=val"),
    "sweep twice": (["--sweep", "seed=1", "--seed=2"], "expected --seed=2 once"),
    "sweep over": (["--sweep", "seed=1", "--overwrite"], "overwrite: expected no --overwrite"),
    "sweep folder": (
        ["--sweep", "seed=1", "--out", "."],
        "--out: expected a new folder or a sweep",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_options_are_one_line_and_exit_code_1(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("thesis.tex").write_text("years of work")
    assert toys("line", *arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(("expected", "code"), [("2", 0), ("3", 1)])
def test_the_exit_code_says_whether_the_numbers_are_the_expected_ones(
    expected, code, tmp_path, capsys
):
    arguments = ["--num-steps", "1", "--expected", expected]
    assert toys("line", *arguments, "--out", tmp_path / "run") == code
    shown = capsys.readouterr().out
    assert re.search(
        rf"^{'ok' if code == 0 else 'DIFFERS'} +slope: .*, expected {expected} ±", shown, re.M
    )
    assert f"report: {tmp_path / 'run' / 'report.html'}\n" in shown
    assert toys("runs", tmp_path / "run") == 0  # a run, instead of a folder with runs
    own = capsys.readouterr().out
    assert toys("runs", tmp_path) == 0
    state = "finished" if code == 0 else "differs: slope"
    shown = capsys.readouterr().out
    assert shown == own
    listed = shown.splitlines()
    assert listed[0].startswith(f"{tmp_path / 'run'}  2")
    assert listed[0].endswith(f"line                  {state}")
    assert re.fullmatch(r"    slope: .* ± .*", listed[1])


def test_runs_lists_unfinished_running_and_damaged_runs(tmp_path, capsys):
    with report.opened("line", Config(), tmp_path / "deep" / "broken") as run:
        run.write("summary.json", "{")
        report.Directory(run.path / "inner").write_json(
            "config.json", {"experiment": "x", "seed": 0}
        )
    with report.opened("line", Config(), tmp_path / "stopped"):
        pass
    (tmp_path / "empty").mkdir()
    with report.opened("line", Config(), tmp_path / "working"):
        assert toys("runs", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    found = {
        Path(line.split("  ")[0].strip()).name: line.split("line")[-1].strip() for line in lines
    }
    assert found.keys() == {"broken", "stopped", "working"}
    assert found["broken"].startswith("broken: ")
    assert (found["stopped"], found["working"]) == ("unfinished", "running")
    assert toys("runs", tmp_path / "empty") == 0
    assert capsys.readouterr().out == f"no runs below {tmp_path / 'empty'}\n"
    assert toys("runs", tmp_path / "missing") == 1


def test_an_interrupted_run_names_its_folder(tmp_path, monkeypatch, capsys):
    def stop(self, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(report.Run, "stage", stop)
    assert toys("line", "--out", tmp_path / "run") == 130
    assert capsys.readouterr().err == f"\ninterrupted; resume it with --out {tmp_path / 'run'}\n"


def test_an_interruption_before_the_run_wrote_nothing(tmp_path, monkeypatch, capsys):
    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Config, "check", stop)
    assert toys("line", "--out", tmp_path / "run") == 130
    assert capsys.readouterr().err == "\ninterrupted; nothing was written\n"
    assert not (tmp_path / "run").exists()


@pytest.fixture
def started(monkeypatch):
    """The runs that a sweep starts, in this process instead of one of their own."""
    found = []

    def run(package, name, cell, out):
        found.append(cell.path.name)
        tool.main(package, [name, *cell.arguments])

    monkeypatch.setattr(sweep, "run_one", run)
    return found


def test_a_sweep_runs_the_grid_compares_it_and_skips_what_is_finished(tmp_path, started, capsys):
    line = ["line", "--num-steps", "1", "--out", tmp_path / "out", "--sweep", "sizes=1 4,2"]
    assert toys(*line, "seed=0") == 0
    assert started == ["sizes=1_4,seed=0", "sizes=2,seed=0"]
    shown = capsys.readouterr().out
    assert "paired, 50 points" in shown
    assert (tmp_path / "out" / "comparison.html").exists()
    stored = json.loads((tmp_path / "out" / started[0] / "config.json").read_text())
    assert (stored["sizes"], stored["num_steps"]) == ([1, 4], 1)
    (tmp_path / "out" / started[1] / "summary.json").unlink()  # as if it had been killed
    assert toys(*line, "seed=0") == 0
    assert started[2:] == ["sizes=2,seed=0"]
    assert toys("line", "--num-steps", "1", "--noise", "9", *line[3:], "seed=0") == 1
    assert "has a run with noise = 0.1, this one has 9.0" in capsys.readouterr().err
    assert len(started) == 3


def test_a_sweep_over_seeds_has_the_mean_and_its_error(tmp_path, started, capsys):
    grid = ["--sweep", "sizes=None,2", "seed=0,1,2", "--num-steps", "1"]
    assert toys("line", *grid, "--out", tmp_path / "out") == 0
    assert started[:2] == ["sizes=None,seed=0", "sizes=None,seed=1"]
    paths = [tmp_path / "out" / name for name in started]
    slopes = [json.loads((path / "results.json").read_text())["slope"] for path in paths]
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())["over_seeds"]
    assert [row["settings"] for row in found] == [{"sizes": []}, {"sizes": [2]}]
    for row, values in zip(found, (slopes[:3], slopes[3:]), strict=True):
        shown = [round(value, 3) for value in values]  # the digits of the page
        assert row["mean"]["value"] == pytest.approx(statistics.mean(shown))
        assert row["sd"] == pytest.approx(statistics.stdev(shown))
        assert row["mean"]["standard_error"] == pytest.approx(statistics.stdev(shown) / 3**0.5)
    assert re.search(r"^slope +\[\] +\S+ ± \S+ +\S+ +3$", capsys.readouterr().out, re.M)


def test_a_sweep_says_which_run_failed_and_resumes_it(tmp_path, monkeypatch, capsys):
    options = ["--kill-at", "1", "--sweep", "seed=0", "--out", tmp_path / "out"]
    monkeypatch.chdir(TESTS)
    assert toys("line", *options) == 1  # a process of its own, which kills itself
    assert f"failed: {tmp_path}/out/seed=0\n" in capsys.readouterr().err
    assert toys("line", *options) == 0  # and continues when it is started again


def test_the_command_runs_as_a_module():
    done = command("-m", "experiments", "gradient_sn")
    assert done.returncode == 2
    assert "did you mean 'gradient_snr'?" in done.stderr
    assert "Traceback" not in done.stderr


def command(*arguments):
    """A Python of its own in the repository, as a person would start it."""
    line = [sys.executable, *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
