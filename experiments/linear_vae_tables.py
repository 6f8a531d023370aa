"""The tables of the linear VAE's report."""

from typing import TYPE_CHECKING

import numpy as np

from experiments import linear_vae_exact as exact
from experiments.linear_vae_results import count_active, count_directions, noise_of
from lvm_jax.report import Table

if TYPE_CHECKING:
    from experiments.linear_vae import Result, Run


def short_of(run: "Run") -> float:
    """PPCA's log p less the ELBO of the trained model."""
    return float(run.exact.log_evidence - run.trained.measured.elbo)


def after(run: "Run") -> float:
    """The same after the ascent without noise."""
    return float(run.exact.log_evidence - run.ascended.elbo)


def identity(run: "Run") -> float:
    """log p less the ELBO at the closed form."""
    return float(run.exact.log_evidence - run.exact.elbo)


def variance(result: "Result", scaled: float) -> str:
    """A variance in the data's units."""
    return f"{scaled * result.data.scale**2:.4g}"


def named(result: "Result", run: "Run") -> str:
    """A run by its noise variance."""
    value = variance(result, run.noise_variance)
    return f"learned ({value})" if run.trained.given is None else value


def gap_table(result: "Result") -> Table:
    """What every training lacks, before and after the ascent."""
    rows, shift = [], result.data.log_volume
    for run in result.runs:
        found = run.trained.measured
        rows.append(
            (
                named(result, run),
                variance(result, noise_of(run.trained.theta)),
                f"{float(run.exact.log_evidence) - shift:.4f}",
                f"{float(run.exact.log_evidence - found.log_evidence):.1e}",
                f"{float(found.kl_posterior):.1e}",
                f"{after(run):.1e}",
                f"{float(run.ascended.log_evidence - run.ascended.elbo):.1e}",
                f"{run.ascent.num_steps:,}",
            )
        )
    header = (
        "s²", "s² trained", "PPCA's log p", "trained: log p lacks", "log p − ELBO",
        "after ascent: ELBO lacks", "log p − ELBO", "its steps",
    )  # fmt: skip
    said = (
        "Nats per point. The closed form of s², learned, is the mean of the discarded eigenvalues."
    )
    return Table(header, rows, said)


def count_table(result: "Result") -> Table:
    """Eigenvalues above s2 against active units."""
    rows = [
        (
            named(result, run),
            f"{run.num_above}",
            f"{run.trained.num_active}",
            f"{count_directions(run.trained.measured)}",
            f"{count_active(run.ascended)}",
        )
        for run in result.runs
    ]
    header = ("s²", "eigenvalues above (≤ L)", "active, trained", "directions", "active, ascent")
    said = (
        "Directions are the eigenvalues of the covariance of E[z | x] above 0.01, which no rotation "
        "of z changes."
    )
    return Table(header, rows, said)


def unit_table(result: "Result") -> Table:
    """A_u and KL_u of every unit at the middle noise variance."""
    run = result.middle
    values, noise = result.spectrum.values[: len(run.trained.order)], run.noise_variance
    columns = (
        exact.active_variance(values, noise),
        np.diagonal(run.trained.measured.means),
        exact.unit_kl(values, noise),
        run.trained.measured.kl_units,
    )
    rows = [
        (
            *(f"{index + 1}", variance(result, value), f"{value / noise:.3f}"),
            *(f"{column[index]:.4f}" for column in columns),
        )
        for index, value in enumerate(values)
    ]
    header = ("unit", "λ", "λ / s²", "A, exact", "A, trained", "KL, exact", "KL, trained")
    said = f"s² = {named(result, run)}; KL to the prior in nats per point, averaged over the data."
    return Table(header, rows, said)


def rotation_table(result: "Result") -> Table:
    """PPCA's maximum under several rotations."""
    rows = [
        (
            *(r.name, f"{r.log_evidence - result.data.log_volume:.6f}"),
            *(f"{r.log_evidence - r.elbo:.3e}", f"{r.gap:.3e}"),
        )
        for r in result.rotations
    ]
    return Table(
        ("the maximum of the likelihood, with", "log p(x)", "log p − ELBO", "closed form"),
        rows,
        "Best mean-field q of each: energy + entropy against the density of x, in float64.",
    )


def saddle_table(result: "Result") -> Table:
    """Curvatures at the stationary points, by differentiation and in closed form."""
    rows = [
        (
            *(f"{p.kept}", f"{p.below:.4f}", f"{p.eigenvalue / result.middle.noise_variance:.3f}"),
            *(f"{p.slope:.0e}", f"{p.curvature:+.6f}", f"{p.curvature_law:+.6f}"),
            *(f"{p.elbo_curvature:+.6f}", f"{p.elbo_curvature_law:+.6f}", f"{p.residual:.0e}"),
        )
        for p in result.saddles
    ]
    header = (
        *("kept", "nats below", "next λ / s²", "slope", "curvature of log p", "closed form"),
        *("of the ELBO", "closed form", "residual"),
    )
    said = (
        f"s² = {variance(result, result.middle.noise_variance)}. Slope: the largest entry of the gradient. "
        "Curvatures are of the scaled data, in nats."
    )
    return Table(header, rows, said)
