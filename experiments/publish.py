"""What every experiment shares: its common options, and the writing of what it found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from experiments.run_directory import RunDirectory, plain
from lvm_jax.report import Block, Fact, Section, Text, mapping_table, render


@dataclass(frozen=True)
class Options:
    """Options that every experiment has."""

    seed: int = 0
    """Seed of every random number."""
    out: Path | None = None
    """Run directory; None means runs/<name>-<time>."""
    overwrite: bool = False
    """Replace an earlier run in --out."""


Page = tuple[str, str, Sequence[Fact], Sequence[Section]]  # title, lead, facts, sections


class Result(Protocol):
    """What an experiment found: its own numbers, and the options it ran with."""

    @property
    def config(self) -> Options:
        """The options, with the defaults filled in."""


R = TypeVar("R", bound=Result)


def publish(
    run: RunDirectory,
    result: R,
    numbers: Mapping[str, Any],
    draw: Callable[[R], Mapping[str, bytes]],
    page: Callable[[R, Mapping[str, bytes]], Page],
) -> None:
    """Write results.json, then draw and write figures/*.png and report.html; print where it lies.

    The numbers are on the disk before anything is drawn: an error in a figure loses no result.
    """
    from rich.console import Console

    provenance = run.provenance(result.config.seed)
    run.write_json("results.json", {**numbers, "provenance": provenance})
    figures = draw(result)
    for name, png in figures.items():
        run.write(f"figures/{name}.png", png)
    title, lead, facts, sections = page(result, figures)
    again: list[Block] = [
        Text(str(provenance["command"]), "code"),
        mapping_table(plain(result.config), "Configuration, with the defaults filled in."),
        mapping_table(provenance, "Provenance."),
    ]
    sections = [*sections, Section("To run it again", again)]
    footer = f"lvm_jax, {provenance['started']}"
    run.write("report.html", render(title, lead, facts, sections, footer))
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(f"report: {run.path / 'report.html'}", soft_wrap=True)
