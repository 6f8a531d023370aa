"""The figures of the linear VAE, each as the bytes of a PNG file."""

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import linear_vae_exact as exact
from experiments import linear_vae_landscape as landscape
from lvm_jax import plotting
from lvm_jax.diagnostics import THRESHOLD

if TYPE_CHECKING:
    from experiments.linear_vae import Result, Run

BLUE, ORANGE, GREEN = plotting.PALETTE[:3]
FLOOR = 1e-6  # nats; float32 says nothing below
MOST_AXES = 12  # columns of W that are drawn


def draw(result: "Result") -> dict[str, bytes]:
    """Every figure by name, in the order of the report."""
    figures = {
        "training": training(result),
        **({"rotation": rotation(result)} if result.turns else {}),  # one unit: nothing to turn
        "axes": axes_found(result),
        "spectrum": spectrum(result),
        "units": units(result),
        "saddles": saddles(result),
    }
    return {name: plotting.png(figure) for name, figure in figures.items()}


def square_unit(result: "Result") -> str:
    """The unit of a variance, in brackets, or nothing."""
    return f" [({result.data.unit})²]" if result.data.unit else ""


def noise_label(result: "Result", run: "Run") -> str:
    """A run by its s2."""
    value = f"{run.noise_variance * result.data.scale**2:.3g}"
    return f"s² learned ({value})" if run.trained.given is None else f"s² = {value}"


def training(result: "Result") -> Any:
    """log p and the ELBO of the learned s2; what every run lacks of the optimum and of log p."""
    figure, (first, second, third, fourth) = plotting.new_figure(2, 2, width=5.6, height=3.9)
    shift, run = result.data.log_volume, result.runs[0]
    curve, top = run.trained.curve, float(run.exact.log_evidence) - shift
    first.plot(curve.step, curve.log_evidence - shift, "o-", ms=3, color=BLUE, label="log p(x)")
    first.plot(curve.step, curve.elbo - shift, "o-", ms=3, color=ORANGE, label="ELBO")
    first.axhline(top, color=plotting.INK, linestyle="--", linewidth=1.2, label="PPCA's log p(x)")
    plotting.caption_axes(first, "s² learned", ("step of Adam", "nats per point"))
    for index, each in enumerate(result.runs):
        curve, colour = each.trained.curve, plotting.colour(index)
        lacking = float(each.exact.log_evidence) - curve.log_evidence
        drawn = {"color": colour, "linewidth": 1.5, "marker": "o", "ms": 2.5}
        label = noise_label(result, each)
        second.plot(curve.step, np.maximum(lacking, FLOOR), label=label, **drawn)
        gap = curve.log_evidence - curve.elbo
        third.plot(curve.step, np.maximum(gap, FLOOR), label=label, **drawn)
    labels = ("step of Adam", "nats per point")
    plotting.caption_axes(second, "PPCA's log p(x) less the trained one", labels)
    plotting.caption_axes(third, "log p(x) − ELBO of the trained model", labels)
    for ax in (second, third):
        ax.set_yscale("log")
    for index, values in enumerate(run.trained.curve.active_variance.T):
        colour = plotting.colour(index)
        fourth.plot(
            run.trained.curve.step, values, color=colour, linewidth=1.4, label=f"{index + 1}"
        )
    plotting.caption_axes(
        fourth, "Activity of every unit, s² learned", ("step of Adam", "A = Var over x of E[z | x]")
    )
    highest = max(1.02, 1.05 * run.trained.curve.active_variance.max())
    fourth.set_ylim(-0.02, highest)
    for ax in (first, second, third, fourth):
        ax.set_xscale("log")
        ax.grid(alpha=0.25)
    for ax, place in ((first, "lower right"), (second, "lower left")):
        plotting.legend(ax, loc=place)
    plotting.legend(fourth, loc="lower right", ncols=4, title="unit", title_fontsize=8.5)
    return figure


def rotation(result: "Result") -> Any:
    """What turning two units costs, what neighbours cost, and how well the axes were found."""
    figure, (first, second, third) = plotting.new_figure(3, width=4.6, height=4.0)
    for index, turn in enumerate(result.turns):
        said, colour = f"units {turn.pair[0] + 1} and {turn.pair[1] + 1}", plotting.colour(index)
        inner = slice(1, -1)  # both ends are 0
        first.plot(turn.angle[inner], turn.gap[inner], color=colour, label=said)
        first.plot(turn.measured_angle[inner], turn.measured_gap[inner], "o", ms=5, color=colour)
    first.set_yscale("log")
    first.set_xticks([0, 15, 30, 45, 60, 75, 90])
    labels = ("angle between the two units [degrees]", "log p(x) − ELBO [nats per point]")
    plotting.caption_axes(first, "PPCA turned: log p(x) stays, the ELBO falls", labels)
    run = result.runs[0]
    number = len(run.trained.order)
    prices = landscape.turn_price(result.spectrum.values[:number])
    second.plot(np.arange(1, number) + 0.5, np.maximum(prices, FLOOR), "o", color=BLUE, ms=7)
    second.set_yscale("log")
    labels = ("between unit u and unit u + 1", "nats per point")
    plotting.caption_axes(second, "The price of 45° between neighbours", labels)
    at = np.arange(1, 1 + run.num_above)
    third.plot(
        at, run.trained_axes.cosines, "o", color=ORANGE, ms=7, label="trained, noisy gradients"
    )
    third.plot(
        at, run.ascended_axes.cosines, "+", color=plotting.INK, ms=9, label="ascent from there"
    )
    third.set_ylim(0, 1.05)
    labels = ("unit u", "|cosine| of column u of W with eigenvector u")
    plotting.caption_axes(third, "Are the axes principal?", labels)
    for ax in (second, third):
        ax.set_xlim(0.4, number + 0.6)
        number_units(ax, number)
    for ax in (first, second, third):
        ax.grid(alpha=0.25)
    plotting.legend(first, loc="lower center")
    plotting.legend(third, loc="lower left")
    return figure


def axes_found(result: "Result") -> Any:
    """The columns of W: PPCA's, the trained ones, and those of a run with collapsed units."""
    run, middle = result.runs[0], result.middle
    rows = [
        ("PPCA", run.best.loadings),
        ("trained", run.trained.theta.loadings),
        ("ascent", run.ascent.theta.loadings),
    ]
    if middle.trained.given is not None:
        said = noise_label(result, middle)
        rows += [(f"PPCA,\n{said}", middle.best.loadings)]
        rows += [(f"trained,\n{said}", middle.trained.theta.loadings)]
    rows = [(name, aligned(result, loadings)) for name, loadings in rows]
    if result.data.shape is None:
        return as_matrices(result, rows)
    number = min(rows[0][1].shape[1], MOST_AXES)
    figure, axes = plotting.new_figure(number, len(rows), width=1.05, height=1.15)
    for place, ax in enumerate(axes):
        row, column = divmod(place, number)
        name, loadings = rows[row]
        reach = max(np.abs(loadings).max(), FLOOR)
        pixels = loadings[:, column].reshape(result.data.shape)
        plotting.image(ax, pixels, -reach, reach)
        ax.images[0].set_cmap("RdBu_r")
        if row == 0:
            ax.set_title(f"unit {column + 1}", fontsize=9)
        if column == 0:
            ax.set_ylabel(name, fontsize=9)
    return figure


def aligned(result: "Result", loadings: np.ndarray) -> np.ndarray:
    """The columns of W with the sign, which is free, that their eigenvector has."""
    number = min(loadings.shape[1], result.spectrum.vectors.shape[1])
    signs = np.sign((result.spectrum.vectors[:, :number] * loadings[:, :number]).sum(0))
    return loadings[:, :number] * np.where(signs == 0, 1.0, signs) * result.data.scale


def as_matrices(result: "Result", rows: list[tuple[str, np.ndarray]]) -> Any:
    """W as a matrix of shades, one panel for each."""
    figure, axes = plotting.new_figure(len(rows), width=3.2, height=4.2)
    for ax, (name, loadings) in zip(axes, rows, strict=True):
        reach = max(np.abs(loadings).max(), FLOOR)
        extent = (0.5, loadings.shape[1] + 0.5, len(loadings) - 0.5, -0.5)
        shades = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach, "aspect": "auto"}
        drawn = ax.imshow(loadings, extent=extent, interpolation="nearest", **shades)
        figure.colorbar(drawn, ax=ax).set_label(f"loading{unit(result)}", parse_math=False)
        if len(result.data.columns) <= 20:
            ax.set_yticks(range(len(loadings)), result.data.columns, parse_math=False)
        plotting.caption_axes(ax, name.replace("\n", " "), ("unit", ""))
        number_units(ax, loadings.shape[1])
    return figure


def number_units(ax: Any, number: int) -> None:
    """Ticks at about ten of the units."""
    ax.set_xticks(range(1, number + 1, -(-number // 10)))


def unit(result: "Result") -> str:
    """The unit of the data, in brackets, or nothing."""
    return f" [{result.data.unit}]" if result.data.unit else ""


def spectrum(result: "Result") -> Any:
    """The eigenvalues with the noise variances, and how many units are active at each."""
    figure, (first, second) = plotting.new_figure(2, width=6.0, height=4.2)
    square, number = result.data.scale**2, len(result.runs[0].trained.order)
    values = result.spectrum.values * square
    shown = values[values > 1e-3 * values[0]][: 4 * number]
    at = np.arange(1, 1 + len(shown))
    first.plot(at, shown, "o-", ms=4, color=plotting.INK, label="eigenvalue of the covariance")
    for index, run in enumerate(result.runs):
        style = "--" if run.trained.given is None else "-"
        label = f"{noise_label(result, run)}: {run.num_above} units above"
        level = run.noise_variance * square
        first.axhline(level, color=plotting.colour(index), linestyle=style, lw=1.4, label=label)
    first.axvspan(0.5, number + 0.5, color=plotting.GREY, alpha=0.12, linewidth=0)
    first.set_yscale("log")
    first.set_xlim(0.5, len(shown) + 0.5)
    labels = ("eigenvalue (shaded: as many as units)", f"variance{square_unit(result)}")
    plotting.caption_axes(first, "The spectrum and the noise", labels)
    plotting.whole_numbers(first)
    first.set_ylim(bottom=min(shown.min(), result.runs[0].noise_variance * square) / 12)
    plotting.legend(first, loc="lower left")
    levels = [run.noise_variance * square for run in result.runs]
    low, high = min(*levels, values[number]) / 1.3, max(*levels, values[0]) * 1.3
    fine = np.geomspace(low, high, 600)
    counts = np.minimum((values[None] > fine[:, None]).sum(1), number)
    second.plot(fine, counts, color=plotting.INK, lw=1.5, label="eigenvalues above s², at most L")
    for index, run in enumerate(result.runs):
        drawn = {"color": plotting.colour(index), "ms": 9}
        mark = "D" if run.trained.given is None else "o"
        second.plot(run.noise_variance * square, run.trained.num_active, mark, **drawn)
    second.plot([], [], "o", color=plotting.GREY, ms=9, label="active units, trained, s² given")
    second.plot([], [], "D", color=plotting.GREY, ms=9, label="active units, trained, s² learned")
    second.set_xscale("log")
    labels = (f"noise variance s²{square_unit(result)}", f"units of {number}")
    plotting.caption_axes(second, "How many units stay active", labels)
    second.grid(alpha=0.25)
    plotting.legend(second, loc="lower left")
    return figure


def units(result: "Result") -> Any:
    """A_u and KL_u of every unit of every run against its eigenvalue over s2."""
    figure, (first, second) = plotting.new_figure(2, width=6.0, height=4.2)
    ratios = [ratio(result, run) for run in result.runs]
    low, high = min(map(np.min, ratios)), max(map(np.max, ratios))
    fine = np.geomspace(max(low / 1.3, 1e-3), high * 1.3, 500)
    said = ("1 − s²/λ, and 0", "½ log(λ/s²), and 0")
    laws = (exact.active_variance(fine, 1.0), exact.unit_kl(fine, 1.0))
    for ax, law, label in zip((first, second), laws, said, strict=True):
        ax.plot(fine, law, color=plotting.INK, linewidth=1.5, label=f"closed form: {label}")
        ax.axvline(1.0, color=plotting.GREY, linestyle=":", linewidth=1.2)
        ax.set_xscale("log")
        ax.grid(alpha=0.25)
    for index, (run, at) in enumerate(zip(result.runs, ratios, strict=True)):
        found = run.trained.measured
        drawn = {"color": plotting.colour(index), "ms": 5, "alpha": 0.85}
        label = noise_label(result, run)
        first.plot(at, np.diagonal(found.means), "o", label=label, **drawn)
        second.plot(at, found.kl_units, "o", label=label, **drawn)
    first.axhline(THRESHOLD, color=plotting.GREY, lw=1.0, ls="--", label="Burda's threshold, 0.01")
    labels = ("eigenvalue over noise, λ / s²", "A = Var over x of E[z | x]")
    plotting.caption_axes(first, "Activity of the trained units", labels)
    labels = (labels[0], "KL(q || prior) of a unit [nats per point]")
    plotting.caption_axes(second, "What each trained unit tells of x", labels)
    for ax in (first, second):
        plotting.legend(ax, loc="upper left")
    return figure


def ratio(result: "Result", run: "Run") -> np.ndarray:
    """lambda_u / s2 of the eigenvalue that each unit took."""
    return result.spectrum.values[: len(run.trained.order)] / run.noise_variance


def saddles(result: "Result") -> Any:
    """Curvatures at the stationary points, and log p along the way out of each."""
    figure, (first, second) = plotting.new_figure(2, width=6.0, height=4.2)
    noise, points = result.middle.noise_variance, result.saddles
    values = np.array([p.eigenvalue for p in points])
    fine = np.linspace(0, 1.08 * values.max(), 300)
    blocks = [np.array([[-1 / noise, v / noise], [v / noise, -v]]) for v in fine]
    steep = [np.linalg.eigvalsh(block)[-1] for block in blocks]
    curves = (
        ("log p(x)", (fine - noise) / noise**2, [p.curvature for p in points], BLUE),
        ("ELBO", np.array(steep), [p.elbo_curvature for p in points], ORANGE),
    )
    for name, law, dots, colour in curves:
        first.plot(fine / noise, law, color=colour, label=f"{name}, closed form")
        first.plot(values / noise, dots, "o", color=colour, label=f"{name}, by differentiation")
    first.axhline(0, color=plotting.INK, linewidth=1)
    first.axvline(1, color=plotting.GREY, linestyle=":", linewidth=1.2)
    labels = ("largest eigenvalue left out, over s²", "curvature [nats per (scaled unit of W)²]")
    plotting.caption_axes(first, "Up or down from each stationary point", labels)
    reach = np.linspace(-1.5, 1.5, 200) * np.sqrt(max(values.max() - noise, 0.1 * noise))
    for index, point in enumerate(points):
        v = noise + reach**2
        change = -0.5 * (np.log(v / noise) + point.eigenvalue * (1 / v - 1 / noise))
        label = f"{point.kept} kept, λ / s² = {point.eigenvalue / noise:.2f}"
        second.plot(reach, change, color=plotting.colour(index), label=label)
    second.axhline(0, color=plotting.INK, linewidth=1)
    labels = ("length of the empty column of W [scaled units]", "change of log p(x) [nats]")
    plotting.caption_axes(second, "log p(x) along the next eigenvector", labels)
    for ax in (first, second):
        ax.grid(alpha=0.25)
    plotting.legend(first, loc="upper left")
    plotting.legend(second, loc="lower center", ncols=2)
    return figure
