"""The estimated numbers of a mixture by name: weights, means, covariances and components."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.em.factors import Factors
from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.gaussian import Gaussian, Gaussians
from lvm_jax.em.mixture import Mixture
from lvm_jax.em.noise import Noisy
from lvm_jax.em.statistics import MixtureParameters
from lvm_jax.em.student import Students
from lvm_jax.typing import Array

CONTINUOUS = (Gaussians, Students, Factors, Noisy)


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
    components = jax.tree.map(rounded, components, is_leaf=is_gaussians)
    covariances = family.covariances(components) if isinstance(family, Gaussian) else None
    means = origin[None] + family.means(components)
    return Estimates(jnp.exp(log_weights), means, covariances, components)


def is_gaussians(part: Any) -> bool:
    """Whether a part of the components are Gaussians."""
    return isinstance(part, Gaussians)


def rounded(part: Any) -> Any:
    """Gaussians without the remainders of their means; another part as it is."""
    if not is_gaussians(part) or part.remainder is None:
        return part
    return Gaussians(part.deviations + part.remainder, part.scale)


def bounded(components: Any) -> Any:
    """Whether a leaf is at a boundary where no coordinate changes it, such as a probability of 0.

    The constants of continuous components, such as given degrees of freedom, are not.
    """

    def one(part: Any) -> Any:
        return jax.tree.map(lambda _: not isinstance(part, CONTINUOUS), part)

    return jax.tree.map(one, components, is_leaf=lambda part: isinstance(part, CONTINUOUS))


def widened(mixture: Mixture) -> tuple[MixtureParameters, np.ndarray]:
    """Parameters and origin as NumPy arrays of float64."""
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), mixture)
    return wide.parameters, wide.origin


def listed(family: ExponentialFamily, estimates: Estimates) -> dict[str, Any]:
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
