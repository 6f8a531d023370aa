"""An account as tables, figures and one HTML page. Needs the `experiments` extra."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from lvm_jax.decomposition.account import Account, Row
from lvm_jax.estimate import Average, Estimate
from lvm_jax.report import Table, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = (0.01, 0.1, 0.5, 1.0, 2.0)  # betas in the table


def tables(account: Account) -> dict[str, Table]:
    """The account as tables, by name: gaps, kl, units, rate_distortion."""
    rows = account.as_rows()
    head = ("nats per data point", "mean", "95% Monte Carlo interval", "error over the data")
    return {
        "gaps": Table(head, [_line(row) for row in rows if row.part == "gap"]),
        "kl": Table(head, [_line(row) for row in rows if row.part == "KL to the prior"]),
        "units": _units(account),
        "rate_distortion": _rate_distortion(account),
    }


def _line(row: Row) -> tuple[str, ...]:
    value, error, over = row.mean
    low, high = Estimate(value, error).interval()
    interval = f"{low:.3f} to {high:.3f}"
    return row.quantity, f"{value:.3f}", interval, "" if np.isnan(over) else f"{over:.3f}"


def _units(account: Account) -> Table:
    """One row for every coordinate of z."""
    found, marks = account.surgery, account.calibration
    columns: dict[str, Any] = {
        "KL, nats": None if found.per_dimension is None else found.per_dimension.value,
        "A_u": None if account.active is None else account.active.variance,
        "mean of q(z)": found.mean.value,
        "of p(z)": found.prior_mean.value,
        "variance of q(z)": found.variance.value,
        "of p(z) ": found.prior_variance.value,
        "mean rank": marks.mean,
        "spread of ranks": marks.spread,
        "p-value": marks.p_value,
    }
    present = {name: _flat(tree) for name, tree in columns.items() if tree is not None}
    names = _names(found.mean.value)
    rows = [
        (name, *(_short(column[place]) for column in present.values()))
        for place, name in enumerate(names)
    ]
    return Table(("unit of z", *present), rows)


def _short(number: float) -> str:
    return "< 1e-6" if 0 <= number < 1e-6 else f"{number:.3g}"


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _names(tree: Any) -> list[str]:
    leaves = jax.tree.leaves(tree)
    if len(leaves) == 1:
        return [str(unit + 1) for unit in range(np.size(leaves[0]))]
    return [
        f"layer {layer + 1}, {unit + 1}"
        for layer, leaf in enumerate(leaves)
        for unit in range(np.size(leaf))
    ]


def _rate_distortion(account: Account) -> Table:
    """Rows of the guide, and of the curve at some betas."""
    curve, here = account.curve, account.channel
    betas = np.asarray(curve.betas)
    kept = sorted({int(np.abs(betas - beta).argmin()) for beta in SHOWN})
    rate, distortion = curve.rate.average(), curve.distortion.average()
    rows: list[tuple[str, ...]] = [
        ("guide", *_cells(here.rate.average()), *_cells(here.distortion.average()), "")
    ]
    for place in kept:
        ess = f"{float(np.median(curve.ess[:, place])):.0f}"
        pair = (jax.tree.map(lambda leaf, at=place: leaf[at], one) for one in (rate, distortion))
        cells = (cell for one in pair for cell in _cells(one))
        rows.append((f"beta = {betas[place]:.3g}", *cells, ess))
    head = ("", "rate, nats", "±", "distortion, nats", "±", "median ESS of the chains")
    return Table(head, rows)


def _cells(mean: Average) -> tuple[str, str]:
    return f"{float(mean.value):.3f}", f"{float(mean.monte_carlo_error):.3f}"


def report(account: Account, title: str = "The gap of the ELBO", lead: str = "") -> str:
    """The account as one HTML page that needs no other file."""
    template = Path(__file__).with_name("account.md").read_text(encoding="utf-8")
    gap, log_evidence = account.gaps.inference.average(), account.gaps.log_evidence.average()
    facts = [
        (f"{float(log_evidence.value):.2f}", "log p(x), nats"),
        (f"{float(gap.value):.2f}", "log p(x) - ELBO, nats"),
        (f"{float(account.surgery.mutual_information.value):.2f}", "mutual information, nats"),
    ]
    if account.active is not None:
        active, total = _flat(account.active.active), _flat(account.active.variance).size
        facts.append((f"{int(active.sum())} of {total}", "active units"))
    return render(
        template, title=title, lead=lead, main_numbers=facts, tables=tables(account),
        warnings=_warnings(account), plane=_plane(account), ranks=_ranks(account),
    )  # fmt: skip


def _warnings(account: Account) -> list[str]:
    """Sentences on the gaps that cannot be trusted."""
    notes = []
    doubted = int((~(np.asarray(account.gaps.k_hat) <= 0.7)).sum())
    if account.gaps.source == "importance" and doubted:
        notes.append(f"log p(x) is not reliable at {doubted} points: k-hat > 0.7.")
    for name, one in account.gaps.families.items():
        gain = one.gain.average()
        if float(gain.value) > 0.05 * abs(float(one.approximation.average().value)) + 0.01:
            notes.append(f"{name}: the end of the ascent gained {float(gain.value):.3f} nats.")
    return notes


def _plane(account: Account) -> Figure:
    from lvm_jax import plotting

    figure, (ax,) = plotting.new_figure(width=6.4)
    rate, distortion = account.curve.rate.average(), account.curve.distortion.average()
    here = account.channel.rate.average(), account.channel.distortion.average()
    # Betas near 0 have very large distortions and are not drawn.
    shown = np.asarray(rate.value) >= 0.02 * np.asarray(rate.value).max()
    x, y = np.asarray(distortion.value)[shown], np.asarray(rate.value)[shown]
    ax.plot(x, y, color=plotting.colour(0), label="best of all q")
    _mark_beta(ax, account, rate, distortion)
    at = float(here[1].value), float(here[0].value)
    along = at[1] * np.array([-0.6, 0.6])
    ax.plot(at[0] - along, at[1] + along, "--", color=plotting.GREY, label="R + D = -ELBO")
    ax.plot(*at, "o", color=plotting.colour(1), label="guide")
    plotting.caption_axes(
        ax, "Rate and distortion", ("distortion, nats per data point", "rate, nats per data point")
    )
    plotting.legend(ax)
    return figure


def _mark_beta(ax: Axes, account: Account, rate: Any, distortion: Any) -> None:
    """Mark beta = 1, the posterior, on the curve, if it is one of the betas."""
    from lvm_jax import plotting

    betas = np.asarray(account.curve.betas)
    place = int(np.abs(betas - 1).argmin())
    if abs(betas[place] - 1) < 0.01:
        at = float(distortion.value[place]), float(rate.value[place])
        ax.plot(*at, "s", color=plotting.colour(0), markersize=5, label="posterior (beta = 1)")


def _ranks(account: Account, most: int = 12) -> Figure:
    from scipy.stats import binom

    from lvm_jax import plotting

    leaves = [np.reshape(leaf, (leaf.shape[0], -1)) for leaf in _leaves(account)]
    counts = np.concatenate(leaves, axis=1)
    names = _names(account.calibration.p_value)[:most]
    columns = min(len(names), 4)
    figure, axes = plotting.new_figure(columns, -(-len(names) // columns), 2.6, 2.1, sharey=True)
    num_bins, total = counts.shape[0], int(counts[:, 0].sum())
    low, high = binom.interval(0.95, total, 1 / num_bins)
    for place, ax in enumerate(axes):
        if place >= len(names):
            ax.set_visible(False)
            continue
        ax.axhspan(low, high, color=plotting.GREY, alpha=0.3, linewidth=0)
        edges = np.arange(num_bins + 1) / num_bins
        ax.stairs(counts[:, place], edges, fill=True, color=plotting.colour(0), alpha=0.8)
        left = "simulations" if place % columns == 0 else ""
        plotting.caption_axes(ax, f"unit {names[place]}", ("rank / (L + 1)", left))
    return figure


def _leaves(account: Account) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(account.calibration.counts)]
