"""The contestants of `benchmarks.vi`: a normal fitted to a target, at several budgets.

A contestant maps a case and a target to the normals at its checkpoints, and the seconds of
compilation, once for each seed. Compilation is not in the seconds of a fit.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from lvm_jax import problems, vi
from lvm_jax.problems import Target
from lvm_jax.vi.density import check_density
from lvm_jax.vi.fit import AUTO, METHODS

TARGETS: dict[str, Callable[[], Target]] = {
    "credit": problems.credit,
    "credit_likelihood": problems.credit_likelihood,
    "breast_cancer": problems.breast_cancer,
    "funnel": problems.funnel,
    "eight_schools": partial(problems.eight_schools, False),
    "wells": partial(problems.wells, 5, 5, 4.0),
    "lgcp": problems.lgcp,
    "gaussian": lambda: gaussian(np.array([[2.0, 0.8], [0.8, 0.5]])),  # for a test
}
TOLERANCE = 0.01  # nats; the default of `vi.fit`
PRECISE = 0.002  # nats, the standard error of a measured ELBO
CHUNK, MOST_CHUNKS = 4_096, 256  # pairs of draws


class Fitted(NamedTuple):
    """N(mean, factor factor^T) after some evaluations."""

    evaluations: int
    seconds: float
    mean: np.ndarray
    factor: np.ndarray  # lower


def gaussian(covariance: np.ndarray) -> Target:
    """N(1, covariance) in two dimensions, normalised."""
    inverse, log_det = np.linalg.inv(covariance), np.linalg.slogdet(covariance)[1]

    def log_density(z: jax.Array) -> jax.Array:
        away = z - 1
        return -0.5 * (away @ (jnp.asarray(inverse, z.dtype) @ away) + log_det) - np.log(2 * np.pi)

    narrow = -0.5 * (log_det + np.log(np.diagonal(inverse)).sum())
    return Target("Gaussian", 2, log_density, 0.0, 0.0, float(narrow), 0.0)


def run(case: dict[str, Any]) -> dict[str, Any]:
    """The curve of one contestant: medians over the seeds at each checkpoint."""
    from benchmarks import vi_peers

    target = TARGETS[case["target"]]()
    best = target.mean_field_elbo if case["family"] == "mean_field" else target.full_rank_elbo
    if best is None:
        raise ValueError(f"family: the best {case['family']} ELBO of {target.name} is not known")
    programs = {"lvm_jax": own} | vi_peers.PROGRAMS
    curves, compiled, peak = [], 0.0, 0.0
    for rows, spent in programs[case["contestant"]](case, target):
        compiled = compiled or spent
        peak = peak or harness.peak_megabytes()  # before ELBOs are measured
        curves.append([(one, best - elbo_of(target, one)) for one in rows])
    return {"curve": summary(curves), "compile_seconds": compiled, "peak_mb": peak}


def summary(curves: list[list[tuple[Fitted, float]]]) -> list[dict[str, Any]]:
    """Medians over the seeds of evaluations, seconds and gap at each checkpoint."""
    return [
        {
            "evaluations": float(np.median([one.evaluations for one, _ in column])),
            "seconds": float(np.median([one.seconds for one, _ in column])),
            "gap": float(np.median([gap for _, gap in column])),
            "gaps": [gap for _, gap in column],
        }
        for column in zip(*curves, strict=True)
    ]


def own(case: dict[str, Any], target: Target) -> Iterator[tuple[list[Fitted], float]]:
    """The method "auto" of `vi.fit`, once for each budget; the seconds are of a second run."""
    density, _ = check_density(target.log_density, jnp.zeros(target.dim))
    method = METHODS[AUTO[case["family"]]]()
    for seed in range(case["repeats"]):
        key = jax.random.key(case["seed"] + seed)
        rows, compiled = [], 0.0
        for budget in case["budgets"]:
            task = vi.Task(density, case["family"], TOLERANCE, budget)
            times = []
            for _ in range(2 if seed == 0 else 1):
                began = time.perf_counter()
                found = method.run(key, task)
                mean, factor = moments(found.flat)
                times.append(time.perf_counter() - began)
            compiled += times[0] - times[-1]
            rows.append(Fitted(found.evaluations, times[-1], mean, factor))
        yield rows, compiled


def moments(q: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and lower factor of a normal of either family."""
    if hasattr(q, "cholesky"):
        return np.asarray(q.mean, float), np.asarray(q.cholesky, float)
    return np.asarray(q.distribution.loc, float), np.diag(np.asarray(q.distribution.scale, float))


def elbo_of(target: Target, fitted: Fitted) -> float:
    """The ELBO of a normal by pairs of draws, with the mean quadratic as control variate [nats].

    Draws are added until the standard error is below `PRECISE`, or a thousandth of the distance to
    log Z where that is more.
    """
    key = jax.random.key(0)
    mean, factor = jnp.asarray(fitted.mean, float), jnp.asarray(fitted.factor, float)
    if not np.isfinite(fitted.mean).all() or not np.isfinite(fitted.factor).all():
        return -np.inf
    curvature = _curvature(key, mean, factor, target.log_density)
    log_det = np.log(np.diagonal(fitted.factor)).sum()
    entropy = log_det + 0.5 * target.dim * (1 + np.log(2 * np.pi))
    found = np.zeros(0)
    for chunk in range(1, MOST_CHUNKS + 1):
        own = jax.random.fold_in(key, chunk)
        rows = _pairs(own, mean, factor, curvature, target.log_density)
        found = np.append(found, np.asarray(rows, float))
        value = found.mean() + 0.5 * float(jnp.trace(curvature)) + entropy
        error = found.std() / len(found) ** 0.5
        if not error > max(PRECISE, 1e-3 * abs(target.log_evidence - value)):
            break
    return float(value) if np.isfinite(value) else -np.inf


@partial(jax.jit, static_argnums=3)
def _curvature(key: Any, mean: Any, factor: Any, log_density: Any) -> jax.Array:
    """E[L^T Hessian L] by Stein's identity, from the gradients of some pairs of draws."""
    half = jax.random.normal(key, (CHUNK // 2, mean.size))
    noise = jnp.concatenate([half, -half])
    gradient = jax.vmap(jax.grad(log_density))(mean[None] + noise @ factor.T) @ factor
    product = noise.T @ gradient / CHUNK
    return 0.5 * (product + product.T)


@partial(jax.jit, static_argnums=4)
def _pairs(key: Any, mean: Any, factor: Any, curvature: Any, log_density: Any) -> jax.Array:
    """Means of log p over pairs of draws, less the quadratic."""
    noise = jax.random.normal(key, (CHUNK, mean.size))
    away = noise @ factor.T
    both = [jax.vmap(log_density)(mean[None] + sign * away) for sign in (1, -1)]
    return 0.5 * (both[0] + both[1] - ((noise @ curvature) * noise).sum(1))
