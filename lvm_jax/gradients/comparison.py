"""A table of bias, variance and time of all gradient estimators that support a given q."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from lvm_jax._core import checks
from lvm_jax.distributions.kinds import latent_kinds
from lvm_jax.estimate import Estimate
from lvm_jax.gradients.accuracy import accuracy
from lvm_jax.gradients.base import ESTIMATORS, Estimator, MakeQ, Surrogate, find_estimate
from lvm_jax.gradients.exact import enumerate_gradient, flat_like
from lvm_jax.gradients.table import EstimatorRow, EstimatorTable
from lvm_jax.typing import Array, Key, Params
from lvm_jax.weights import LogJoint

BLOCKS = 20  # of independent gradients, for standard errors
BATCH = 100  # gradients computed in parallel
Gradient = Callable[[Key[Array, ""], Params], Array]
INSIDE = "jax.grad of one of gradients.ESTIMATORS"


def compare(
    key: Key[Array, ""],
    log_joint: LogJoint,
    guide: MakeQ,
    phi: Params,
    num_samples: int,
    *,
    bound: str = "elbo",
    estimators: Mapping[str, Any] | Sequence[str] | None = None,
    exact: Params | None = None,
    num_draws: int = 1_000,
) -> EstimatorTable:
    """Bias, variance and time of gradient estimators for phi of one q = guide(phi), at one x.

    The first arguments are those of an estimator. The rows are all `ESTIMATORS` for `bound` that
    support this q, or `estimators`: a sequence of names, or a dictionary of estimators. Each
    estimator runs `num_draws` times in 20 blocks, see `accuracy`. Its time is the median over
    blocks, per gradient of a parallel batch, without compilation.

    The exact gradient is `exact`, a pytree like phi. For a finite q it is computed by a sum over
    all values of z (of S draws if the bound is not the ELBO) of at most 2^18 terms.

    Raises ValueError or TypeError for an unknown bound or estimator, an estimator of another bound,
    no suitable estimator, an `exact` of wrong structure or of length 0, num_draws < 60, errors of
    `estimators`, and under jit, grad or vmap.
    """
    checks.host("gradients.compare", INSIDE, key, phi, exact)
    checks.key(key)
    checks.integer(num_samples, "num_samples", 1)
    repeats = checks.integer(num_draws, "num_draws", 3 * BLOCKS) // BLOCKS
    checks.choice(bound, "bound", sorted({row.bound for row in ESTIMATORS.values()}))
    found = _fitting(guide, phi, bound) if estimators is None else _named(estimators, bound)
    gradients = {n: _gradient(e, log_joint, guide, num_samples) for n, e in found.items()}
    left_out = _failing(gradients, key, phi, strict=estimators is not None)
    if exact is None:
        flat = enumerate_gradient(log_joint, guide, phi, num_samples, bound)
    else:
        flat = flat_like(exact, phi)
    rows = {
        name: _measure(key, gradient, phi, repeats, flat)
        for name, gradient in gradients.items()
        if name not in left_out
    }
    return EstimatorTable(bound, num_samples, flat, rows, left_out)


def _failing(
    gradients: dict[str, Gradient], key: Key[Array, ""], phi: Params, strict: bool
) -> dict[str, str]:
    """The errors of gradients that need more draws or fewer values of z; raised if `strict`."""
    errors = {}
    for name, gradient in gradients.items():
        try:
            jax.eval_shape(gradient, key, phi)
        except ValueError as error:
            if strict or not str(error).startswith(("num_samples:", "z:")):
                raise
            errors[name] = str(error)
    return errors


def _fitting(guide: MakeQ, phi: Params, bound: str) -> dict[str, Surrogate]:
    """The rows of ESTIMATORS for the bound that support q."""
    kinds: set[str] = set()

    def trace(phi: Params) -> None:
        kinds.update(latent_kinds(checks.distribution(guide(phi), "guide(phi)")))

    jax.eval_shape(trace, phi)
    found = {
        name: row.estimate
        for name, row in ESTIMATORS.items()
        if row.bound == bound and row.latent in kinds
    }
    if not found:
        raise ValueError(f"bound: expected one that an estimator of this q has, got {bound!r}")
    return found


def _named(estimators: Mapping[str, Any] | Sequence[str], bound: str) -> dict[str, Surrogate]:
    """The estimators by name; ValueError for estimators of another bound."""
    if isinstance(estimators, str) or not isinstance(estimators, Mapping | Sequence):
        raise TypeError(
            "estimators: expected a sequence of names, or a dictionary of estimators by name, got "
            f"{estimators!r}"
        )
    given = estimators if isinstance(estimators, Mapping) else {name: name for name in estimators}
    found = {}
    for name, value in given.items():
        estimate = find_estimate(value, f"estimators[{name!r}]")
        row = ESTIMATORS.get(value) if isinstance(value, str) else value
        if isinstance(row, Estimator) and row.bound != bound:
            raise ValueError(
                f"estimators[{name!r}]: expected an estimator of the bound {bound!r}, got one of "
                f"{row.bound!r}; use bound={row.bound!r}"
            )
        found[name] = estimate
    return found


def _gradient(estimate: Surrogate, log_joint: LogJoint, guide: MakeQ, num_samples: int) -> Gradient:
    """(key, phi) -> one gradient for phi, flat."""

    def gradient(key: Key[Array, ""], phi: Params) -> Array:
        slope = jax.grad(lambda phi: estimate(key, log_joint, guide, phi, num_samples))(phi)
        return ravel_pytree(slope)[0]

    return gradient


def _measure(
    key: Key[Array, ""], gradient: Gradient, phi: Params, repeats: int, exact: np.ndarray | None
) -> EstimatorRow:
    """One row, from `repeats` gradients in each block."""

    def block(key: Key[Array, ""], phi: Params) -> tuple[Array, Array]:
        keys = jax.random.split(key, repeats)
        draws = jax.lax.map(lambda key: gradient(key, phi), keys, batch_size=BATCH)
        return draws.mean(0), draws.var(0, ddof=1).sum()

    compiled = jax.jit(block).lower(key, phi).compile()
    moments, seconds = [], []
    for block_key in jax.random.split(key, BLOCKS):
        start = time.perf_counter()
        moments.append(jax.block_until_ready(compiled(block_key, phi)))
        seconds.append((time.perf_counter() - start) / repeats)
    means, variances = (np.array(part, np.float64) for part in zip(*moments, strict=True))
    each = float(np.median(seconds))
    if exact is None:
        spread = float(variances.std(ddof=1) / np.sqrt(BLOCKS))
        variance = Estimate(float(variances.mean()), spread)
        return EstimatorRow(Estimate(np.nan, np.nan), np.nan, False, variance, each)
    found = accuracy(means, variances, exact)
    return EstimatorRow(found.bias, found.limit, found.is_seen, found.variance, each)
