"""Validation of the arguments of `em` on the host: data, initial mixtures, priors, numbers."""

from typing import Any

import jax
import numpy as np

from lvm_jax._core import checks
from lvm_jax._core.warn import warn
from lvm_jax.em import incomplete, priors
from lvm_jax.em.covariances import GAUSSIANS
from lvm_jax.em.families import ExponentialFamily, Settings
from lvm_jax.em.gaussian import Gaussian
from lvm_jax.em.mixture import Mixture
from lvm_jax.em.parsimonious import COVARIANCE_FAMILIES, Constrained
from lvm_jax.em.starts import STARTS
from lvm_jax.em.state import Controls
from lvm_jax.em.statistics import MixtureParameters
from lvm_jax.typing import ArrayLike


def as_family(value: Any) -> ExponentialFamily:
    """Return a family as it is, or the Gaussian family of a covariance type."""
    if isinstance(value, ExponentialFamily):
        return value
    named = GAUSSIANS | COVARIANCE_FAMILIES
    if not isinstance(value, str):
        raise TypeError(
            f"family: expected one of {', '.join(named)} or an em.ExponentialFamily, such as "
            f"em.Bernoulli(), got {type(value).__name__}"
        )
    return named[checks.choice(value, "family", tuple(named))]


def centre(
    x: ArrayLike,
    weight: np.ndarray | None,
    family: ExponentialFamily,
    fill: np.ndarray | None = None,
) -> np.ndarray:
    """The family's origin, from the (weighted) mean of the rows in float64, in JAX's dtype.

    `fill` are the means of the observed entries of rows with missing entries.
    """
    host = np.asarray(x)
    mean = fill
    if mean is None:
        mean = host.mean(0, dtype=np.float64) if weight is None else weight @ host / weight.sum()
    return np.asarray(family.centre(mean), jax.dtypes.canonicalize_dtype(host.dtype))


def check_data(
    x: ArrayLike,
    num_components: int,
    family: ExponentialFamily,
    sample_weight: ArrayLike | None,
    regularization: float,
) -> tuple[np.ndarray, bool]:
    """Validate the data of a fit; a NumPy array, and whether entries are missing."""
    x, missing = incomplete.read_rows(x, family)
    if x.shape[0] < num_components:
        raise ValueError(
            f"x: expected at least num_components = {num_components} rows, got {x.shape[0]}; "
            "lower num_components"
        )
    used = x
    if sample_weight is not None:
        used = x[checks.weights(sample_weight, x.shape[0]) > 0]
    checks.distinct_rows(used, num_components, "x")
    check_range(family, x, regularization, missing)
    return x, missing


def check_range(
    family: ExponentialFamily, x: np.ndarray, regularization: float, missing: bool = False
) -> None:
    """`check_constant` for the families whose variance of a column can be 0."""
    family = family.normal
    if not isinstance(family, Gaussian) or family.covariance_type == "spherical":
        return
    if not isinstance(family, Constrained) or family.name != "EII":
        check_constant(x, regularization, missing)


def check_constant(x: np.ndarray, regularization: float, missing: bool = False) -> None:
    """Warn about constant columns; raise ValueError if regularization is 0."""
    ends = (np.fmin.reduce(x), np.fmax.reduce(x)) if missing else (x.min(0), x.max(0))
    constant = np.flatnonzero(ends[0] == ends[1]).tolist()
    if not constant or x.shape[0] == 1:
        return
    named = f"columns {constant[:10]}{'...' if len(constant) > 10 else ''}"
    if regularization == 0:
        raise ValueError(
            f"x: expected columns that vary, got constant {named}; drop them, or set "
            "regularization > 0"
        )
    warn(
        f"x: {named} are constant; regularization alone sets their variance and their share of "
        "the log-likelihood. Consider dropping them",
    )


def check_start(start: Any, family: ExponentialFamily) -> None:
    """Refuse a start that is neither a name nor a mixture, and a name for some families."""
    if isinstance(start, str):
        checks.choice(start, "start", STARTS)
        if not family.has_starts:
            raise TypeError(f"start: expected an em.Mixture of em.with_noise, got {start!r}")
    elif not isinstance(start, Mixture):
        raise TypeError(
            f"start: expected one of {', '.join(STARTS)}, or an em.Mixture, got "
            f"{type(start).__name__}"
        )


def check_acceleration(value: Any, family: ExponentialFamily) -> None:
    """Refuse an acceleration that is neither None nor a known name, or not of this family."""
    if value is None:
        return
    checks.choice(value, "acceleration", ("squarem",))
    if isinstance(family, Constrained):
        raise ValueError(
            f"acceleration: expected None for {family.name} covariances, got {value!r}: an "
            "extrapolation would not keep their constraints"
        )


def check_initial(
    initial: Mixture, family: ExponentialFamily, num_components: int, origin: np.ndarray
) -> tuple[MixtureParameters, np.ndarray]:
    """Initial parameters [R, ...] as NumPy arrays, and their origin minus the data's origin."""
    if initial.family != family:
        raise ValueError(f"start: expected {family} components, got {initial.family}")
    if initial.log_weights.shape[-1] != num_components or initial.origin.shape[-1:] != origin.shape:
        raise ValueError(
            f"start: expected {num_components} components in {origin.size} dimensions, got "
            f"{initial.log_weights.shape[-1]} in {initial.origin.shape[-1]}"
        )
    parameters = initial.parameters
    if initial.log_weights.ndim == 1:
        parameters = jax.tree.map(lambda leaf: leaf[None], jax.tree.map(np.asarray, parameters))
    # The origin may have the restart axis too: [D] or [R, D], for components [R, K, D].
    shift = (np.asarray(initial.origin) - origin)[..., None, :].astype(origin.dtype)
    return jax.tree.map(lambda leaf: np.asarray(leaf, origin.dtype), parameters), shift


def check_controls(
    family: ExponentialFamily,
    regularization: float,
    prior: priors.ConjugatePrior | None,
    num_components: int,
    origin: np.ndarray,
    tolerance: float,
    total_weight: float,
) -> Controls:
    """Validate the numbers and the prior, and cast them to the data's dtype."""
    dtype = origin.dtype
    scalars: Any = [
        np.asarray(checks.number(tolerance, "tolerance"), dtype),
        np.asarray(total_weight, dtype),
        np.int32(num_components),
    ]
    concentration = components = None
    if prior is not None:
        if isinstance(family, Constrained) and getattr(prior, "components", None) is not None:
            raise ValueError(
                f"prior.components: expected None for {family.name} covariances, got a prior; "
                "priors are for full, tied, diag and spherical ones"
            )
        kind = family.covariance_type if isinstance(family, Gaussian) else None
        concentration, components = priors.check(prior, num_components, origin.size, kind)
        if components is not None:
            components = components._replace(mean=components.mean - origin)
    settings = priors.cast(Settings(regularization, components, concentration), dtype)
    return Controls(settings, *scalars)
