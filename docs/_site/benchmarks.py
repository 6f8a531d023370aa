"""Draw the ratios of benchmarks/README.md as bars, into docs/figures/benchmarks/."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from docs._site.pages import DOCS
from lvm_jax import plotting

RECORDED = DOCS.parent / "benchmarks" / "README.md"
OUT = DOCS / "figures" / "benchmarks"
Bars = list[tuple[str, str, float]]  # of a row: its label, the contestant, the ratio


def tables(heading: str) -> list[list[dict[str, str]]]:
    """The tables below a heading of the recorded benchmarks: a list of rows, by column."""
    text = (
        RECORDED.read_text(encoding="utf-8").partition(f"\n## {heading}")[2].partition("\n## ")[0]
    )
    found: list[list[dict[str, str]]] = []
    header: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
            found.append([])
        elif set(line) - set("|-: "):
            found[-1].append(dict(zip(header, cells, strict=True)))
    return found


def number(text: str) -> float:
    """A ratio as written, "19.1x"; NaN for a dash or a word."""
    try:
        return float(text.rstrip("x"))
    except ValueError:
        return float("nan")


def em() -> Bars:
    """Speed of an EM step over scikit-learn and gmmx."""
    return [
        (f"{row['covariance']}, {row['N, D, K']}", peer, number(row[f"vs {name}"]))
        for row in tables("EM")[0]
        if row["dtype"] == "float32"
        for peer, name in (("scikit-learn", "sklearn"), ("gmmx", "gmmx"))
    ]


def bounds() -> Bars:
    """Speed of importance-weighted evaluation over NumPyro, a loop and the bare products."""
    names = {"numpyro": "NumPyro", "unchunked": "loop by hand", "product": "bare products"}
    return [
        (f"S = {row['S']}", names[row["contestant"]], number(row["speed-up"]))
        for row in tables("Bounds")[0]
        if row["contestant"] in names
    ]


def training() -> Bars:
    """Speed of a training step over the peers and the bare products."""
    names = {
        "scan by hand": "scan by hand",
        "numpyro_elbo": "NumPyro",
        "flax": "flax example",
        "product": "bare products",
    }
    return [
        (
            f"k = {row['k']}, batch {row['batch']}",
            names[row["contestant"]],
            number(row["speed-up"]),
        )
        for row in tables("Training")[0]
        if row["contestant"] in names
    ]


def evidence() -> Bars:
    """Speed of annealed chains over the peers and the bare products."""
    names = {
        "AIS, TFP, recomputed": "TFP, corrected",
        "AIS by hand": "loop by hand",
        "product": "bare products",
    }
    return [
        ("1,000 temperatures", names[row["contestant"]], number(row["speed-up"]))
        for row in tables("Evidence")[1]
        if row["contestant"] in names
    ]


def draw(name: str, bars: Bars, title: str) -> None:
    """Horizontal bars on a logarithmic axis with a line at 1."""
    labels, peers = (list(dict.fromkeys(column)) for column in list(zip(*bars, strict=True))[:2])
    height = 0.8 / len(peers)
    figure, (ax,) = plotting.new_figure(width=7.0, height=1.3 + 0.24 * len(labels) * len(peers))
    for place, peer in enumerate(peers):
        ratios = [ratio_of(bars, label, peer) for label in labels]
        y = np.arange(len(labels)) + (place - (len(peers) - 1) / 2) * height
        colour = plotting.GREY if peer == "bare products" else plotting.colour(place)
        ax.barh(y, np.array(ratios) - 1, height * 0.9, left=1, color=colour, label=peer)
        for at, ratio in zip(y, ratios, strict=True):
            if np.isfinite(ratio):
                side = "left" if ratio >= 1 else "right"
                shift = 3 if ratio >= 1 else -3
                ax.annotate(
                    f"{ratio:.2g}", (ratio, at), (shift, 0), textcoords="offset points",
                    ha=side, va="center", fontsize=8,
                )  # fmt: skip
    ax.axvline(1, color=plotting.INK, linewidth=1)
    finish(ax, labels, [ratio for *_, ratio in bars], title)
    OUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT / f"{name}.png", dpi=100)


def ratio_of(bars: Bars, label: str, peer: str) -> float:
    """The ratio of this row and contestant; NaN where there is none."""
    return next((r for row, who, r in bars if (row, who) == (label, peer)), float("nan"))


def finish(ax: Any, labels: Sequence[str], ratios: Sequence[float], title: str) -> None:
    """Captions, the rows from top to bottom, and room for the numbers beside the bars."""
    low, high = min(0.9, np.nanmin(ratios)) / 1.25, max(1.1, np.nanmax(ratios)) * 1.3
    shown = [tick for tick in (0.25, 0.5, 0.7, 1, 2, 5, 10, 20, 50) if low <= tick <= high]
    plotting.finish(
        ax, title, ("times as fast as the contestant (log scale)", ""), "best",
        xscale="log", xlim=(low, high), yticks=range(len(labels)), yticklabels=labels,
    )  # fmt: skip
    ax.set_xticks(shown, [f"{tick:g}" for tick in shown])
    ax.minorticks_off()
    ax.invert_yaxis()


def main() -> None:
    """Write all of them."""
    draw("em", em(), "One EM step, float32, two CPU cores")
    draw("bounds", bounds(), "Importance-weighted evaluation of 1,000 points")
    draw("training", training(), "One training step of a VAE")
    draw("evidence", evidence(), "Annealed chains: 100 images, 16 chains")


if __name__ == "__main__":
    main()
