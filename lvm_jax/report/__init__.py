"""Runs of experiments and their pages: validated options, run directories, Markdown to HTML.

A name is imported at its first use, so that `--help` of an experiment does not import NumPy.
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers assume True
if TYPE_CHECKING:
    from lvm_jax.report.certificates import certificate
    from lvm_jax.report.directory import Directory, plain
    from lvm_jax.report.options import Options, above, at_least, between, inside
    from lvm_jax.report.page import Page, Table, equation, render
    from lvm_jax.report.points import point_ids
    from lvm_jax.report.run import Run, opened
    from lvm_jax.report.runner import Check, Finished, execute, near

__all__ = [
    "Check",
    "Directory",
    "Finished",
    "Options",
    "Page",
    "Run",
    "Table",
    "above",
    "at_least",
    "between",
    "certificate",
    "equation",
    "execute",
    "inside",
    "near",
    "opened",
    "plain",
    "point_ids",
    "render",
]
_MODULES = {
    "certificates": ("certificate",),
    "directory": ("Directory", "plain"),
    "options": ("Options", "above", "at_least", "between", "inside"),
    "page": ("Page", "Table", "equation", "render"),
    "points": ("point_ids",),
    "run": ("Run", "opened"),
    "runner": ("Check", "Finished", "execute", "near"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
