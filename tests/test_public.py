"""The public names of the library, in tests/public.txt: a change of them is seen in its diff.

python tests/test_public.py        # writes the file
"""

import inspect
from importlib import import_module
from pathlib import Path

import lvm_jax

LISTED = Path(__file__).with_name("public.txt")


def names():
    """lvm_jax.package.name of everything that a package exports, or that a module defines."""
    found = []
    for package in lvm_jax.__all__:
        module = import_module(f"lvm_jax.{package}")
        own = [
            name
            for name, value in vars(module).items()
            if name[0] != "_"
            and (inspect.isfunction(value) or inspect.isclass(value))
            and value.__module__ == module.__name__
        ]
        found += [f"{package}.{name}" for name in sorted(getattr(module, "__all__", own))]
    return found


def test_the_public_names_are_those_that_are_listed():
    assert names() == LISTED.read_text(encoding="utf-8").split()


if __name__ == "__main__":
    LISTED.write_text("\n".join(names()) + "\n", encoding="utf-8")
