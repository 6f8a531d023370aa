"""The words and tables of the table's report."""

import math
from typing import TYPE_CHECKING

import numpy as np

from experiments.iwae_table_cells import MEAN_SAMPLES, Record, summary
from experiments.iwae_table_figures import common_points, label
from experiments.iwae_table_models import BATCH_SIZE, short_rate
from lvm_jax.evidence import Summary
from lvm_jax.report import Block, Equation, Fact, Picture, Section, Table, Text

if TYPE_CHECKING:
    from experiments.iwae_table import Cell, Result

COLUMNS = ("", "k", "layers")
Page = tuple[str, str, list[Fact], list[Section]]
Published = dict[tuple[str, int, int], float]  # objective, k, layers -> test log p

# Burda et al. (2016), after all eight stages, k = 5,000. Only what could be checked against a second
# source is here; the other entries of their tables are left out.
PUBLISHED: dict[str, Published] = {
    "mnist": {
        ("vae", 1, 1): -86.76, ("vae", 5, 1): -86.47, ("vae", 50, 1): -86.35,
        ("iwae", 5, 1): -85.54, ("iwae", 50, 1): -84.78,
        ("vae", 1, 2): -85.33, ("vae", 5, 2): -85.01, ("vae", 50, 2): -84.78,
        ("iwae", 5, 2): -83.89, ("iwae", 50, 2): -82.90,
    },
    "binarized_mnist": {
        ("vae", 1, 1): -88.71, ("iwae", 5, 1): -87.63, ("iwae", 50, 1): -87.10,
    },
}  # fmt: skip


def published(dataset: str, cell: "Cell") -> float | None:
    """The paper's log p of a cell, whatever schedule ours had."""
    known = PUBLISHED.get(dataset, {})
    return known.get((cell.objective, cell.num_samples, cell.num_layers))


def page(result: "Result", figures: dict[str, bytes]) -> Page:
    """Title, lead, facts and sections."""
    facts = [
        Fact(
            f"{done.log_evidence:.2f} ± {done.sampling_error:.2f}",
            f"nats per test image, {label(last.cell)} ({last.told}){flag(done)}",
        )
        for last, done in best(result)
    ]
    lead = (
        "The bound of k draws is tighter than the ELBO, asks less of q, and lets the model keep "
        "more units of z. How much this brings was first measured in this table."
    )
    sections = [
        Section("The table", table_blocks(result)),
        Section("Against the VAE, image by image", paired_blocks(result)),
        Section("The cost of training", cost_blocks(result, figures)),
        Section("The units that are used", unit_blocks(result, figures)),
    ]
    return f"VAE and IWAE: {result.config.dataset}", lead, facts, sections


def flag(done: Summary) -> str:
    """Says where the Monte-Carlo error is not to be trusted; nothing where every image is."""
    if not done.num_untrusted:
        return ""
    return f"; NOT RELIABLE at {done.num_untrusted:,} of {done.num_points:,} images"


def best(result: "Result") -> list[tuple[Record, Summary]]:
    """Of each schedule and number of layers the cell with the highest log p."""
    found: dict[tuple[str, int], tuple[Record, Summary]] = {}
    for records in result.records:
        last, done = records[-1], summary(records[-1].evidence)
        kind = (last.cell.schedule, last.cell.num_layers)
        if kind not in found or done.log_evidence > found[kind][1].log_evidence:
            found[kind] = (last, done)
    return list(found.values())


def table_blocks(result: "Result") -> list[Block]:
    """The objective, the data and the table."""
    config = result.config
    blocks: list[Block] = [
        Equation(
            r"L_k = E_{z_1 \ldots z_k \sim q}\left[\log \frac{1}{k} \sum_{s=1}^{k} "
            r"\frac{p(x, z_s)}{q(z_s\,|\,x)}\right]"
        ),
        Text(
            f"IWAE climbs L_k, and VAE the ELBO averaged over k draws; at k = 1 they are one. "
            f"{result.source[0].upper()}{result.source[1:]}."
        ),
        Text(schedule_text(result), "note"),
        main_table(result),
    ]
    if config.dataset == "digits":
        told = "The paper has no such numbers: the 8x8 digits are for a quick look."
        blocks.append(Text(told, "note"))
    return blocks


def schedule_text(result: "Result") -> str:
    """What the schedules are, and that a part of one is a part."""
    config, cells = result.config, [records[0].cell for records in result.records]
    used = {cell.schedule for cell in cells}
    size = {name: config.batch_size or BATCH_SIZE[name] for name in BATCH_SIZE}
    parts = []
    if "burda" in used:
        parts.append(
            f"The paper's schedule: batches of {size['burda']}, stages i = 0, ..., 7 of 3^i epochs, "
            "Adam at 0.001 · 10^(-i/7), 3,280 epochs in all. A cell that had fewer stages is "
            "trained less than the paper's, and its log p is no reproduction of the published one."
        )
    if "short" in used:
        rates = {c.num_layers: short_rate(c, config) for c in cells if c.schedule == "short"}
        layers = {1: "one layer", 2: "two layers"}
        told = [f"{rates[number]:g} ({layers[number]})" for number in sorted(rates)]
        parts.append(
            f"The short schedule is not the paper's: {config.short_epochs} epochs in batches of "
            f"{size['short']}, Adam from {' and '.join(told)} down to 0 as a cosine, gradients "
            "by STL (VAE) or DReG (IWAE)."
        )
    return " ".join(parts)


def main_table(result: "Result") -> Table:
    """Ours beside the published, with both errors."""
    rows, config = [], result.config
    for records in result.records:
        last, cell = records[-1], records[-1].cell
        done, paper = summary(last.evidence), published(config.dataset, cell)
        rows.append(
            [
                *columns(cell),
                last.told,
                f"{done.log_evidence:.2f}",
                f"{done.monte_carlo_error:.3f}",
                f"{done.sampling_error:.2f}",
                f"{done.num_untrusted:,} of {done.num_points:,}",
                "+".join(map(str, last.trained.active)),
                "" if paper is None else f"{paper:.2f}",
            ]
        )
    header = (
        *COLUMNS, "trained", "log p", "± Monte Carlo", "± sampling", "not reliable", "active units",
        "published (8 of 8)",
    )  # fmt: skip
    note = (
        f"log p of test images, nats per image, by importance sampling with "
        f"{config.evaluation_samples:,} draws: a lower bound in expectation. The Monte-Carlo error "
        "is that of the draws; the sampling error that of another test set of this size. Not "
        "reliable: images whose weights are too heavy-tailed (Pareto k-hat above 0.7) or too few "
        "in effect; their log p is likely too low by more than the Monte-Carlo error. "
        f"{subset_text(result)} Published: Burda et al. (2016), 10,000 test images and 5,000 draws."
    )
    return Table(header, rows, note)


def columns(cell: "Cell") -> list[str]:
    """Objective, k and number of layers."""
    objective = "IWAE" if cell.objective == "iwae" else "VAE"
    if cell.num_samples == 1:
        objective = "VAE = IWAE"
    return [objective, f"{cell.num_samples}", f"{cell.num_layers}"]


def cost_table(result: "Result") -> Table:
    """What each cell took."""
    rows = []
    for records in result.records:
        last, done = records[-1], summary(records[-1].evidence)
        rows.append(
            [
                *columns(last.cell),
                last.told,
                f"{last.trained.epochs:,}",
                f"{last.trained.step:,}",
                f"{last.trained.seconds / 60:.1f}",
                f"{last.trained.bound:.2f}",
                f"{done.num_points:,}",
            ]
        )
    header = (
        *COLUMNS, "trained", "epochs", "steps", "minutes", "bound", "images measured",
    )  # fmt: skip
    note = (
        "Minutes of training on this machine. bound: the training objective, averaged over the last "
        "epoch."
    )
    return Table(header, rows, note)


def subset_text(result: "Result") -> str:
    """Whether all test images were measured."""
    sizes = {len(records[-1].evidence.log_evidence) for records in result.records}
    if sizes == {result.num_test}:
        return f"All {result.num_test:,} test images."
    return (
        f"Where fewer than all {result.num_test:,} test images were measured, they are a random "
        "subset, the same for every cell."
    )


def paired_blocks(result: "Result") -> list[Block]:
    """Differences to the VAE with k = 1, after as many epochs of the same schedule."""
    rows = []
    for records in result.records:
        cell = records[0].cell
        for base in result.records:
            if base[0].cell == cell._replace(objective="vae", num_samples=1) != cell:
                row = difference(records, base)
                rows += [] if row is None else [row]
    if not rows:
        told = "It takes the VAE with k = 1 and another cell of its schedule and layers."
        return [Text(told)]
    note = (
        "log p of the cell less that of the VAE with k = 1, on the same images with the same random "
        "numbers: mean ± standard error over the images, which is far below that of either mean. "
        "At the last milestone that both have."
    )
    header = ("cell", "epochs", "images", "log p less the VAE's")
    return [Table(header, rows, note)]


def difference(records: list[Record], base: list[Record]) -> list[str] | None:
    """A row of the paired table, or None if the two have no milestone in common."""
    both = {r.trained.epochs: r for r in records}
    shared = [(both[r.trained.epochs], r) for r in base if r.trained.epochs in both]
    if not shared:
        return None
    mine, theirs = shared[-1]
    num = min(len(r.evidence.log_evidence) for r in (mine, theirs))
    gap = np.subtract(*(r.evidence.log_evidence[:num].astype(np.float64) for r in (mine, theirs)))
    error = gap.std(ddof=1) / math.sqrt(num) if num > 1 else math.nan
    cells = [label(mine.cell), f"{mine.trained.epochs:,}", f"{num:,}"]
    return [*cells, f"{gap.mean():+.3f} ± {error:.3f}"]


def cost_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The curves, and what each cell took."""
    caption = (
        f"log p of the first {common_points(result):,} test images of one random order, after each "
        "stage: the same images everywhere, so that curves compare more sharply than any of them "
        "is known. Colour: objective and k; solid one layer, dashed two; open squares: the short "
        "schedule, whose last point alone has its small learning rate."
    )
    return [Picture(figures["training"], caption), cost_table(result)]


def unit_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The spectra."""
    caption = (
        "The variance over the test images of the posterior mean of each unit, sorted; a unit is "
        "active above 0.01 (dotted). The prior's variance is 1."
    )
    blocks: list[Block] = [
        Equation(r"A_u = \mathrm{Var}_x\left(E_{q(z|x)}[z_u]\right)"),
        Picture(figures["units"], caption),
    ]
    if any(records[0].cell.num_layers == 2 for records in result.records):
        told = (
            f"E[z_2] averages the means that {MEAN_SAMPLES} draws of z_1 give; the draws of z_2 "
            "themselves would put 1 / draws on the variance of a unit that is not used."
        )
        blocks.append(Text(told))
    return blocks
