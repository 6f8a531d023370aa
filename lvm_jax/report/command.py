"""The command line of a package of experiments: list, help, run, sweep and compare.

    python -m experiments NAME ...

for a package `experiments` whose `__main__.py` calls `main("experiments", sys.argv[1:])`. The list
and --help import no JAX: they read the first lines of the config.py files, and a Config.
"""

import ast
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from lvm_jax._core.nearest import suggestion
from lvm_jax.report.parsing import Runner, parse

USAGE = """usage: python -m {package} NAME [options]            run an experiment
       python -m {package} NAME --help               its options
       python -m {package} NAME --sweep A=1,2 B=x,y  a grid of runs, and their comparison
       python -m {package} runs [FOLDER]             the runs below a folder, by default runs/
       python -m {package} compare RUN RUN ... [--out FOLDER]
       python -m {package} --traceback ...           show the traceback of an error
"""


def main(package: str, arguments: Sequence[str]) -> int:
    """Run a command line and return the exit code.

    0 for success, 1 for invalid input, a failure or an unexpected number, 2 for an unknown name or
    option, 130 after Ctrl-C.
    """
    traceback = "--traceback" in arguments[:1]
    arguments = list(arguments[traceback:])
    experiments = available(package)
    if not arguments or arguments[0] in ("-h", "--help"):
        print_list(package, experiments)
        return 0
    name, rest = arguments[0].removesuffix(".py"), arguments[1:]
    if name in ("compare", "runs"):
        tool = import_module(f"lvm_jax.report.{name}").main
        return reported(lambda: tool(rest), (), traceback)
    if name not in experiments:
        return wrong_name(name, [*experiments, "compare", "runs"])
    config = import_module(f"{package}.{name}.config").Config
    own = [field.name for part in (config, Runner) for field in fields(part)]
    return reported(lambda: run(package, name, rest), own, traceback)


def available(package: str) -> dict[str, str]:
    """The experiments of a package, folders with a config.py: name, first line of its docstring."""
    found = {}
    for path in sorted(folder_of(package).glob("*/config.py")):
        try:
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        except SyntaxError as error:  # do not prevent the other experiments
            text = f"broken: line {error.lineno} of {path}: {error.msg}"
        found[path.parent.name] = text.partition("\n")[0]
    return found


def folder_of(package: str) -> Path:
    """The folder of a package; ModuleNotFoundError if there is none."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No package named {package!r}", name=package)
    return Path(next(iter(spec.submodule_search_locations)))


def print_list(package: str, experiments: Mapping[str, str]) -> None:
    """Print the usage and the experiments."""
    width = max(map(len, experiments), default=0)
    listed = "\n".join(f"  {name:{width}}  {line}" for name, line in experiments.items())
    sys.stdout.write(f"{USAGE.format(package=package)}\nexperiments:\n{listed}\n")


def wrong_name(name: str, names: Iterable[str]) -> int:
    """Print the valid names and the nearest one; return exit code 2."""
    names = list(names)
    hint = suggestion(name.lower(), names)
    sys.stderr.write(f"error: expected one of {', '.join(names)}, got {name!r}{hint}\n")
    return 2


def reported(work: Callable[[], int], options: Sequence[str], traceback: bool) -> int:
    """Call `work` and return its exit code; print an error as one line on standard error."""
    try:
        return work()
    except BrokenPipeError:  # the reader has closed the pipe, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        if traceback:
            raise
        sys.stderr.write(f"error: {format_error(error, options)}\n")
        return 1
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"\ninterrupted; {str(stop) or 'nothing was written'}\n")
        return 130


def format_error(error: Exception, options: Sequence[str]) -> str:
    """An error message in one line, with the option for the argument: `path: ...` -> `--data: ...`.

    The readers of data name their argument `path` or `name`; other names are fields of the Config.
    """
    message = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        message = f"{error.filename}: {error.strerror}"
    argument, colon, rest = message.partition(": ")
    if argument in ("path", "name"):
        argument = next((one for one in ("data", "dataset") if one in options), argument)
    return f"--{argument.replace('_', '-')}{colon}{rest}" if argument in options else message


def run(package: str, name: str, arguments: Sequence[str]) -> int:
    """Run one experiment, or a sweep of it; return 1 if a number is not in its expected range."""
    if "--sweep" in arguments:
        from lvm_jax.report.sweep import sweep

        return sweep(package, name, arguments)
    module = import_module(f"{package}.{name}.config")
    program = f"python -m {package} {name}"
    config, runner = parse(module.Config, program, module.__doc__ or "", arguments)
    config.check()
    import jax

    from lvm_jax import compile_cache
    from lvm_jax.report.runner import execute

    compile_cache.enable()
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", runner.x64)  # for all threads
    try:
        finished = execute(f"{package}.{name}", config, runner.out, runner.overwrite)
    finally:
        jax.config.update("jax_enable_x64", before)
    for check in finished.checks:
        verdict = "ok" if check.holds else "DIFFERS"
        sys.stdout.write(f"{verdict:8}{check.name}: {check.value:.6g}, expected {check.expected}\n")
    sys.stdout.write(f"report: {finished.path / 'report.html'}\n")
    return int(not all(check.holds for check in finished.checks))
