"""The latent space of a trained model: where the data lie in it, and what each number of z does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import distributions
from lvm_jax._core import checks
from lvm_jax.compiling import bounded_jit
from lvm_jax.plotting.figures import GREY, axis_or_new, caption_axes, legend, named_tiles
from lvm_jax.plotting.mixtures import classes, gaussian
from lvm_jax.plotting.planes import Plane, Projection, column_names, find_plane
from lvm_jax.typing import (
    Array,
    ArrayLike,
    ConditionalDensity,
    Distribution,
    Float,
    Generative,
    PRNGKeyArray,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUM_DRAWS = 1_000  # of a prior that is not Gaussian


def latent_space(
    key: PRNGKeyArray,
    p: Generative,
    q: ConditionalDensity,
    x: Any,
    labels: ArrayLike | Sequence[Any] | None = None,
    *,
    projection: Projection | None = None,
    num_samples: int = 100,
    ax: Axes | None = None,
) -> Figure:
    """The posterior means E_q(z|x)[z] of the rows of x in a plane of z; returns the figure.

    Each class of `labels` has a colour, and its name at the median of its points. A Gaussian prior
    is drawn as ellipses that hold 50% and 90% of it, any other as 1,000 grey draws. Where classes
    overlap, the plane of z does not separate them; the model rarely generates points far outside
    the prior.

        plotting.latent_space(key, fit.p, fit.q, x, labels)

    x: rows [N, ...]. labels: [N], numbers or texts. z: one array [L], L >= 2; L > 2 needs a
    `projection`, "principal" (the main principal axes of the means), two numbers of z such as
    (0, 3), or a `Plane`. num_samples: draws for each mean of a q that has no closed form.

    Raises ValueError for labels that are not [N], a z that is not one array, L < 2, and L > 2
    without a `projection`; and as `diagnostics.posterior_means`.
    """
    from lvm_jax.diagnostics import posterior_means  # a figure of a mixture needs no evidence

    key_means, key_prior = jax.random.split(checks.key(key))
    means = np.asarray(_one_array(posterior_means(key_means, q, x, num_samples)))
    if labels is not None and np.shape(labels) != means.shape[:1]:
        raise ValueError(f"labels: expected shape [{len(means)}], got {np.shape(labels)}")
    plane = find_plane(means, projection, column_names(None, means.shape[1], "z"))
    figure, ax = axis_or_new(ax, width=5.8, height=5.4)
    _draw_prior(key_prior, ax, p.prior(), plane)
    classes(ax, plane.points(means), None if labels is None else np.asarray(labels))
    caption_axes(ax, "Posterior means in the latent space", plane.labels)
    legend(ax)
    return figure


def traversals(
    p: Generative,
    shape: tuple[int, int],
    *,
    span: tuple[float, float] = (-2.5, 2.5),
    num_steps: int = 9,
    units: Sequence[int] | None = None,
    base: ArrayLike | None = None,
    high: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Images E[x | z] while one number of z moves and the others stay; returns the figure.

    A row for each of `units`: z_u takes `num_steps` equal steps from span[0] to span[1]. A row
    whose images are all alike belongs to a number that the model does not use.

        plotting.traversals(fit.p, (8, 8))

    shape: height and width of an image. units: indices into z [L], the first ten unless given.
    base: the z [L] that the others keep; the mean of the prior unless given. high: the value drawn
    in black (0 is white); the largest of all images unless given.

    Raises ValueError for a z that is not one array [L], units that it does not have, a base of
    another shape, a prior without a closed mean and no base, and an x of another size than `shape`.
    """
    num_steps = checks.integer(num_steps, "num_steps", 2)
    base = _base(p.prior(), base)
    size = base.shape[0]
    chosen = list(range(min(size, 10)) if units is None else units)
    if not chosen or not all(0 <= unit < size for unit in chosen):
        raise ValueError(f"units: expected numbers from 0 to {size - 1}, got {chosen}")
    z = np.tile(base, (len(chosen), num_steps, 1))
    for row, unit in enumerate(chosen):
        z[row, :, unit] = np.linspace(*span, num_steps)
    pixels = np.asarray(_likelihood_means(p, jnp.asarray(z.reshape(-1, size))))
    if pixels[0].size != np.prod(shape):
        raise ValueError(f"shape: expected {pixels[0].size} pixels, as x has, got {shape}")
    figure, ax = axis_or_new(ax, width=1.0 + 0.6 * num_steps, height=0.7 + 0.6 * len(chosen))
    largest = float(pixels.max()) if high is None else checks.number(high, "high")
    names = [f"z{unit + 1}" for unit in chosen]
    named_tiles(ax, pixels.reshape(len(chosen), num_steps, *shape), names, largest)
    steps = (np.arange(num_steps) + 0.5) * (shape[1] + 1) - 1
    ends = [f"{end:g}".replace("-", "−") for end in span]
    ax.set_xticks(steps[[0, -1]], ends, fontsize=9)
    caption_axes(ax, "Mean of p(x | z) while one number of z moves", ("value of that number", ""))
    return figure


@bounded_jit()
def _likelihood_means(p: Generative, z: Float[Array, "M L"]) -> Array:
    return jax.vmap(lambda one: p.likelihood(one).mean())(z)  # type: ignore[attr-defined]


def _one_array(z: Any) -> Any:
    """Refuse a z that has several parts or is not [..., L]."""
    leaves = jax.tree.leaves(z)
    if len(leaves) != 1 or np.ndim(leaves[0]) != 2:
        shapes = [np.shape(leaf)[1:] for leaf in leaves]
        raise ValueError(f"q: expected a z that is one array of shape [L], got parts {shapes}")
    return leaves[0]


def _base(prior: Distribution, base: ArrayLike | None) -> Float[np.ndarray, " L"]:
    """The z from which one number is moved."""
    drawn = jax.eval_shape(lambda: prior.sample(seed=jax.random.key(0), sample_shape=(1,)))
    size = _one_array(drawn).shape[1]
    if base is not None:
        found = np.asarray(checks.float_array(base, "base"), np.float32)
        checks.shape(found, (size,), "base")
        return found
    parts = distributions.gaussian_parts(prior)
    if parts is None:
        raise ValueError(
            "base: expected a z [L], as this prior has no mean in closed form, got None"
        )
    return np.asarray(parts[0])


def _draw_prior(key: PRNGKeyArray, ax: Axes, prior: Distribution, plane: Plane) -> None:
    parts = distributions.gaussian_parts(prior)
    if parts is not None:
        mean, factor = (np.asarray(part) for part in parts)
        rotated = plane.axes @ factor
        gaussian(ax, plane.points(mean[None])[0], rotated @ rotated.T, "prior")
        return
    draws = np.asarray(prior.sample(seed=key, sample_shape=(NUM_DRAWS,)))
    label = f"prior, {NUM_DRAWS:,} draws"
    ax.plot(*plane.points(draws).T, ".", color=GREY, markersize=2, label=label, zorder=0)
