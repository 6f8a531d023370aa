"""The command line of the experiments: list them, explain one, or run one.

The list is read from the files' first lines and --help from a Config, so neither waits for jax.
"""

import ast
import dataclasses
import difflib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

USAGE = """usage: python -m experiments NAME [options]     run an experiment
       python -m experiments NAME --help        its options
       python -m experiments --traceback NAME   show where an error came from
"""


def available() -> dict[str, str]:
    """The experiments (modules with a Config and a main), each with its first line of docstring."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        defined = {getattr(node, "name", None) for node in tree.body}
        if {"Config", "main"} <= defined:
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def run(name: str, arguments: Sequence[str]) -> None:
    """Read the options of one experiment from the command line and run it."""
    from lvm_jax import extras

    with extras.needed("experiments"):
        import tyro

    module = importlib.import_module(f"experiments.{name}")
    program = f"python -m experiments {name}"
    config = tyro.cli(module.Config, args=list(arguments), prog=program, description=module.__doc__)
    from lvm_jax import compile_cache  # imports jax, which --help does not wait for

    compile_cache.enable()
    module.main(config)


def as_typed(message: str, name: str) -> str:
    """An error of the library with its argument named as the option: `path: ...` -> `--data: ...`.

    The readers of data call the option `path` or `name`; the other arguments are the Config's own.
    """
    argument, colon, rest = message.partition(": ")
    config = importlib.import_module(f"experiments.{name}").Config
    options = {field.name for field in dataclasses.fields(config)}
    if argument in ("path", "name"):
        argument = next((own for own in ("data", "dataset") if own in options), argument)
    return f"--{argument.replace('_', '-')}{colon}{rest}" if argument in options else message


def main(arguments: Sequence[str]) -> int:
    """Exit code 0 when it went well, 1 for refused input or a failed fit, 2 for a wrong name."""
    traceback = "--traceback" in arguments[:1]
    arguments = list(arguments[traceback:])
    experiments = available()
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, experiments))
        listed = "\n".join(f"  {name:{width}}  {line}" for name, line in experiments.items())
        print(f"{USAGE}\nexperiments:\n{listed}")
        return 0
    name = arguments[0].removesuffix(".py")
    if name not in experiments:
        near = difflib.get_close_matches(name, experiments, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        print(
            f"error: expected one of {', '.join(experiments)}, got {name!r}{hint}", file=sys.stderr
        )
        return 2
    try:
        run(name, arguments[1:])
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        if traceback:
            raise
        print(f"error: {as_typed(str(error), name)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; what was finished stays in the run directory", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
