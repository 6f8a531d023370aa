"""All decompositions of a trained model and guide in one call."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from lvm_jax import annealing
from lvm_jax._core import checks
from lvm_jax._core.batching import num_rows
from lvm_jax._core.inputs import check_problem
from lvm_jax._core.keys import split
from lvm_jax.decomposition.aggregate import Surgery, surgery
from lvm_jax.decomposition.calibration import Calibration, calibrate
from lvm_jax.decomposition.gaps import Gaps, gaps
from lvm_jax.decomposition.local import Ascent
from lvm_jax.decomposition.rate_distortion import (
    Channel,
    RateDistortion,
    channel,
    rate_distortion,
)
from lvm_jax.diagnostics import ActiveUnits, active_units, posterior_means
from lvm_jax.estimate import Average, Estimate
from lvm_jax.evidence import Evidence
from lvm_jax.guides.base import Family
from lvm_jax.typing import Array, ArrayLike, ConditionalDensity, Float, Generative, Key


class Budget(NamedTuple):
    """The numbers of draws, steps and chains of each part."""

    num_samples: int = 1_000  # draws for every ELBO and expectation of one point
    num_steps: int = 1_000  # of local optimisation
    num_starts: int = 2
    aggregate_samples: int = 10  # draws of q(z | x_n) for the aggregate posterior
    num_chains: int = 50  # along beta
    num_simulations: int = 1_000  # pairs (z, x) for calibration
    num_ranked: int = 99  # draws of q for each of them
    num_bins: int = 20


class Row(NamedTuple):
    """A mean over the data, in nats, with its errors."""

    part: str
    quantity: str
    mean: Average  # sampling_error is NaN for a property of the whole data set


class Account(NamedTuple):
    """The parts: log p - ELBO, KL to the prior, active units, rate-distortion, calibration."""

    gaps: Gaps
    surgery: Surgery
    active: ActiveUnits | None  # None for a single data point
    channel: Channel
    curve: RateDistortion
    calibration: Calibration

    def as_rows(self) -> list[Row]:
        """The means over the data, as rows of a table."""
        found = self.gaps
        rows = [
            _row("gap", f"log p(x) ({found.source})", found.log_evidence),
            _row("gap", "ELBO of the guide", found.elbo),
            _row("gap", "inference gap", found.inference),
        ]
        for name, one in found.families.items():
            rows += [
                _row("gap", f"{name}: ELBO of the best q", one.elbo),
                _row("gap", f"{name}: approximation gap", one.approximation),
                _row("gap", f"{name}: amortisation gap", one.amortization),
                _row("gap", f"{name}: gain of the last steps", one.gain),
            ]
        parts = self.surgery
        rows += [
            _whole("KL to the prior", "mean KL", parts.kl),
            _whole("KL to the prior", "mutual information", parts.mutual_information),
            _whole("KL to the prior", "log N, its cap", Estimate(parts.log_num_points, 0.0)),
            _whole("KL to the prior", "marginal KL", parts.marginal_kl),
            _row("rate and distortion", "rate of the guide", self.channel.rate),
            _row("rate and distortion", "distortion of the guide", self.channel.distortion),
        ]
        return rows


def default_betas() -> Float[np.ndarray, " T1"]:
    """0, then 60 betas in geometric steps from 1e-4 to 1, and 15 more to 4, [76]."""
    low, high = np.geomspace(1e-4, 1.0, 60), np.geomspace(1.0, 4.0, 16)[1:]
    return np.concatenate([[0.0], low, high]).astype(np.float32)


def account(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    x: Any,
    *,
    families: Mapping[str, Family],
    log_evidence: Evidence | ArrayLike | None = None,
    betas: ArrayLike | None = None,
    transition: annealing.Transition | None = None,
    budget: Budget = Budget(),  # noqa: B008
) -> Account:
    """`gaps`, `surgery`, `active_units`, `channel`, `rate_distortion` and `calibrate` together.

    For the points x [N, ...], each part with its own key; see the docstrings of the parts. Without
    a `log_evidence`, [N], log p comes from importance sampling with the best local q; pass that of
    `evidence.evaluate_annealed` for publication. `betas` are `default_betas()` by default.
    `decomposition.report` writes a page, `as_rows` a table.

    Raises as its parts.
    """
    checks.host("decomposition.account", "decomposition.decompose", key, p, q, x)
    checks.key(key)
    x = check_problem(p, q, x)
    keys = split(key, 6)
    common = p, q, x
    moves = 0 if transition is not None and not transition.continuous else 8
    return Account(
        gaps(
            keys[0], *common, families=families, num_samples=budget.num_samples,
            log_evidence=log_evidence,
            ascent=Ascent(budget.num_steps, num_starts=budget.num_starts),
        ),
        surgery(keys[1], *common, budget.aggregate_samples),
        _active(keys[2], q, x, budget.num_samples),
        channel(keys[3], *common, budget.num_samples),
        rate_distortion(
            keys[4], p, x, budget.num_chains,
            betas=default_betas() if betas is None else betas, transition=transition,
            num_pilot=moves,
        ),
        calibrate(
            keys[5], p, q, budget.num_simulations, budget.num_ranked,
            num_bins=budget.num_bins,
        ),
    )  # fmt: skip


def _active(
    key: Key[Array, ""], q: ConditionalDensity, x: Any, num_samples: int
) -> ActiveUnits | None:
    if num_rows(x) < 2:
        return None
    return active_units(posterior_means(key, q, x, num_samples))


def _row(part: str, quantity: str, found: Estimate) -> Row:
    return Row(part, quantity, jax.tree.map(float, found.average()))


def _whole(part: str, quantity: str, found: Estimate) -> Row:
    return Row(part, quantity, Average(float(found.value), float(found.standard_error), np.nan))
