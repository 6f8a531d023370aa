"""Variational Bayes for Gaussian mixtures: the entry point, its validation and its result."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from lvm_jax._core import checks
from lvm_jax._core.outcome import Outcome
from lvm_jax.em import loop, priors, sources
from lvm_jax.em.covariances import GAUSSIANS
from lvm_jax.em.families import Settings
from lvm_jax.em.mixing import WEIGHTS
from lvm_jax.em.normal_wishart import NormalWishart, VariationalPrior
from lvm_jax.em.preparation import Prepared, Request, conclude, prepare
from lvm_jax.em.result import Info, report
from lvm_jax.em.variational_mixture import VariationalMixture
from lvm_jax.typing import Array, ArrayLike, Key

INSIDE = "vi.fit on a model of models.gaussian_mixture"


class VariationalInfo(NamedTuple):
    """Results of `variational` besides the posterior. Bounds are totals, in nats."""

    outcome: Outcome
    num_steps: int  # M-steps of the best restart
    elbo: float  # lower bound of log p(x), of the returned posterior
    trace: np.ndarray  # [num_steps], the bound after each M-step, best restart
    best_restart: int
    restart_elbos: np.ndarray  # [R], the last in each trace
    restart_outcomes: np.ndarray  # [R] of Outcome
    restart_num_steps: np.ndarray  # [R]
    exact_steps: int  # steps that used the slower, exact path


class VariationalFit(NamedTuple):
    """The variational posterior of a mixture and the `VariationalInfo` of its fit."""

    posterior: VariationalMixture
    info: VariationalInfo


def variational(
    key: Key[Array, ""],
    x: Any,
    num_components: int,
    family: str = "full",
    *,
    weights: str = "dirichlet",
    concentration: float | ArrayLike | None = None,
    prior: priors.NormalInverseWishart | None = None,
    start: str | VariationalMixture = "kmeans",
    num_restarts: int = 1,
    max_steps: int = 1_000,
    tolerance: float = 1e-6,
    sample_weight: ArrayLike | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    throw: bool = True,
) -> VariationalFit:
    """The variational posterior of a Gaussian mixture by coordinate ascent.

    Maximises the evidence lower bound with q(z, pi, mu, Lambda) = q(z) q(pi) q(mu, Lambda),

        elbo = sum_n w_n log sum_k exp(E[log pi_k] + E[log N(x_n; mu_k, Lambda_k^-1)])
               - KL(q(pi) || p(pi)) - KL(q(mu, Lambda) || p(mu, Lambda)) <= log p(x),

    which has all its constants. Components that the data do not need return to the prior.

    Args:
        key: a typed PRNG key.
        x: data, [N, D]. float64 is kept if x64 is on; otherwise float32. NaN is an entry missing
            at random, and latent; a prior is then required.
        num_components: K; of a Dirichlet process, the number of components that have data.
        family: full, tied, diag or spherical.
        weights: dirichlet, pi ~ Dirichlet(concentration); or dirichlet_process, the weights of
            which are sticks v_k ~ Beta(1, concentration).
        concentration: positive; a number, or one for each component or stick, [K]. 1 / K by
            default.
        prior: of means and precisions: Lambda_k ~ W(degrees, scale^-1) and mu_k ~
            N(mean, (strength Lambda_k)^-1). By default mean(x), 1, D + 2 and cov(x), with
            which the expected covariance is that of x.
        start: kmeans, k-means++, random or random_from_data; or a posterior with the same family.
        num_restarts: R, unless `start` is a posterior.
        max_steps: maximum number of steps of a restart.
        tolerance: stop when the bound changes by less, in nats per unit of weight.
        sample_weight: non-negative weights [N]; a weight of 2 is equivalent to duplicating the row.
        on_progress: called every 8 steps with a dict of step, objective (the best bound so far per
            unit of weight) and running (number of unfinished restarts).
        throw: raise if every restart failed, and warn at the step limit.

    Raises:
        ValueError, TypeError: for invalid arguments, before compilation.
        FloatingPointError: if every restart failed (with `throw`).

    Source: Bishop (2006), section 10.2; Blei and Jordan (2006).
    """
    if sources.as_source(x) is not None:
        raise TypeError(f"x: expected an array, got {type(x).__name__}; em.fit takes such data")
    checks.host("em.variational", INSIDE, key, x, sample_weight)
    checks.key(key)
    gaussian = GAUSSIANS[checks.choice(family, "family", tuple(GAUSSIANS))]
    law = WEIGHTS[checks.choice(weights, "weights", tuple(WEIGHTS))]
    number = checks.integer(num_components, "num_components", 1)
    max_steps = checks.integer(max_steps, "max_steps", 0)
    alpha = check_concentration(concentration, number)
    niw = default_prior(x, family) if prior is None else prior
    given = start.mixture if isinstance(start, VariationalMixture) else start
    request = Request(
        x, number, NormalWishart(gaussian, law), given, num_restarts,
        0.0, None, sample_weight, tolerance,
    )  # fmt: skip
    prepared, kept = set_up(key, request, niw, alpha)
    ran = loop.run(prepared.problem, max_steps, on_progress)
    result = conclude(*ran, prepared)
    if throw:
        report(result)
    total = float(prepared.problem.controls.total_weight)
    posterior = VariationalMixture(result.mixture, kept)
    return VariationalFit(posterior, summary(result.info, total))


def set_up(
    key: Key[Array, ""], request: Request, niw: priors.NormalInverseWishart, alpha: np.ndarray
) -> tuple[Prepared, VariationalPrior]:
    """The loop's input with the prior, and the prior relative to the origin.

    The request has a `NormalWishart` family and no prior.
    """
    family: Any = request.family
    dim = np.shape(request.x)[1] if np.ndim(request.x) == 2 else 0  # refused by `prepare`
    kind = family.gaussian.covariance_type
    if dim:
        niw = priors.check(priors.ConjugatePrior(None, niw), len(alpha), dim, kind).components
    prepared = prepare(key, request)
    problem, dtype = prepared.problem, prepared.origin.dtype
    niw = niw._replace(mean=niw.mean - prepared.origin)
    size = problem.parameters.log_weights.shape[1]
    padded = np.concatenate([alpha, np.zeros(size - len(alpha))])
    settings = Settings(request.regularization, VariationalPrior(niw, padded))
    controls = problem.controls._replace(settings=priors.cast(settings, dtype))
    kept = priors.cast(VariationalPrior(niw, alpha), dtype)
    return prepared._replace(problem=problem._replace(controls=controls)), jax.device_put(kept)


def summary(info: Info, total: float) -> VariationalInfo:
    """The info with totals, from that of the loop."""
    return VariationalInfo(
        outcome=info.outcome,
        num_steps=info.num_steps,
        elbo=float(info.map_objective or 0.0) * total,
        trace=info.trace * total,
        best_restart=info.best_restart,
        restart_elbos=info.restart_objectives * total,
        restart_outcomes=info.restart_outcomes,
        restart_num_steps=info.restart_num_steps,
        exact_steps=info.exact_steps,
    )


def check_concentration(value: float | ArrayLike | None, num_components: int) -> np.ndarray:
    """The concentration of each component, [K]."""
    alpha = np.asarray(1 / num_components if value is None else value, np.float64)
    if alpha.shape not in ((), (num_components,)):
        raise ValueError(
            f"concentration: expected a number or shape ({num_components},), got {alpha.shape}"
        )
    if not (np.isfinite(alpha).all() and (alpha > 0).all()):
        raise ValueError(f"concentration: expected positive numbers, got {alpha.min():g}")
    return np.broadcast_to(alpha, (num_components,))


def default_prior(x: Any, covariance_type: str) -> priors.NormalInverseWishart:
    """Mean and covariance of x, strength 1 and degrees D + 2; ValueError where it is singular."""
    rows, missing = checks.points_or_nan(x, "x")
    if missing:
        raise ValueError(
            "prior: expected an em.NormalInverseWishart, because x has missing entries (NaN)"
        )
    constant = np.flatnonzero(np.ptp(rows, axis=0) == 0).tolist()
    if constant and covariance_type != "spherical":
        raise ValueError(
            f"x: expected columns that vary for the default prior, got constant columns "
            f"{constant[:10]}; drop them, or give a prior"
        )
    if len(rows) <= rows.shape[1] and covariance_type in ("full", "tied"):
        raise ValueError(
            f"x: expected more rows than columns for the default prior, got shape {rows.shape}; "
            "give a prior"
        )
    return priors.default_prior(rows, 1, covariance_type).components._replace(strength=1.0)
