"""The figure of the line."""

from lvm_jax import plotting


def slopes(result, colour="black"):
    figure, axes = plotting.new_figure()
    axes[0].plot([fit.slope for fit in result.fits], color=colour)
    return figure
