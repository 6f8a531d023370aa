"""The draws of a fit for ArviZ, by name."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import numpy as np

from lvm_jax._core import checks
from lvm_jax._core.extras import needed
from lvm_jax.compiling import bounded_jit
from lvm_jax.evidence import Resampled
from lvm_jax.typing import Array, Key, Latent
from lvm_jax.vi.density import LogDensity
from lvm_jax.vi.result import VariationalFit


class NamedDraws(NamedTuple):
    """Posterior draws as variables by name, and the resampling that they come from."""

    variables: dict[str, np.ndarray]  # [M, ...]
    resampled: Resampled


def to_arviz(
    key: Key[Array, ""],
    fit: VariationalFit,
    num_draws: int,
    constrain: Callable[[Latent], Any] | None = None,
) -> Any:
    """Posterior draws of a fit by `fit.resample`, as one chain for ArviZ.

    The group `posterior` has one variable for each leaf, [1, num_draws, ...], with the path of the
    leaf as its name ("z" for a single array). `sample_stats.lp` is the log-density of each draw.
    The attributes of `posterior` are elbo, log_evidence (both with `_standard_error`), k_hat,
    effective_sample_size, log_weights, converged, reason, method and evaluations. k_hat and
    log_weights, [S], are of the draws of `fit.proposal` before the resampling; the weights are
    smoothed and normalised. The draws have equal
    weights and repetitions: the error of a mean follows from effective_sample_size. ArviZ's own
    ESS of these draws does not see it.

    Args:
        key: a typed PRNG key.
        fit: the result of `vi.fit`.
        num_draws: M, the number of draws.
        constrain: maps one z to the variables to export, as `ForeignModel.constrain` does.

    Returns an InferenceData for ArviZ 0.2x, or a DataTree for ArviZ 1.x or arviz-base. Raises
    ModuleNotFoundError without ArviZ; ValueError for num_draws < 1.
    """
    parts_only = find_spec("arviz") is None and find_spec("arviz_base") is not None
    with needed("arviz"):
        arviz = import_module("arviz_base" if parts_only else "arviz")
    draws = named_draws(key, fit, num_draws, constrain)
    log_p = _log_densities(draws.resampled.z, fit.log_density)
    posterior = {name: value[None] for name, value in draws.variables.items()}
    statistics = {"lp": np.asarray(log_p)[None]}
    if hasattr(arviz, "InferenceData"):
        made = arviz.from_dict(posterior=posterior, sample_stats=statistics)
    else:
        made = arviz.from_dict({"posterior": posterior, "sample_stats": statistics})
    made["posterior"].attrs.update(_attributes(fit, draws.resampled))
    return made


def named_draws(
    key: Key[Array, ""],
    fit: VariationalFit,
    num_draws: int,
    constrain: Callable[[Latent], Any] | None,
) -> NamedDraws:
    """Posterior draws, mapped by `constrain`, with a name for each leaf."""
    if not isinstance(fit, VariationalFit):
        raise TypeError(f"fit: expected the result of vi.fit, got a {type(fit).__name__}")
    if constrain is not None and not callable(constrain):
        raise TypeError(
            f"constrain: expected a function of one z or None, got a {type(constrain).__name__}"
        )
    checks.host("vi.to_arviz", "fit.resample", key)
    resampled = fit.resample(key, num_draws)
    values = resampled.z if constrain is None else _mapped(resampled.z, constrain)
    return NamedDraws(
        {name or "z": np.asarray(leaf) for name, leaf in named_leaves(values)}, resampled
    )


def named_leaves(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[tuple[str, Any]]:
    """The leaves of a pytree with their paths, such as "layer.scale"; "" for a single leaf."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in paths]


def _attributes(fit: VariationalFit, resampled: Resampled) -> dict[str, Any]:
    """The measures of a fit as numbers, strings and one array, which netCDF can store."""
    return {
        "inference_library": "lvm_jax",
        "method": fit.method,
        "reason": fit.reason.name,
        "converged": int(fit.converged),
        "evaluations": int(fit.evaluations),
        "elbo": float(fit.elbo.value),
        "elbo_standard_error": float(fit.elbo.standard_error),
        "log_evidence": float(fit.log_evidence.log_evidence),
        "log_evidence_standard_error": float(fit.log_evidence.standard_error),
        "k_hat": float(resampled.k_hat),
        "effective_sample_size": float(resampled.ess),
        "log_weights": np.asarray(resampled.log_weights),
    }


@bounded_jit(1, lean=True)
def _mapped(z: Latent, constrain: Callable[[Latent], Any]) -> Any:
    return jax.vmap(constrain)(z)


@bounded_jit(1, lean=True)
def _log_densities(z: Latent, log_density: LogDensity) -> Array:
    return jax.lax.map(log_density, z, batch_size=1_000)
