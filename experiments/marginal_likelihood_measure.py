"""Estimates of log p(x) over repeats, what they say of themselves, and how far off they are."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.marginal_likelihood_beds import Bed
from lvm_jax import bounds, diagnostics, weights
from lvm_jax.typing import Array, Float, Key

WITHIN = 0.1  # nats: an estimate this close is called good
SORTED_REPEATS = 20  # whose weights are sorted for the concentration


class Estimates(NamedTuple):
    """What one estimate consists of; leaves [R]."""

    log_evidence: np.ndarray
    standard_error: np.ndarray
    ess: np.ndarray
    k_hat: np.ndarray


class Cell(NamedTuple):
    """R estimates of log p(x) by one method with S draws each, beside the truth."""

    num_samples: int
    errors: np.ndarray  # log p-hat - log p, [R], in nats
    mean_error: float
    sd_error: float
    rmse: float
    quantiles: np.ndarray  # 10%, 50%, 90% of the errors
    reported_error: float  # median of the standard errors that the estimates report
    coverage: float  # share of estimates whose own interval, +- 2 standard errors, holds log p
    share_within: float  # share of estimates within WITHIN of log p
    ess: float  # median
    k_hat: float  # median

    def numbers(self) -> dict[str, Any]:
        """All but the single errors, for a file."""
        return {name: value for name, value in self._asdict().items() if name != "errors"}


def measure(
    key: Key[Array, ""], bed: Bed, num_samples: tuple[int, ...], num_repeats: int
) -> tuple[dict[str, list[Cell]], dict[str, np.ndarray]]:
    """Cells of every method and S, and the mean share of the weight that the n largest hold."""
    log_w = draw_all(key, bed, num_samples[-1], num_repeats)
    cells = {
        name: [cell(estimate(rows[:, :size]), size, bed.log_evidence) for size in num_samples]
        for name, rows in log_w.items()
    }
    return cells, {name: top_shares(np.asarray(rows)) for name, rows in log_w.items()}


def draw_all(
    key: Key[Array, ""], bed: Bed, num_samples: int, num_repeats: int
) -> dict[str, Float[Array, "R S"]]:
    """The log-weights of every method, by one program; one repeat at a time stays in cache."""

    @jax.jit
    def run(keys: Key[Array, " R"]) -> dict[str, Float[Array, "R S"]]:
        def one(key: Key[Array, ""]) -> dict[str, Float[Array, " S"]]:
            own = jax.random.split(key, len(bed.methods))
            return {
                name: weights.log_weights(k, bed.log_joint, q, num_samples)
                for k, (name, q) in zip(own, bed.methods.items(), strict=True)
            }

        return jax.lax.map(one, keys)

    found = run(jax.random.split(key, num_repeats))
    return {name: found[name] for name in bed.methods}  # jit sorts the names


@jax.jit
def _estimate(log_w: Float[Array, "R S"]) -> Estimates:
    def one(log_w: Float[Array, " S"]) -> Estimates:
        size, ess = log_w.shape[0], diagnostics.effective_sample_size(log_w)
        # sqrt(Var(w) / S) / mean(w), written by the ESS = (sum w)^2 / sum w^2
        error = jnp.sqrt(jnp.maximum(size / ess - 1, 0) / (size - 1))
        return Estimates(bounds.iwae(log_w), error, ess, diagnostics.pareto_k(log_w))

    return jax.vmap(one)(log_w)


def estimate(log_w: Float[Array, "R S"]) -> Estimates:
    """log (1/S) sum_s w_s with its own standard error, ESS and k-hat, of every repeat."""
    return jax.tree.map(partial(np.asarray, dtype=np.float64), _estimate(log_w))


def cell(found: Estimates, num_samples: int, log_evidence: float) -> Cell:
    """The estimates beside the truth."""
    errors = found.log_evidence - log_evidence
    return Cell(
        num_samples=num_samples,
        errors=errors,
        mean_error=float(errors.mean()),
        sd_error=float(errors.std(ddof=1)),
        rmse=float(np.sqrt((errors**2).mean())),
        quantiles=np.quantile(errors, [0.1, 0.5, 0.9]),
        reported_error=float(np.median(found.standard_error)),
        coverage=float((np.abs(errors) <= 2 * found.standard_error).mean()),
        share_within=float((np.abs(errors) <= WITHIN).mean()),
        ess=float(np.median(found.ess)),
        k_hat=float(np.median(found.k_hat)),
    )


def top_shares(log_w: Float[np.ndarray, "R S"]) -> Float[np.ndarray, " S"]:
    """The share of the total weight in the n largest weights, n = 1, ..., S, over a few repeats."""
    rows = log_w[:SORTED_REPEATS].astype(np.float64)
    w = np.sort(np.exp(rows - rows.max(1, keepdims=True)), axis=1)[:, ::-1]
    return (np.cumsum(w, axis=1) / w.sum(1, keepdims=True)).mean(0)
