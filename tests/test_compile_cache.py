"""Compiled programs on the disk: used by the next process, bounded, and never an error."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pooch
import pytest

from experiments import __main__ as cli
from lvm_jax import compile_cache

# In a process of its own: JAX decides once for each whether there is a cache.
PROGRAM = """
import sys
import jax
from experiments import __main__ as cli
from lvm_jax import compile_cache
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name.endswith("/cache_hits")))
folder = compile_cache.enable(sys.argv[1] if sys.argv[1:] else None)
print(folder)
print(jax.jit(lambda x: (x * 3 + 1).sum())(jax.numpy.arange(7.0)))
print(sum(hits))
"""


def start(*arguments, warnings="error", prelude="", **environment):
    """The folder, and the number of programs that were found, of a new process."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-W", f"{warnings}::UserWarning", "-c", prelude + PROGRAM, *map(str, arguments)],
        env=variables | environment, cwd=Path(__file__).parents[1],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    folder, value, hits = done.stdout.split()
    assert float(value) == 70.0
    return folder, int(hits)


def test_a_second_process_finds_the_programs_of_the_first(tmp_path):
    folder = tmp_path / "a" / "b"
    assert start(folder) == (str(folder), 0)
    written = sorted(entry.name for entry in folder.glob(compile_cache.FILES))
    assert written
    assert start(folder) == (str(folder), len(written))
    for name in written:  # as a kill leaves them, or another process that is still writing
        (folder / name).write_bytes((folder / name).read_bytes()[:-9])
    assert start(folder, warnings="ignore") == (str(folder), 0)


@pytest.mark.parametrize("variable", [{"JAX_ENABLE_COMPILATION_CACHE": "0"}, {}])
def test_off_or_unwritable_is_no_cache_and_no_error(tmp_path, variable):
    file = tmp_path / "file"
    file.write_text("")
    folder = tmp_path / "cache" if variable else file / "below"
    assert start(folder, **variable) == ("None", 0)
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_without_permission_is_no_cache(tmp_path):
    """As os.access answers for such a folder; for root it never does."""
    deny = "import os; os.access = lambda path, mode: not mode & os.W_OK"
    assert start(tmp_path, prelude=deny) == ("None", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_jax_has_already_is_kept(tmp_path):
    assert start(tmp_path / "b", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "a"))[0].endswith("/a")
    assert not (tmp_path / "b").exists()


def test_the_folder_is_in_the_users_cache():
    assert compile_cache.default_folder() == Path(pooch.os_cache("lvm_jax")) / "compiled"


def test_the_oldest_entries_go_first(tmp_path):
    for age, name in enumerate(["new-cache", "middle-cache", "old-cache"]):
        (tmp_path / name).write_bytes(bytes(7))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    (tmp_path / "other").write_bytes(bytes(100))
    for limit, left in [(21, 3), (20, 2), (14, 2), (13, 1), (6, 0)]:
        compile_cache.prune(tmp_path, limit)
        names = {entry.name for entry in tmp_path.iterdir()}
        assert names == {"other", *["new-cache", "middle-cache", "old-cache"][:left]}


def test_the_tests_have_a_cache():
    """Set by conftest.py before JAX was imported, here and for processes that tests start."""
    assert jax.config.jax_compilation_cache_dir == os.environ["JAX_COMPILATION_CACHE_DIR"]
    assert float(os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]) == 0


def test_the_command_line_switches_it_on(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(compile_cache, "enable", lambda: calls.append("on"))
    assert cli.main(["gmm_em", "--data", "no such data"]) == 1
    assert calls == ["on"]
    assert capsys.readouterr().err.startswith("error: ")
