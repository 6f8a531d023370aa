"""What the linear VAE's report says that depends on how it went."""

from typing import TYPE_CHECKING

import numpy as np

from experiments import linear_vae_exact as exact
from experiments import linear_vae_landscape as landscape
from experiments.linear_vae_tables import after, named
from lvm_jax.diagnostics import THRESHOLD
from lvm_jax.report import Block, Text

if TYPE_CHECKING:
    from experiments.linear_vae import Result


def ending(result: "Result") -> str:
    """How far the ascents have come."""
    left = max(after(run) for run in result.runs)
    if left < 1e-9:
        return "Every one of them ends at PPCA's log p(x) to rounding, and the gap is closed."
    return (
        f"Within --ascent-steps {result.config.ascent_steps:,} they come to {left:.1e} nats of it or "
        "nearer, and have not all ended."
    )


def axes_said(result: "Result") -> str:
    """How well the axes were found, in words."""
    run, number = result.runs[0], len(result.runs[0].trained.order)
    if result.config.guide == "full_rank":
        return (
            "The guide of this run has a full covariance: its ELBO is log p(x) for every R, nothing "
            "breaks the symmetry, and the axes that were found mean nothing. The span of W does: it "
            f"is {run.trained_axes.subspace_angle:.2g}° from the principal subspace, and "
            f"{run.ascended_axes.subspace_angle:.1g}° after the ascent."
        )
    prices = landscape.turn_price(result.spectrum.values[:number])
    cheap = "" if not len(prices) else f", as little as {prices.min():.1e} nats for a turn of 45°"
    return (
        f"With s² learned the trained W spans the principal subspace to "
        f"{run.trained_axes.subspace_angle:.2g}°, while its columns have cosines of "
        f"{run.trained_axes.cosines.min(initial=1):.3f} to "
        f"{run.trained_axes.cosines.max(initial=0):.3f} with the eigenvectors. The likelihood "
        "holds the subspace; the axes are held only by the price of a "
        f"turn{cheap}, so that under noisy gradients they settle last. After the ascent without "
        f"noise, {run.ascent.num_steps:,} steps on, every cosine is at least "
        f"{np.floor(1e6 * run.ascended_axes.cosines.min(initial=1)) / 1e6:.6f}."
    )


def differing(result: "Result") -> list[Block]:
    """The trainings whose count is another, and by how much their units miss the threshold."""
    said = []
    for run in result.runs:
        if run.trained.num_active == run.num_above or result.config.guide == "full_rank":
            continue
        activity = np.diagonal(run.trained.measured.means)
        law = exact.active_variance(result.spectrum.values[: len(activity)], run.noise_variance)
        wrong = np.flatnonzero((activity > THRESHOLD) != (law > 0))
        units = ", ".join(f"unit {u + 1} with A = {activity[u]:.4f}" for u in wrong)
        said.append(
            f"at s² = {named(result, run)}, {units} (exact: {', '.join(f'{law[u]:.4f}' for u in wrong)})"
        )
    if not said:
        return []
    text = (
        f"On the other side of the threshold than the eigenvalues say: {'; '.join(said)}. The "
        "ascent's count tells whether noise and the length of the training were the reason, or an "
        "eigenvalue within 1% of s²."
    )
    return [Text(text, "note")]


def turned_note(result: "Result") -> list[Block]:
    """What Burda's criterion says where nothing holds the axes."""
    if result.config.guide != "full_rank":
        return []
    said = (
        "With a full covariance the units are turned arbitrarily, and Burda's criterion counts "
        "them as active one by one although fewer directions carry anything: count directions."
    )
    return [Text(said, "note")]


def collapsed_for_good(result: "Result") -> str:
    """What the last point says, where it is the optimum."""
    if result.saddles[-1].curvature >= 0:
        return ""
    return (
        " With every eigenvalue above s² in use (the last row) an empty unit has no way up: it stays "
        "collapsed, and should."
    )
