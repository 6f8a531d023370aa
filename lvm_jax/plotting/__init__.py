"""Figures of mixtures, training, latent spaces and evidence, and the pieces that they are made of.

Whole figures, in one call each. They take results of the library, draw on the axis `ax` or, where
it is None, on a new figure, and return the figure: `figure.savefig("name.png")`.

    mixture             data and the mixture fitted to them, in one, two or more dimensions
    selection           a criterion against the number of components, a line for each family
    learning_curve      the bound by epoch, and averages with both errors
    latent_space        posterior means of the data in a plane of z
    traversals          images while one number of z moves
    weight_tail         the largest importance weights, and k-hat
    evidence_intervals  log p(x) by method, with intervals
    certificate         the intervals, modes and verdicts of `evidence.certify`
    gap_waterfall       log p(x) - ELBO, split into approximation and amortisation gap

Pieces take the axis first, draw on it and return None: points, ellipses, contours, images, scales,
captions, legends. Colours are Okabe and Ito's, for colour-blind readers; what differs in colour
differs in line, mark or name too. docs/plotting.md has a figure of most.
"""

from lvm_jax.plotting.certificates import certificate
from lvm_jax.plotting.criteria import selection
from lvm_jax.plotting.figures import (
    GREY,
    INK,
    LABEL_BOX,
    LEVELS,
    PALETTE,
    STYLES,
    caption_axes,
    colour,
    curves,
    finish,
    image,
    legend,
    legend_below,
    log_ticks,
    named_tiles,
    new_figure,
    png,
    signed_log,
    tiles,
    trace,
    whole_numbers,
)
from lvm_jax.plotting.inference import (
    evidence_intervals,
    gap_waterfall,
    weight_tail,
)
from lvm_jax.plotting.latents import latent_space, traversals
from lvm_jax.plotting.learning import learning_curve
from lvm_jax.plotting.mixtures import (
    assignment_entropy,
    classes,
    density,
    ellipse,
    ellipses,
    entropy_map,
    entropy_points,
    gaussian,
    grid,
    histogram,
    mixture,
    scatter,
)
from lvm_jax.plotting.planes import (
    Plane,
    Projection,
    coordinate_plane,
    principal_plane,
)

__all__ = [
    "GREY",
    "INK",
    "LABEL_BOX",
    "LEVELS",
    "PALETTE",
    "STYLES",
    "Plane",
    "Projection",
    "assignment_entropy",
    "caption_axes",
    "certificate",
    "classes",
    "colour",
    "coordinate_plane",
    "curves",
    "density",
    "ellipse",
    "ellipses",
    "entropy_map",
    "entropy_points",
    "evidence_intervals",
    "finish",
    "gap_waterfall",
    "gaussian",
    "grid",
    "histogram",
    "image",
    "latent_space",
    "learning_curve",
    "legend",
    "legend_below",
    "log_ticks",
    "mixture",
    "named_tiles",
    "new_figure",
    "png",
    "principal_plane",
    "scatter",
    "selection",
    "signed_log",
    "tiles",
    "trace",
    "traversals",
    "weight_tail",
    "whole_numbers",
]
