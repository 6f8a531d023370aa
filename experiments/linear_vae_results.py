"""What results.json of the linear VAE holds: every number in the data's own units."""

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import linear_vae_exact as exact
from experiments.linear_vae_exact import Measured
from lvm_jax.diagnostics import THRESHOLD

if TYPE_CHECKING:
    from experiments.linear_vae import Axes, Result, Run


def numbers(result: "Result") -> dict[str, Any]:
    """Everything that the report says, and what it was computed from."""
    data, square = result.data, result.data.scale**2
    return {
        "num_points": len(data.x),
        "dim": data.x.shape[1],
        "scale": data.scale,
        "eigenvalues": result.spectrum.values * square,
        "runs": [run_numbers(result, run) for run in result.runs],
        "rotations": [
            {
                "name": r.name,
                "log_evidence_less_elbo": r.log_evidence - r.elbo,
                "closed_form": r.gap,
            }
            for r in result.rotations
        ],
        "saddles": {
            "noise_variance": result.middle.noise_variance * square,
            "unit": "curvatures are of the data over `scale`",
            "points": result.saddles,
        },
    }


def run_numbers(result: "Result", run: "Run") -> dict[str, Any]:
    """One noise variance."""
    square, shift = result.data.scale**2, result.data.log_volume
    width, curve = len(run.trained.order), run.trained.curve
    values = result.spectrum.values[:width]
    return {
        "given_noise_variance": run.trained.given and run.trained.given * square,
        "num_eigenvalues_above": run.num_above,
        "optimum": {
            "noise_variance": run.noise_variance * square,
            **averages(run.exact, shift),
            "active_variance_law": exact.active_variance(values, run.noise_variance),
            "kl_units_law": exact.unit_kl(values, run.noise_variance),
        },
        "trained": {
            "noise_variance": noise_of(run.trained.theta) * square,
            "num_active": run.trained.num_active,
            **averages(run.trained.measured, shift),
            **axes_numbers(run.trained_axes),
            "curve": curve._replace(
                noise_variance=curve.noise_variance * square,
                log_evidence=curve.log_evidence - shift,
                elbo=curve.elbo - shift,
            ),
        },
        "ascended": {
            "noise_variance": noise_of(run.ascent.theta) * square,
            "num_steps": run.ascent.num_steps,
            "largest_slope": run.ascent.slope,
            "num_active": count_active(run.ascended),
            **averages(run.ascended, shift),
            **axes_numbers(run.ascended_axes),
        },
    }


def averages(found: Measured, shift: float) -> dict[str, Any]:
    """The averages over the data, in nats per point of the data as they came."""
    return {
        "log_evidence": found.log_evidence - shift,
        "elbo": found.elbo - shift,
        "kl_posterior": found.kl_posterior,
        "active_variance": np.diagonal(found.means),
        "kl_units": found.kl_units,
        "num_directions": count_directions(found),
    }


def axes_numbers(axes: "Axes") -> dict[str, Any]:
    """How the columns of W lie."""
    return {"cosines": axes.cosines, "subspace_angle_degrees": axes.subspace_angle}


def noise_of(theta: Any) -> float:
    """s2, in scaled units."""
    return float(np.exp(2 * theta.log_noise))


def count_active(found: Measured) -> int:
    """Units by Burda's criterion, from exact averages (over N, not N - 1)."""
    return int((np.diagonal(found.means) > THRESHOLD).sum())


def count_directions(found: Measured) -> int:
    """Eigenvalues of Cov_x(E[z | x]) above Burda's threshold, which no rotation of z changes.

    They are the active units of the z that is turned to its own axes.
    """
    return int((np.linalg.eigvalsh(found.means) > THRESHOLD).sum())
