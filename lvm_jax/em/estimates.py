"""The estimated numbers of a mixture by name: weights, means, covariances and components."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.gaussian import Gaussian, Gaussians
from lvm_jax.em.mixture import Mixture
from lvm_jax.em.statistics import MixtureParameters
from lvm_jax.typing import Array


class Estimates(NamedTuple):
    """Numbers in the structure of a mixture: its parameters, their standard errors or limits."""

    weights: Any  # [K]
    means: Any  # [K, D], in the data's coordinates
    covariances: Any  # [K, D, D]; None for components that are not Gaussian
    components: Any  # the family's parameters, such as probabilities [K, D]


def as_mixture(value: Any) -> Mixture:
    """The mixture of a fit, or a mixture as it is."""
    mixture = getattr(value, "mixture", value)
    if not isinstance(mixture, Mixture):
        raise TypeError(f"fit: expected an em.MixtureFit or an em.Mixture, got {type(value)!r}")
    if mixture.log_weights.ndim != 1:
        raise ValueError(f"fit: expected one mixture, got a batch {mixture.log_weights.shape[:-1]}")
    return mixture


def numbers(family: ExponentialFamily, parameters: MixtureParameters, origin: Array) -> Estimates:
    """The estimates of one mixture."""
    log_weights, components = parameters
    covariances = None
    if isinstance(family, Gaussian):
        mean, scale, low = family.complete(components)
        components = Gaussians(mean + low, scale)
        covariances = family.covariances(components)
    means = origin[None] + family.means(components)
    return Estimates(jnp.exp(log_weights), means, covariances, components)


def widened(mixture: Mixture) -> tuple[MixtureParameters, np.ndarray]:
    """Parameters and origin as NumPy arrays of float64."""
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), mixture)
    return wide.parameters, wide.origin


def listed(family: ExponentialFamily, estimates: Estimates) -> dict[str, np.ndarray]:
    """The estimates without repetition, by name: the rows of a covariance matrix.

    Gaussians have weights, means and covariances; other families weights and components.
    """
    if estimates.covariances is not None:
        covariances = np.asarray(estimates.covariances)
        if getattr(family, "scale_axis", 0) is None:  # one for all components
            covariances = covariances[:1]
        return {
            "weights": estimates.weights,
            "means": estimates.means,
            "covariances": covariances,
        }
    leaves, _ = jax.tree_util.tree_flatten_with_path(estimates.components)
    named = {f"components{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}
    return {"weights": estimates.weights, **named}
