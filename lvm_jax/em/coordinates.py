"""Unconstrained coordinates of Gaussian components, for the acceleration of EM."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lvm_jax.em.families import ExponentialFamily, like
from lvm_jax.typing import Array, Float


class Whitened(ExponentialFamily):
    """The coordinates of `Gaussian`: whitened by the components `at`."""

    scale_axis: ClassVar[int | None] = 0
    complete: Callable[[Any], Any]  # these two of Gaussian
    whiten_one: Callable[[Array, Array], Array]

    def unconstrain(self, components: Any, at: Any, size: Array) -> Any:
        """Whitened means, and logarithms of whitened scales: see `free_scale_one`."""
        mean, scale, low = self.complete(components)
        origin, unit, rest = self.complete(at)
        dim, axis = mean.shape[1], self.scale_axis
        moved = ((mean - origin) + (low - rest))[:, None]
        white = jax.vmap(self.whiten_one, (axis, 0))(unit, moved)[:, 0]
        free = partial(self.free_scale_one, dim=dim)
        if axis is None:  # the weights of all components add to 1
            return at._replace(
                deviations=white * size[:, None], scale=free(scale, unit), remainder=None
            )
        scale = jax.vmap(free)(scale, unit)
        scale = scale * like(size, scale)
        return at._replace(deviations=white * size[:, None], scale=scale, remainder=None)

    def constrain(self, free: Any, at: Any, size: Array) -> Any:
        """Means without remainder, and scales."""
        origin, unit, rest = self.complete(at)
        dim, axis = origin.shape[1], self.scale_axis
        moved = jax.vmap(self.colour_one, (axis, 0))(unit, free.deviations / size[:, None])
        bound = partial(self.bound_scale_one, dim=dim)
        if axis is None:
            scale = bound(free.scale, unit)
        else:
            scale = jax.vmap(bound)(free.scale / like(size, free.scale), unit)
        mean = origin + (rest + moved)
        return at._replace(deviations=mean, scale=scale, remainder=jnp.zeros_like(mean))

    def free_scale_one(self, scale: Array, unit: Array, dim: int) -> Array:
        """Unconstrained numbers of a scale; their Fisher information at `unit` is the identity."""
        return jnp.sqrt(2 * dim / scale.size) * jnp.log(scale / unit)

    def bound_scale_one(self, free: Array, unit: Array, dim: int) -> Array:
        """The inverse of `free_scale_one`."""
        return unit * jnp.exp(free / jnp.sqrt(2 * dim / free.size))

    def colour_one(self, scale: Array, white: Float[Array, " D"]) -> Float[Array, " D"]:
        """scale y."""
        return scale * white
