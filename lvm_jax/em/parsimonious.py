"""Covariances Sigma_k = lambda_k D_k A_k D_k^T whose volumes, shapes or orientations are equal.

lambda_k is the volume, |Sigma_k|^(1/D), A_k the shape, diagonal with |A_k| = 1, and D_k the
orientation, orthogonal (Banfield and Raftery 1993; Celeux and Govaert 1995). The three letters of a
name are those of volume, shape and orientation: E equal for all components, V variable, I the
identity. The M-step minimises

    sum_k n_k (log |Sigma_k| + tr(Sigma_k^-1 S_k)),   S_k = W_k / n_k + regularization I,

with the scatter matrices W_k: for EII, EEI, EVI, EEV and EVV in closed form, for the others by
iterations that never raise it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lvm_jax.em import charts, orientations
from lvm_jax.em.covariances import Diagonal, Full, Spherical, Tied
from lvm_jax.em.families import ExponentialFamily, Settings, divide, keep_empty, like
from lvm_jax.em.gaussian import BlockMoments, Gaussian, Gaussians
from lvm_jax.em.grouped import GroupedFull
from lvm_jax.em.masked import MaskedDiagonal, MaskedMoments
from lvm_jax.em.pairs import move
from lvm_jax.typing import Array, Float

MAX_UPDATES = 100  # of the volumes, in one M-step


def volumes_of(
    scales: Callable[[Array], Array], share: Float[Array, " K"], start: Float[Array, " K"]
) -> Float[Array, " K"]:
    """Iterate lambda <- scales(lambda) until it changes by less than the tolerance, relatively.

    Both steps, of the common part at fixed volumes and of the volumes at a fixed common part,
    minimise the objective. It is geodesically convex, so that there is one minimum.
    """
    tolerance = jnp.finfo(start.dtype).eps ** 0.75

    def update(state: Any) -> Any:
        volumes, _, number = state
        new = scales(volumes)
        change = jnp.where(share > 0, jnp.abs(new / volumes - 1), 0).max()
        return new, change, number + 1

    def unfinished(state: Any) -> Array:
        return (state[1] > tolerance) & (state[2] < MAX_UPDATES)

    return jax.lax.while_loop(unfinished, update, (start, jnp.full_like(start[0], jnp.inf), 0))[0]


def variances(
    name: str, spread: Float[Array, "K D"], share: Float[Array, " K"]
) -> Float[Array, "K D"]:
    """The variances of volume and shape `name[:2]` from those of S_k along fixed axes."""
    if name[1] == "I":
        return jnp.full_like(spread, (share @ spread).mean())
    if name[:2] == "EE":
        return jnp.broadcast_to((share @ spread)[None], spread.shape)
    if name[:2] == "VV":
        return spread
    if name[:2] == "EV":
        size = jnp.exp(jnp.log(spread).mean(1))
        return spread * ((share @ size) / size)[:, None]

    def shape(volumes: Array) -> Array:
        return (share / volumes) @ spread

    start = spread.mean(1)
    volumes = volumes_of(lambda v: (spread / shape(v)[None]).mean(1), share, start)
    return volumes[:, None] * shape(volumes)[None]


def proportional(spread: Float[Array, "K D D"], share: Float[Array, " K"]) -> Array:
    """VEE: lambda_k C, with C = sum_k share_k S_k / lambda_k and lambda_k = tr(S_k C^-1) / D."""

    def shape(volumes: Array) -> Array:
        return jnp.tensordot(share / volumes, spread, 1)

    def scales(volumes: Array) -> Array:
        solve = jax.scipy.linalg.cho_solve
        factor = jnp.linalg.cholesky(shape(volumes)), True
        return jax.vmap(lambda s: jnp.diagonal(solve(factor, s)).mean())(spread)

    start = jnp.diagonal(spread, axis1=1, axis2=2).mean(1)
    volumes = volumes_of(scales, share, start)
    return volumes[:, None, None] * shape(volumes)[None]


def matrices(
    name: str,
    spread: Float[Array, "K D D"],
    share: Float[Array, " K"],
    before: Float[Array, "K D D"],
) -> Float[Array, "K D D"]:
    """The covariances of a model with orientation E or V."""
    if name == "VEE":
        return proportional(spread, share)
    if name[2] == "E":
        return orientations.common(spread, share, before, lambda s: variances(name, s, share))
    # D_k are the eigenvectors of S_k, with eigenvalues in one order for all components.
    values, vectors = jnp.linalg.eigh(spread)
    values = variances(name, values, share)
    return jax.vmap(lambda v, d: (d * v[None]) @ d.T)(values, vectors)


class Constrained(Gaussian):
    """The M-step of a covariance model, from the counts and the scatters of `Diagonal` or `Full`.

    A component without points keeps its mean and, with weight 0, takes its covariance for S_k.
    """

    name: str

    def square(self, scale: Array) -> Array:
        """The covariances of K scales."""
        return scale * scale

    def fit_covariances(self, spread: Array, share: Float[Array, " K"], before: Array) -> Array:
        """The covariances of the model."""
        return variances(self.name, spread, share)

    def complete_moments(self, summary: Any, old: Gaussians) -> BlockMoments:
        """The moments of complete rows."""
        return summary

    def axes(self, scale: Array) -> charts.Axes:
        """Volumes, shapes and orientations of K scales."""
        return charts.Axes(2 * jnp.log(scale), None)

    def scales(self, at: charts.Axes, u: charts.Coordinates) -> Array:
        """The scales at the coordinates u."""
        return jnp.exp(charts.log_variances(at, u) / 2)

    def chart(self, at: Gaussians, size: Float[Array, " K"]) -> tuple[Any, Callable[[Any], Any]]:
        """The coordinates of `charts`, whose number is that of the free parameters."""
        mean, scale, low = self.complete(at)
        begin = self.axes(scale)

        def move(u: charts.Coordinates) -> Gaussians:
            change = jax.vmap(self.colour_one)(scale, u.means / size[:, None])
            return Gaussians(mean + change, self.scales(begin, u), low)

        return charts.zeros(self.name, mean), move

    def maximize(self, summary: Any, previous: Gaussians, settings: Settings) -> Gaussians:
        """Weighted means, and the covariances of the model."""
        old = self.complete(previous)
        counts, means, scatter, low = self.complete_moments(summary, old)
        before = self.square(old.scale)
        spread = scatter / jnp.where(like(counts, scatter) > 0, like(counts, scatter), 1)
        spread = jax.vmap(lambda s: self.regularize(s, settings.regularization))(spread)
        spread = jnp.where(like(counts, scatter) > 0, spread, before)
        covariances = self.fit_covariances(spread, counts / counts.sum(), before)
        means, low = keep_empty(counts, (means, low), (old.deviations, old.remainder))
        return Gaussians(means, jax.vmap(self.from_covariance)(covariances), low)

    def num_component_parameters(self, num_components: int, dim: int) -> int:
        """K D, and those of volumes, shapes and orientations."""
        number = {"E": 1, "V": num_components, "I": 0}
        volume, shape, orientation = (number[letter] for letter in self.name)
        angles = dim * (dim - 1) // 2
        return num_components * dim + volume + shape * (dim - 1) + orientation * angles


@dataclass(frozen=True)
class ConstrainedDiagonal(Constrained, Diagonal):
    """EII, EEI, VEI or EVI. t(x) = (x, x^2)."""

    name: str

    def incomplete(self, block: int) -> ExponentialFamily:
        """The family of rows with missing entries."""
        return MaskedConstrained(self.name)


@dataclass(frozen=True)
class ConstrainedFull(Constrained, Full):
    """VEE, EVE, VVE, EEV, VEV or EVV. t(x) = (x, the D(D+1)/2 products x_i x_j)."""

    name: str

    def square(self, scale: Array) -> Array:
        """L L^T."""
        return scale @ jnp.swapaxes(scale, 1, 2)

    def fit_covariances(self, spread: Array, share: Float[Array, " K"], before: Array) -> Array:
        """The covariances of the model."""
        return matrices(self.name, spread, share, before)

    def axes(self, scale: Array) -> charts.Axes:
        """Volumes, shapes and orientations of K scales."""
        return charts.axes(self.name, self.square(scale))

    def scales(self, at: charts.Axes, u: charts.Coordinates) -> Array:
        """The scales at the coordinates u."""
        return jnp.linalg.cholesky(charts.matrices(at, u))

    def incomplete(self, block: int) -> ExponentialFamily:
        """The family of rows with missing entries."""
        return GroupedConstrained(block, self.name)


@dataclass(frozen=True)
class GroupedConstrained(ConstrainedFull, GroupedFull):
    """`ConstrainedFull` for rows with missing entries, in blocks of one pattern."""

    block: int = 1
    name: str = "VEV"

    @property
    def original(self) -> ExponentialFamily:
        """The family of complete rows."""
        return ConstrainedFull(self.name)


@dataclass(frozen=True)
class MaskedConstrained(ConstrainedDiagonal, MaskedDiagonal):
    """`ConstrainedDiagonal` for rows with missing entries, which the M-step takes as latent too."""

    @property
    def original(self) -> ExponentialFamily:
        """The family of complete rows."""
        return ConstrainedDiagonal(self.name)

    def complete_moments(self, summary: MaskedMoments, old: Gaussians) -> BlockMoments:
        """Adds the expected moments of the missing entries, at the components `old`."""
        counts, observed, means, scatter, low = summary
        lost = counts[:, None] - observed
        d = (old.deviations - means) + (old.remainder - low)
        change = divide(lost * d, counts)
        between = lost * d * (d - change)  # lost * observed / counts * d^2
        means, low = move(means, low, change)
        return BlockMoments(counts, means, scatter + between + lost * old.scale**2, low)


COVARIANCE_FAMILIES: dict[str, Gaussian] = {
    "EII": ConstrainedDiagonal("EII"),
    "VII": Spherical(),
    "EEI": ConstrainedDiagonal("EEI"),
    "VEI": ConstrainedDiagonal("VEI"),
    "EVI": ConstrainedDiagonal("EVI"),
    "VVI": Diagonal(),
    "EEE": Tied(),
    "VEE": ConstrainedFull("VEE"),
    "EVE": ConstrainedFull("EVE"),
    "VVE": ConstrainedFull("VVE"),
    "EEV": ConstrainedFull("EEV"),
    "VEV": ConstrainedFull("VEV"),
    "EVV": ConstrainedFull("EVV"),
    "VVV": Full(),
}
