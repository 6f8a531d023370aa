"""The figures of the linear VAE."""

from typing import Any

import numpy as np

from experiments.linear_vae import exact
from experiments.linear_vae.measure import Result, Trial
from lvm_jax import plotting
from lvm_jax.diagnostics import THRESHOLD
from lvm_jax.problems import linear_vae

BLUE, ORANGE = plotting.PALETTE[:2]
FLOOR = 1e-6  # nats; smaller values are rounding in float32
MOST_AXES = 12  # columns of W that are drawn
ACTIVITY = "A = Var over x of E[z | x]"
RATIO = "eigenvalue over noise, λ / s²"


def label(trial: Trial) -> str:
    """The name of a trial by its s2."""
    value = f"{trial.optimum.noise_variance:.3g}"
    return f"s² learned ({value})" if trial.given_noise_variance is None else f"s² = {value}"


def training(result: Result) -> Any:
    """log p and ELBO for the learned s2; deficits of every training to the optimum and to log p."""
    figure, (first, second, third, last) = plotting.new_figure(2, 2, width=5.6, height=3.9)
    top, curve = result.trials[0].optimum.log_evidence, result.trials[0].trained.curve
    first.plot(curve.step, curve.log_evidence, "o-", ms=3, color=BLUE, label="log p(x)")
    first.plot(curve.step, curve.elbo, "o-", ms=3, color=ORANGE, label="ELBO")
    first.axhline(top, color=plotting.INK, linestyle="--", linewidth=1.2, label="PPCA's log p(x)")
    for index, trial in enumerate(result.trials):
        each, drawn = trial.trained.curve, {"color": plotting.colour(index), "lw": 1.5, "ms": 2.5}
        lacking = trial.optimum.log_evidence - each.log_evidence
        second.plot(each.step, np.maximum(lacking, FLOOR), "o-", label=label(trial), **drawn)
        third.plot(each.step, np.maximum(each.log_evidence - each.elbo, FLOOR), "o-", **drawn)
    for index, values in enumerate(curve.active_variance.T):
        last.plot(curve.step, values, color=plotting.colour(index), lw=1.4, label=f"{index + 1}")
    last.set_ylim(-0.02, max(1.02, 1.05 * curve.active_variance.max()))
    labels, log = ("step of Adam", "nats per point"), {"xscale": "log", "yscale": "log"}
    plotting.finish(first, "s² learned", labels, "lower right", xscale="log")
    plotting.finish(second, "PPCA's log p(x) less the trained one", labels, "lower left", **log)
    plotting.finish(third, "log p(x) − ELBO of the trained model", labels, **log)
    labels = (labels[0], ACTIVITY)
    plotting.finish(last, "Activity of every unit, s² learned", labels, xscale="log")
    plotting.legend(last, loc="lower right", ncols=4, title="unit", title_fontsize=8.5)
    return figure


def rotation(result: Result) -> Any:
    """log p - ELBO under rotations of two units and of neighbours, and the trained axes."""
    figure, (first, second, third) = plotting.new_figure(3, width=3.7, height=3.8)
    problem, fine, trial = result.problem, np.linspace(1, 89, 89), result.trials[0]
    values = problem.eigenvalues[: problem.latent_dim]
    for index, (pair, turned) in enumerate(result.turns.items()):
        name, colour = f"units {pair[0] + 1} and {pair[1] + 1}", plotting.colour(index)
        law = linear_vae.rotation_gap(*values[list(pair)], fine)
        first.plot(fine, law, color=colour, label=name)
        measured = [each.log_evidence_less_elbo for each in turned[1:-1]]  # 0 at both ends
        first.plot(exact.ANGLES[1:-1], measured, "o", ms=5, color=colour)
    gaps = np.maximum(linear_vae.rotation_gap(values[:-1], values[1:]), FLOOR)
    second.plot(np.arange(1, len(values)) + 0.5, gaps, "o", color=BLUE, ms=7)
    at = np.arange(1, 1 + trial.num_eigenvalues_above)
    third.plot(at, trial.trained.cosines, "o", color=ORANGE, ms=7, label="trained, noisy gradients")
    third.plot(at, trial.ascended.cosines, "+", color=plotting.INK, ms=9, label="ascent from there")
    first.set(yscale="log", xticks=exact.ANGLES)
    for ax in (second, third):
        ax.set_xlim(0.4, len(values) + 0.6)
        plotting.whole_numbers(ax)
    gap = "log p(x) − ELBO [nats per point]"
    labels = ("angle between the two units [degrees]", gap)
    plotting.finish(first, "PPCA rotated: the same log p(x), a lower ELBO", labels, "lower center")
    labels = ("between unit u and unit u + 1", gap)
    plotting.finish(second, "Neighbours rotated by 45°", labels, yscale="log")
    labels = ("unit u", "|cosine| of column u of W with eigenvector u")
    plotting.finish(
        third, "Alignment with the principal axes", labels, "lower left", ylim=(0, 1.05)
    )
    return figure


def axes(result: Result) -> Any:
    """Columns of W by PPCA, training and ascent; the first two also at the middle s2."""
    problem, middle = result.problem, result.problem.middle
    rows = {name: result.loadings[0][name] for name in ("PPCA", "trained", "ascent")}
    if middle:
        name = label(result.middle)
        rows |= {f"{key},\n{name}": result.loadings[middle][key] for key in ("PPCA", "trained")}
    number, shape = min(problem.latent_dim, MOST_AXES), problem.shape or (-1, 1)
    size = {"width": max(1.05, 7 / number), "height": 1.15 if problem.shape else 1.9}
    figure, panels = plotting.new_figure(number, len(rows), **size)
    for row, (name, loadings) in enumerate(rows.items()):
        signs = np.sign((problem.spectrum.vectors[:, :number] * loadings[:, :number]).sum(0))
        columns = loadings[:, :number] * np.where(signs == 0, 1.0, signs)
        reach = max(np.abs(columns).max(), FLOOR)
        for index, ax in enumerate(panels[row * number : (row + 1) * number]):
            plotting.image(ax, columns[:, index].reshape(shape), -reach, reach)
            ax.images[0].set_cmap("RdBu_r")
            ax.set_aspect("equal" if problem.shape else "auto")
            if row == 0:
                ax.set_title(f"unit {index + 1}", fontsize=9)
        first = panels[row * number]
        first.set_ylabel(name, fontsize=9)
        if problem.shape is None and len(loadings) <= 20:
            names = problem.dataset.columns
            first.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
    return figure


def spectrum(result: Result) -> Any:
    """The eigenvalues and noise variances, and the number of active units at each."""
    figure, (first, second) = plotting.new_figure(2, width=6.0, height=4.2)
    values, number = result.problem.eigenvalues, result.problem.latent_dim
    units = set(result.problem.dataset.units)
    unit = f" [({units.pop()})²]" if len(units) == 1 and units != {""} else ""
    shown = values[values > 1e-3 * values[0]][: 4 * number]
    levels = [trial.optimum.noise_variance for trial in result.trials]
    drawn = {"ms": 4, "color": plotting.INK, "label": "eigenvalue of the covariance"}
    first.plot(np.arange(1, 1 + len(shown)), shown, "o-", **drawn)
    for index, (level, trial) in enumerate(zip(levels, result.trials, strict=True)):
        style, mark = ("--", "D") if trial.given_noise_variance is None else ("-", "o")
        colour = plotting.colour(index)
        name = f"{label(trial)}: {trial.num_eigenvalues_above} units above"
        first.axhline(level, color=colour, linestyle=style, lw=1.4, label=name)
        second.plot(level, trial.trained.num_active, mark, color=colour, ms=9)
    first.axvspan(0.5, number + 0.5, color=plotting.GREY, alpha=0.12, linewidth=0)
    labels = ("eigenvalue (shaded: as many as units)", f"variance{unit}")
    limits = {"xlim": (0.5, len(shown) + 0.5), "ylim": (min(shown.min(), *levels) / 12, None)}
    plotting.finish(
        first, "The spectrum and the noise", labels, "lower left", yscale="log", **limits
    )
    plotting.whole_numbers(first)
    fine = np.geomspace(min(*levels, values[number]) / 1.3, max(*levels, values[0]) * 1.3, 600)
    counts = np.minimum((values[None] > fine[:, None]).sum(1), number)
    second.plot(fine, counts, color=plotting.INK, lw=1.5, label="eigenvalues above s², at most L")
    for mark, name in (("o", "given"), ("D", "learned")):
        kind = {"color": plotting.GREY, "ms": 9, "label": f"active units, trained, s² {name}"}
        second.plot([], [], mark, **kind)
    labels = (f"noise variance s²{unit}", f"units of {number}")
    plotting.finish(second, "Active units", labels, "lower left", xscale="log")
    return figure


def units(result: Result) -> Any:
    """A_u and KL_u of every unit of every training against its eigenvalue over s2."""
    figure, (first, second) = plotting.new_figure(2, width=6.0, height=4.2)
    values = result.problem.eigenvalues[: result.problem.latent_dim]
    ratios = [values / trial.optimum.noise_variance for trial in result.trials]
    fine = np.geomspace(max(np.min(ratios) / 1.3, 1e-3), np.max(ratios) * 1.3, 500)
    for trial, at, index in zip(result.trials, ratios, range(len(ratios)), strict=True):
        drawn = {"color": plotting.colour(index), "ms": 5, "alpha": 0.85, "label": label(trial)}
        first.plot(at, trial.trained.active_variance, "o", **drawn)
        second.plot(at, trial.trained.kl_units, "o", **drawn)
    laws = (linear_vae.active_variance(fine, 1.0), linear_vae.unit_kl(fine, 1.0))
    for ax, law, name in zip(
        (first, second), laws, ("1 − s²/λ, and 0", "½ log(λ/s²), and 0"), strict=True
    ):
        ax.plot(fine, law, color=plotting.INK, linewidth=1.5, label=f"closed form: {name}")
        ax.axvline(1.0, color=plotting.GREY, linestyle=":", linewidth=1.2)
        ax.set_xscale("log")
    first.axhline(THRESHOLD, color=plotting.GREY, lw=1.0, ls="--", label="Burda's threshold, 0.01")
    labels = (RATIO, ACTIVITY)
    plotting.finish(first, "Activity of the trained units", labels, "upper left")
    labels = (RATIO, "KL(q || prior) of a unit [nats per point]")
    plotting.finish(second, "Information about x in each trained unit", labels, "upper left")
    return figure


def saddles(result: Result) -> Any:
    """Curvatures at the stationary points, and log p along the next eigenvector."""
    figure, (first, second) = plotting.new_figure(2, width=6.0, height=4.2)
    points, problem = result.saddles, result.problem
    noise = result.middle.optimum.noise_variance / problem.scale**2
    values = np.array([point.eigenvalue for point in points])
    fine = np.linspace(0, 1.08 * values.max(), 300)
    steep = [np.linalg.eigvalsh(linear_vae.elbo_hessian(value, noise))[-1] for value in fine]
    for name, law, dots, colour in (
        ("log p(x)", (fine - noise) / noise**2, [p.curvature for p in points], BLUE),
        ("ELBO", steep, [p.elbo_curvature for p in points], ORANGE),
    ):
        first.plot(fine / noise, law, color=colour, label=f"{name}, closed form")
        first.plot(values / noise, dots, "o", color=colour, label=f"{name}, by differentiation")
    first.axvline(1, color=plotting.GREY, linestyle=":", linewidth=1.2)
    reach = np.linspace(-1.5, 1.5, 200) * np.sqrt(max(values.max() - noise, 0.1 * noise))
    for index, point in enumerate(points):
        variance = noise + reach**2
        change = np.log(variance / noise) + point.eigenvalue * (1 / variance - 1 / noise)
        name = f"{point.kept} kept, λ / s² = {point.eigenvalue / noise:.2f}"
        second.plot(reach, -0.5 * change, color=plotting.colour(index), label=name)
    for ax in (first, second):
        ax.axhline(0, color=plotting.INK, linewidth=1)
    labels = ("largest eigenvalue left out, over s²", "curvature [nats per (scaled unit of W)²]")
    plotting.finish(first, "Up or down from each stationary point", labels, "upper left")
    labels = ("length of the empty column of W [scaled units]", "change of log p(x) [nats]")
    plotting.finish(second, "log p(x) along the next eigenvector", labels)
    plotting.legend(second, loc="lower center", ncols=2)
    return figure
