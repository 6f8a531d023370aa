"""Without an optional package the error names the extra that has it."""

import subprocess
import sys
from pathlib import Path

import pytest

from lvm_jax._core import extras

# In a Python of its own, where a package is blocked: None in sys.modules is "not installed".
MISSING = {
    "sklearn": ("sklearn", "import lvm_jax; lvm_jax.sklearn"),
    "jinja2": ("report", "from lvm_jax import report; report.render('')"),
    "markdown_it": ("report", "from lvm_jax import report; report.render('')"),
    "matplotlib": ("report", "from lvm_jax import report; report.equation('x')"),
    "matplotlib.figure": ("report", "from lvm_jax import plotting; plotting.new_figure()"),
    "numpyro": ("numpyro", "from lvm_jax import vi; vi.from_numpyro(None)"),
    "pymc": ("pymc", "from lvm_jax import vi; vi.from_pymc(None)"),
    "arviz": ("arviz", "from lvm_jax import vi; vi.to_arviz(None, None, 1)"),
    "tyro": (
        "experiments",
        "from lvm_jax.report.command import run; run('experiments', 'gmm_em', [])",
    ),
}
# One process imports what all need, and each package is missing in a copy of that process.
PROGRAM = f"""
import os, sys, lvm_jax.plotting, lvm_jax.report.command, lvm_jax.vi
for package, (_, code) in {MISSING}.items():
    assert package not in sys.modules, package
    if os.fork() == 0:
        sys.modules[package] = None
        try:
            exec(code)
        except ModuleNotFoundError as error:
            os.write(1, f"{{package}}: {{error}}\\n".encode())
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def errors():
    """The error of each missing package."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("package", MISSING)
def test_a_missing_package_names_its_extra(package, errors):
    assert errors[package].startswith(package)
    extra = MISSING[package][0]
    assert errors[package].endswith(f' is not installed; run: pip install "lvm_jax[{extra}]"')


def test_the_command_line_says_so_in_one_line(monkeypatch, capsys):
    from experiments import __main__ as cli

    monkeypatch.setitem(sys.modules, "tyro", None)
    assert cli.main(["gmm_em"]) == 1
    assert capsys.readouterr().err == (
        'error: tyro is not installed; run: pip install "lvm_jax[experiments]"\n'
    )


def test_a_fault_of_our_own_is_not_taken_for_a_missing_package():
    with (
        pytest.raises(ModuleNotFoundError, match="^No module named 'lvm_jax.nothing'$"),
        extras.needed("sklearn"),
    ):
        import lvm_jax.nothing  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name"), extras.needed("sklearn"):
        from math import nothing  # noqa: F401
