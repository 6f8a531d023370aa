import ast
import dataclasses
import importlib
import inspect
import itertools
import json
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


@pytest.fixture(scope="module")
def helps():
    """The help of every experiment, from one process; and whether that one has imported jax."""
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
print(json.dumps([shown, "jax" in sys.modules]))
"""
    done = command("-c", asked)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_help_explains_every_option(name, helps):
    shown = words(helps[0][name])
    module = importlib.import_module(f"experiments.{name}")
    described = descriptions(module.Config)
    for field in dataclasses.fields(module.Config):
        assert f" {words(field.name)} " in shown
        assert words(described[field.name]) in shown, field.name


def test_help_does_not_wait_for_jax(helps):
    assert not helps[1]


def words(text):
    return re.sub(r"[\W_]+", " ", text).strip()


def descriptions(config):
    """The string under each field, of the class and of those that it inherits from."""
    found = {}
    for owner in config.__mro__[-2::-1]:
        body = ast.parse(inspect.getsource(owner)).body[0].body
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                found[field.target.id] = text.value.value
    return found


def test_a_wrong_option_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["gmm_em", "--num-component", "3"])
    assert stop.value.code == 2
    assert "--num-components" in capsys.readouterr().err  # the nearest


BAD = {
    "name": (
        ["--data", "old_faithfull"],
        "--data: expected lecture, old_faithful, digits or the path of a table, got 'old_faithfull'; did you mean 'old_faithful'",
    ),
    "file": (["--data", "missing.csv"], "--data: no file missing.csv"),
    "restarts": (["--num-restarts", "0"], "--num-restarts: expected an integer >= 1, got 0"),
    "folds": (["--num-folds", "1"], "--num-folds: expected an integer >= 2, got 1"),
    "none": (["--max-components", "0"], "--max-components: expected an integer >= 1, got 0"),
    "few": (["--max-components", "800"], "expected at least 1600 rows to compare"),
    "negative": (["--regularization", "-1"], "--regularization: expected a finite number >= 0"),
    "columns": (["--data", "old_faithful", "--columns", "eruptoin"], "did you mean 'eruption'"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_refused_input_is_one_line_and_exit_code_1(arguments, message, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["gmm_em", *arguments, "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not out.exists()  # refused before anything was written


ROWS = "0,1\n1,2\n2,4\n" * 10
TABLES = {
    "empty": ("", [], "--data: expected a table of numbers, got an empty file"),
    "text": ("a,b\n" + ROWS + "1,two\n", [], "--data: expected numbers in column 'b'"),
    "hole": ("a,b\n" + ROWS + "1,\n", [], "1 in 'b'"),
    "few rows": ("a,b\n0,1\n1,2\n2,3\n3,5\n4,0\n", [], "at least 10 rows for 3 components and 5"),
    "constant": ("a\n" + "4\n" * 30, ["--standardize"], "got the constant 'a'"),
    "all equal": ("a,b\n" + "4,5\n" * 30, ["--num-components", "1"], "rows that differ, got 30"),
    "no variance": (
        "a,b\n" + "0,3\n1,3\n2,3\n" * 10,
        ["--regularization", "0"],
        "got constant columns [1]",
    ),
    "copies": (
        "a,b\n" + ROWS,
        ["--max-components", "4"],
        "4 distinct rows for 4 components, got 3",
    ),
    "only copy in a fold": (
        "a,b\n" + ROWS + "9,9\n",
        ["--num-components", "4"],
        "at least 4 distinct rows outside fold 1 of 5 for 4 components, but it holds every copy",
    ),
    "axes": ("a,b\n" + ROWS, ["--pca-dim", "3"], "dim: expected 1 to 2"),
}


@pytest.mark.parametrize(("content", "arguments", "message"), TABLES.values(), ids=TABLES)
def test_a_table_that_cannot_be_fitted_leaves_no_run_directory(
    content, arguments, message, tmp_path, capsys
):
    table, out = tmp_path / "table.csv", tmp_path / "run"
    table.write_text(content)
    assert cli.main(["gmm_em", "--data", str(table), *arguments, "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not out.exists()


def test_a_fit_that_fails_from_the_start_is_an_error_with_its_cure(tmp_path, capsys):
    table = tmp_path / "two.csv"
    table.write_text("a\n" + "0\n1\n" * 10)  # a component for each value has variance 0
    options = ["--num-components", "2", "--num-restarts", "1", "--regularization", "0"]
    arguments = ["gmm_em", "--data", str(table), *options, "--out", str(tmp_path / "run")]
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "raise --regularization or lower --num-components" in error


def test_traceback_shows_where_an_error_came_from(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'old_faithful'"):
        cli.main(["--traceback", "gmm_em", "--data", "old_faithfull"])


def test_the_module_runs_as_a_command():
    done = command("-m", "experiments", "gmm_me")
    assert done.returncode == 2
    assert "did you mean 'gmm_em'?" in done.stderr
    assert "Traceback" not in done.stderr


def command(*arguments):
    """A Python of its own in the repository, as a person would start it."""
    line = [sys.executable, *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
