"""The search over the covariance models of mclust and K, by BIC."""

from typing import Any

import jax
import numpy as np

from experiments.gmm_em.config import Config
from lvm_jax import em
from lvm_jax._core import checks
from lvm_jax.report import Run

MOST_ROWS, MOST_COLUMNS = 2_000, 5  # of data that are searched unless the options say otherwise
RESTARTS, TOLERANCE = 5, 1e-6
NONE = ("none",)


def models(x: np.ndarray, config: Config) -> tuple[str, ...]:
    """The models of the options; by default all for small, complete data of two or more columns."""
    if config.search is not None:
        for name in config.search if config.search != NONE else ():
            checks.choice(name, "search", tuple(em.COVARIANCE_FAMILIES))
        return config.search
    small = len(x) <= MOST_ROWS and 2 <= x.shape[1] <= MOST_COLUMNS
    if not small or config.pca_dim is not None or np.isnan(x).any():
        return NONE
    return tuple(em.COVARIANCE_FAMILIES)


def search(key: jax.Array, x: np.ndarray, config: Config, run: Run) -> em.Selection:
    """Fit K = 1 to `max_components` in every model."""
    run.note(f"{len(config.search or ())} covariance models, K = 1 to {config.max_components}")
    return em.select(
        key, x, range(1, (config.max_components or 1) + 1), families=config.search,
        num_restarts=min(config.num_restarts, RESTARTS), start=config.start,
        tolerance=max(config.tolerance, TOLERANCE), max_steps=config.max_steps,
        regularization=config.regularization, throw=False,
    )  # fmt: skip


def rows(found: em.Selection) -> list[dict[str, Any]]:
    """The fits for results.json."""
    return [
        {
            "model": one.family, "num_components": one.num_components,
            "outcome": one.fit.info.outcome.name, "is_singular": one.is_singular,
            **one.criteria._asdict(),
        }
        for one in found.table
    ]  # fmt: skip


def lowest(found: em.Selection, number: int = 5) -> list[em.Candidate]:
    """The fits with the lowest BIC that are not singular."""
    sound = [one for one in found.table if not one.is_singular]
    return sorted(sound, key=lambda one: one.criteria.bic)[:number]
