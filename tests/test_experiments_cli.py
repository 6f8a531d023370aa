import dataclasses
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import __main__ as cli

ROOT = Path(__file__).parent.parent
NAMES = tuple(cli.available())


def test_the_list_has_every_experiment_with_its_first_line(capsys):
    assert cli.main([]) == 0
    listed = capsys.readouterr().out
    assert "gmm_em" in NAMES
    for name, line in cli.available().items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", listed, re.M)
        assert line == (importlib.import_module(f"experiments.{name}").__doc__ or "").split("\n")[0]


@pytest.mark.parametrize(("wrong", "right"), [("gmm_me", "gmm_em"), ("gmm-em.py", "gmm_em")])
def test_a_wrong_name_suggests_the_nearest(wrong, right, capsys):
    assert cli.main([wrong]) == 2
    error = capsys.readouterr().err
    assert f"did you mean {right!r}?" in error
    assert error.startswith("error: expected one of ")


@pytest.mark.parametrize("name", NAMES)
def test_help_explains_every_option(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    shown = re.sub(r"\W+", " ", capsys.readouterr().out)
    module = importlib.import_module(f"experiments.{name}")
    for field in dataclasses.fields(module.Config):
        assert f" {field.name.replace('_', ' ')} " in re.sub(r"[_-]", " ", shown)


def test_a_wrong_option_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["gmm_em", "--num-component", "3"])
    assert stop.value.code == 2
    assert "--num-component" in capsys.readouterr().err


BAD = {
    "name": (["--data", "old_faithfull"], "did you mean 'old_faithful'"),
    "file": (["--data", "missing.csv"], "missing.csv"),
    "restarts": (["--num-restarts", "0"], "num_restarts: expected an integer >= 1, got 0"),
    "folds": (["--num-folds", "1"], "num_folds: expected an integer >= 2, got 1"),
    "columns": (["--data", "old_faithful", "--columns", "eruptoin"], "did you mean 'eruption'"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_refused_input_is_one_line_and_exit_code_1(arguments, message, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["gmm_em", *arguments, "--out", str(out)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (out / "results.json").exists()


def test_traceback_shows_where_an_error_came_from(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'old_faithful'"):
        cli.main(["--traceback", "gmm_em", "--data", "old_faithfull"])


def test_the_module_runs_as_a_command():
    command = [sys.executable, "-m", "experiments", "gmm_me"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "did you mean 'gmm_em'?" in done.stderr
    assert "Traceback" not in done.stderr
