"""A check of far points for densities with an infinite integral."""

from concurrent.futures import Executor

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.compiling import bounded_jit
from lvm_jax.typing import Array, Distribution, Float, Key
from lvm_jax.vi.density import Density

FAR = (1e2, 1e4)  # standard deviations of q
DEEP = 30.0  # nats; a tail that far below q's draws has no effect on a fit
NUM_DRAWS, MAX_AXES, NUM_FLAT = 200, 200, 3


def improper_leaf(key: Key[Array, ""], density: Density, q: Distribution) -> str | None:
    """A message that names the leaf along which the density has an infinite integral, or None.

    Along a line from a draw of q the density must fall by 30 nats, or faster than 1 / distance. The
    lines are the axes (the 200 of the largest variance) and, for D <= 200, the three directions of
    the smallest curvature, at distances of 10^2 and 10^4 standard deviations. A line that passes
    does not prove a finite integral.
    """
    draws, base = map(np.asarray, _draw(key, q))
    if not np.isfinite(draws).all():
        return None
    lines = _lines(draws.astype(float), base, density)
    slopes = np.asarray(_slopes(base, np.asarray(lines, base.dtype), density))
    wrong = np.flatnonzero(slopes > -1)  # False for NaN
    if not wrong.size:
        return None
    line = lines[wrong[0]]
    leaf = density.leaf(int(np.argmax(np.abs(line))))
    return (
        f"log_density: expected a density with a finite integral, but along {leaf} it falls no "
        "faster than 1 / distance, and q drifts without end; give this leaf a proper prior, or "
        "leave it out of z"
    )


def compile_ahead(density: Density, pool: Executor) -> None:
    """Compile the evaluations of `improper_leaf` in a thread of the pool."""
    dim, dtype = density.dim, density.dtype
    base, number = np.zeros(dim, dtype), min(dim, MAX_AXES)
    if dim <= MAX_AXES:
        number += min(dim, NUM_FLAT)
        _hessian.compile_in(pool, base, density)
    _slopes.compile_in(pool, base, np.zeros((2 * number, dim), dtype), density)


def _lines(
    draws: Float[np.ndarray, "S D"], base: Float[np.ndarray, " D"], density: Density
) -> Float[np.ndarray, "L D"]:
    """Directions in the length of one standard deviation, of both signs."""
    scale = draws.std(0)
    axes = np.argsort(-scale, kind="stable")[:MAX_AXES]
    lines = np.zeros((axes.size, scale.size))
    lines[np.arange(axes.size), axes] = scale[axes]
    if scale.size <= MAX_AXES:
        curvature = np.asarray(_hessian(base, density), float) * np.outer(scale, scale)
        if np.isfinite(curvature).all():
            values, vectors = np.linalg.eigh(curvature)
            flat = vectors[:, np.argsort(np.abs(values))[:NUM_FLAT]].T * scale
            lines = np.concatenate([lines, flat])
    return np.stack([lines, -lines], 1).reshape(-1, scale.size)


@bounded_jit(lean=True)
def _draw(key: Key[Array, ""], q: Distribution) -> tuple[Array, Array]:
    """`NUM_DRAWS` draws of q, and one more."""
    key_draws, key_base = jax.random.split(key)
    draws = q.sample(seed=key_draws, sample_shape=(NUM_DRAWS,))
    return draws, q.sample(seed=key_base)


@bounded_jit(lean=True)
def _hessian(base: Float[Array, " D"], density: Density) -> Float[Array, "D D"]:
    return jax.hessian(density)(base)


@bounded_jit(lean=True)
def _slopes(
    base: Float[Array, " D"], lines: Float[Array, "L D"], density: Density
) -> Float[Array, " L"]:
    """d log p / d log distance between the two distances; -inf where the far one is deep."""
    centre = density(base)

    def slope(line: Array) -> Array:
        near, far = (density(base + distance * line) for distance in FAR)
        deep = ~(far > centre - DEEP)
        return jnp.where(deep, -jnp.inf, (far - near) / np.log(FAR[1] / FAR[0]))

    return jax.lax.map(slope, lines)
