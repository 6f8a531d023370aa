"""What every experiment shares: its common options, and the writing of what it found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def publish(
    run: RunDirectory,
    config: Options,
    results: Mapping[str, Any],
    figures: Mapping[str, bytes],
    title: str,
    lead: str,
    facts: Sequence[Fact],
    sections: Sequence[Section],
) -> None:
    """Write figures/*.png, results.json and report.html, and print where the report lies."""
    from rich.console import Console

    for name, png in figures.items():
        run.write(f"figures/{name}.png", png)
    provenance = run.provenance(config.seed)
    run.write_json("results.json", {**results, "provenance": provenance})
    again: list[Block] = [
        Text(str(provenance["command"]), "code"),
        mapping_table(plain(config), "Configuration, with the defaults filled in."),
        mapping_table(provenance, "Provenance."),
    ]
    page = [*sections, Section("To run it again", again)]
    footer = f"lvm_jax, {provenance['started']}"
    run.write("report.html", render(title, lead, facts, page, footer))
    Console(highlight=False).print(f"report: {run.path / 'report.html'}", soft_wrap=True)
