"""Fit q to a log-density, and measure how good q is."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lvm_jax import compiling
from lvm_jax._core import checks
from lvm_jax._core.keys import split
from lvm_jax.guides import Family
from lvm_jax.typing import Array, Key, Latent, Scalar
from lvm_jax.vi import improper, quality
from lvm_jax.vi.batch_and_match import batch_and_match
from lvm_jax.vi.constraints import Constrained, Constraint
from lvm_jax.vi.density import Density, LogDensity, check_density, value_and_grad
from lvm_jax.vi.deterministic import deterministic
from lvm_jax.vi.families import check_family
from lvm_jax.vi.gaussian import MAX_DIM, natural_gradient
from lvm_jax.vi.laplace import laplace
from lvm_jax.vi.method import Found, Method, Reason, Task
from lvm_jax.vi.modes import modes
from lvm_jax.vi.pathfinder import pathfinder
from lvm_jax.vi.result import VariationalFit
from lvm_jax.vi.rows import check_posterior
from lvm_jax.vi.starts import check_draw, unconstrained
from lvm_jax.vi.stochastic import adam

METHODS: dict[str, Callable[[], Method]] = {
    "natural_gradient": natural_gradient,
    "adam": adam,
    "laplace": laplace,
    "batch_and_match": batch_and_match,
    "pathfinder": pathfinder,
    "modes": modes,
    "deterministic": deterministic,
}
AUTO = {  # others: adam
    "full_rank": "natural_gradient",
    "mean_field": "natural_gradient",
    "mixture": "modes",
    "low_rank": "batch_and_match",
}
MOST_FOR_EVIDENCE = 10  # evaluations of log Z for each of max_evaluations
INSIDE = "training.ascend, then evidence.importance"


def fit(
    key: Key[Array, ""],
    log_density: LogDensity,
    start: Latent,
    *,
    family: str | Family = "full_rank",
    method: str | Method = "auto",
    tolerance: float = 0.01,
    max_evaluations: int = 100_000,
    constrain: Any = None,
    log_prior: Callable[[Latent], Scalar] | None = None,
    data: Any = None,
    num_draws: int = 10_000,
    throw: bool = True,
) -> VariationalFit:
    """Maximise the ELBO of q over the parameters of its family, for one unnormalised density.

        ELBO = E_q[log_density(z) - log q(z)] <= log Z,    Z the integral of exp(log_density)

    z is a pytree of real numbers with the structure of `start`. Z is the evidence p(x) where
    log_density is log p(x, z) with every constant. q is a distribution on all of R^D: give
    `constrain` for a z on a part of it. New draws after the fit measure ELBO and log Z. Markov
    chains and ascents search for mass that these draws miss. Where they find some, or k-hat
    distrusts the weights of q, log Z is measured by a better proposal, fitted to weighted draws and
    to states of chains, and where this fails by bridge sampling or annealing. A mode that no ascent
    reaches is missing in all of these: take the family mixture where several are possible.

    Args:
        key: a typed PRNG key.
        log_density: a function of one z to one number in nats.
        start: where the search starts, an array or a pytree of arrays of real numbers, or a
            function of a key that draws one, such as a draw from the prior. The family mixture
            takes many starts. Constrained for a `constrain` by names, unconstrained for a function.
        family: a name of `vi.FAMILIES`, or a `guides` Family of D numbers, the size of `start`.
        method: a name of `vi.METHODS`, or what one of its functions returns, such as
            `vi.adam(num_samples=4)`; "auto" is natural_gradient for Gaussians of full or diagonal
            covariance, batch_and_match for low_rank, and adam for other families.
        tolerance: nats of ELBO. The fit ends when the predicted gain of a longer one is below.
        max_evaluations: the most gradients of log_density in the fit. log Z takes at most ten times
            as many evaluations after it; its verdict is BUDGET where these are too few.
        constrain: names of `vi.CONSTRAINTS` for leaves of z, such as {"tau": "positive"}, other
            leaves being real; or a function of an unconstrained u, like `start`, to
            (z, log |det dz/du|). log_density takes the constrained z, without Jacobian. The fit is
            one of u; `q` and `resample` return z.
        log_prior: with `data`, the log-density of z before them; None is 0.
        data: a pytree of arrays [N, ...]. log_density(z, rows) is then the log-likelihood of some
            rows, a sum over them. `vi.adam(batch_size=...)` takes minibatches of them, other
            methods all rows. One evaluation is one of all rows.
        num_draws: draws for the ELBO and log Z, rounded up to a multiple of 1,000.
        throw: raise if the density is not finite, or its integral is infinite; False returns the
            outcome in `reason` and `problem`, with estimates of NaN.

    Raises ValueError or TypeError naming the argument for a log_density that does not map `start`
    to one number, a start with integers or numbers that are not finite, an unknown family or one of
    another dimension, and under jit, grad or vmap; FloatingPointError if the density is not finite
    at the start or for draws of q, or falls no faster than 1 / distance, with the leaf.

    Source: Kucukelbir et al. (2017), ADVI; Welandawe et al. (2024); Yao et al. (2018) for k-hat.
    """
    checks.host("vi.fit", INSIDE, key, start)
    key_fit, *keys = split(checks.key(key), 4)
    start, draw_start = check_draw(jax.random.fold_in(key_fit, 1), start)
    log_density = check_posterior(log_density, log_prior, data)
    density, constraint = check_density(log_density, start, constrain)
    family = check_family(family, density.dim)
    chosen = _check_method(method, family, density.dim)
    if not checks.number(tolerance, "tolerance") > 0:
        raise ValueError(f"tolerance: expected nats > 0, got {tolerance}")
    budget = checks.integer(max_evaluations, "max_evaluations", 1)
    num_chunks = -(-checks.integer(num_draws, "num_draws", 1) // quality.CHUNK)

    odd = _odd_leaf(density)
    if odd is not None and throw:
        raise FloatingPointError(odd)
    draw_start = unconstrained(draw_start, constraint)
    task = Task(density, family, tolerance, budget, draw_start)
    with compiling.in_background() as pool:
        if odd is None:
            improper.compile_ahead(density, pool)
            quality.compile_ahead(key, density, MOST_FOR_EVIDENCE * budget, pool)
        found = chosen.run(key_fit, task)
        fitted = _measure(keys, task, found, constraint, num_chunks, odd)
    if fitted.reason is Reason.DIVERGED and throw:
        raise FloatingPointError(fitted.problem)
    return fitted._replace(log_density=log_density)


def _measure(
    keys: list[Key[Array, ""]],
    task: Task,
    found: Found,
    constraint: Constraint | None,
    num_chunks: int,
    odd: str | None,
) -> VariationalFit:
    """The result, with the ELBO and log Z from new draws."""
    (key_draws, key_chains, key_lines), density = keys, task.density
    table = None if found.modes is None else found.modes.constrained(constraint)
    q = density.around(found.flat)
    first = quality.measure(key_draws, found.flat, density, num_chunks)
    reason, problem = _end(key_lines, density, found, first.elbo.value, odd)
    if problem is not None:
        first = quality.unknown(first)
    limit = MOST_FOR_EVIDENCE * task.max_evaluations
    measured = quality.refine(key_chains, found.flat, task, first, limit)
    of_z = lambda q: q if constraint is None else Constrained(q, constraint)  # noqa: E731
    evidence = quality.with_unseen(measured.evidence, table)
    return VariationalFit(
        q=of_z(q),
        elbo=first.elbo,
        importance=first.importance,
        log_evidence=evidence,
        reason=reason,
        evaluations=found.evaluations,
        evidence_evaluations=num_chunks * quality.CHUNK + measured.evaluations,
        trace=found.trace,
        method=found.method,
        log_density=density.log_density,
        proposal=of_z(density.around(measured.proposal)),
        modes=table,
        problem=problem,
    )


def _end(
    key: Key[Array, ""], density: Density, found: Found, elbo: Scalar, odd: str | None
) -> tuple[Reason, str | None]:
    """The reason, and the problem of a density that has no evidence."""
    if odd is not None:
        return Reason.START_NOT_FINITE, odd
    problem = improper.improper_leaf(key, density, found.flat)
    if problem is None and not np.isfinite(elbo):
        problem = (
            "log_density: not finite for draws of q; give `constrain` for a density on a part "
            f"of R^{density.dim}, or another start"
        )
    return found.reason if problem is None else Reason.DIVERGED, problem


def _check_method(method: str | Method, family: str | Family, dim: int) -> Method:
    """The method, if it fits the family."""
    if isinstance(method, str):
        name = checks.choice(method, "method", ("auto", *METHODS))
        method = METHODS[AUTO.get(str(family), "adam") if name == "auto" else name]()
    if not isinstance(method, Method):
        raise TypeError(
            f"method: expected auto, {', '.join(METHODS)} or what vi.adam(...) returns, got a "
            f"{type(method).__name__}"
        )
    if method.families is not None and family not in method.families:
        raise ValueError(
            f"family: expected one of {', '.join(method.families)} for this method, got {family}"
        )
    if method.families is None and family == "mixture":
        raise ValueError("method: expected auto, modes or pathfinder for the family mixture")
    if family in ("full_rank", "mixture") and dim > MAX_DIM:
        raise ValueError(
            f"family: expected low_rank or mean_field for {dim:,} numbers, got {family}, whose "
            f"covariance takes {dim**2 * 4 / 2**30:.1f} GiB, several times"
        )
    return method


def _odd_leaf(density: Density) -> str | None:
    """A message that names the leaf of the start where value or gradient is not finite, or None."""
    u = np.zeros(density.dim, density.dtype)
    value, gradient = value_and_grad(u, density)
    odd = np.flatnonzero(~np.isfinite(np.asarray(gradient)))
    if np.isfinite(value) and not odd.size:
        return None
    where = f"its gradient in {density.leaf(int(odd[0]))} is not" if odd.size else "its value is"
    return (
        f"log_density: expected a finite number with a finite gradient at the start, but {where} "
        f"{'finite' if odd.size else float(value)}; start where the density is finite"
    )
