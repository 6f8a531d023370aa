"""log p(x) by nested sampling, without q: for a second opinion, and for phase transitions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import distributions, weights
from lvm_jax._core import checks
from lvm_jax.evidence.result import Check, Evidence
from lvm_jax.typing import Array, Distribution, Float, Int, Key, Latent, Scalar

DELETED = 10  # one in as many live points is replaced in an iteration
STEPS = 3  # slice moves of a new point, in units of D; at least 6
MAX_VOLUMES = 100  # nats of prior volume after which a run ends


class Nested(NamedTuple):
    """The evidence of R independent runs, and their diagnostics."""

    evidence: Evidence  # num_samples is the number of runs
    log_evidences: Float[Array, " R"]
    information: Float[Array, " R"]  # KL(posterior || prior), nats
    remaining: Float[Array, " R"]  # share of p(x) that the live points held at the end
    evaluations: Int[Array, " R"]  # of the log-likelihood


class _Run(NamedTuple):
    state: Any  # of blackjax
    mean: Scalar  # of log p(x | z) by the weights of the dead points
    evaluations: Int[Array, ""]
    iteration: Int[Array, ""]


def nested(
    key: Key[Array, ""],
    log_likelihood: Callable[[Latent], Scalar],
    prior: Distribution,
    num_live: int = 500,
    *,
    num_runs: int = 4,
    remaining: float = 1e-8,
) -> Nested:
    """log p(x) = log E_{p(z)}[p(x | z)] by nested slice sampling, of ONE data point, in nats.

        p(x) = int_0^1 L(X) dX,    X(L) = the prior's mass where p(x | z) > L

    `num_live` draws of the prior climb through rising limits L. In an iteration a tenth of them,
    those of the lowest likelihood, are replaced by slice moves from the others within the new limit
    (3 D moves along directions of the live points' covariance). A run ends when the live points
    hold less than a share of `remaining` of p(x). A narrow peak within a broad one, whose mass no
    live point has seen at that time, is missed: hence the small default.

    The estimate is the mean of `num_runs` runs. The standard error is the larger of their spread
    and of sqrt(H / num_live) / sqrt(num_runs), where H is the information, KL(posterior || prior).
    Both assume that the moves forget where they start; those of separated modes do not. k-hat and
    ESS are not defined: they are NaN. `failed` has BUDGET where a run did not end after 100 nats of
    volume, and SPREAD where the runs differ by more than five times the error that H predicts.

    Memory grows with num_runs num_live. The function is unjitted.

    Raises ValueError for num_live < 20, num_runs < 2, or `remaining` outside (0, 1); TypeError for
    a discrete prior.

    Source: Skilling (2006); Yallup, Kroupa and Handley (2026) for the slice moves of blackjax.
    """
    checks.key(key)
    num_live = checks.integer(num_live, "num_live", 2 * DELETED)
    num_runs = checks.integer(num_runs, "num_runs", 2)
    if not 0 < checks.number(remaining, "remaining") < 1:
        raise ValueError(f"remaining: expected a share in (0, 1), got {remaining}")
    weights.check_log_prob(prior, "prior")
    if distributions.is_discrete(prior):
        raise TypeError("prior: expected one of a real-valued z, got a discrete one")
    keys = jax.random.split(key, num_runs)
    run = lambda key: _run(key, log_likelihood, prior, num_live, remaining)  # noqa: E731
    ends, information = jax.lax.map(run, keys)
    share = jnp.exp(ends.state.integrator.logZ_live - _log_z(ends))
    evidence = _evidence(_log_z(ends), information / num_live, share > remaining)
    return Nested(evidence, _log_z(ends), information, share, ends.evaluations)


def _log_z(run: _Run) -> Array:
    integrator = run.state.integrator
    return jnp.logaddexp(integrator.logZ, integrator.logZ_live)


def _run(
    key: Key[Array, ""],
    log_likelihood: Callable[[Latent], Scalar],
    prior: Distribution,
    num_live: int,
    remaining: float,
) -> tuple[_Run, Scalar]:
    """The end of one run, and its information."""
    from blackjax import nss

    key_start, key_init, key_steps = jax.random.split(key, 3)
    z = weights.draw(key_start, prior, num_live)
    dim = sum(leaf[0].size for leaf in jax.tree.leaves(z))
    sampler = nss(prior.log_prob, log_likelihood, max(STEPS * dim, 6), num_live // DELETED)

    def more(run: _Run) -> Array:
        integrator = run.state.integrator
        live = integrator.logZ_live - _log_z(run)
        return (live > jnp.log(remaining)) & (integrator.logX > -MAX_VOLUMES)

    def step(run: _Run) -> _Run:
        state, info = sampler.step(jax.random.fold_in(key_steps, run.iteration), run.state)
        share = jnp.exp(run.state.integrator.logZ - state.integrator.logZ)
        dead = info.particles.loglikelihood
        dead = jnp.where(jnp.isneginf(dead), 0.0, dead).mean()
        slices = info.update_info
        spent = (slices.num_expansions + slices.num_shrink + 2).sum()
        mean = share * run.mean + (1 - share) * dead
        return _Run(state, mean, run.evaluations + spent, run.iteration + 1)

    state = sampler.init(z, rng_key=key_init)
    zero = jnp.zeros_like(state.integrator.logZ_live)
    end = jax.lax.while_loop(more, step, _Run(state, zero, jnp.int32(num_live), jnp.int32(0)))
    return end, jnp.maximum(end.mean - end.state.integrator.logZ, 0.0)


def _evidence(
    log_z: Float[Array, " R"], variance: Float[Array, " R"], unfinished: Array
) -> Evidence:
    """The mean of the runs, with the larger of two errors."""
    log_z, variance = jnp.asarray(log_z), jnp.asarray(variance)
    number = log_z.size
    spread, own = log_z.var(ddof=1), variance.mean()
    error = jnp.sqrt(jnp.maximum(spread, own) / number)
    odd = [(~jnp.isfinite(log_z)).any(), unfinished.any(), spread > 25 * jnp.maximum(own, 1e-6)]
    checks_ = [Check.NONFINITE, Check.BUDGET, Check.SPREAD]
    bits = [jnp.where(bad, jnp.int32(check), 0) for bad, check in zip(odd, checks_, strict=True)]
    nan, none = jnp.full_like(error, jnp.nan), jnp.int32(0)
    counts = (jnp.int32(number), jnp.isnan(log_z).sum(), none, jnp.isneginf(log_z).sum())
    return Evidence(log_z.mean(), error, nan, nan, *counts, jnp.stack(bits).sum())
