"""Mixtures of the families that pomegranate has: rows, one start, and steps of EM on both sides.

The start is the M-step of given labels. For categorical columns lvm_jax softens the labels, because
EM never leaves a probability of 0: pomegranate then gets these probabilities.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

COMPONENTS, COLUMNS, LEVELS = 5, 16, 4
FAMILIES = ("normal", "exponential", "gamma", "Poisson", "Bernoulli", "categorical")


def rows(kind: str, seed: int, number: int) -> np.ndarray:
    """Float32 rows of overlapping components, [number, COLUMNS]."""
    rng = np.random.default_rng(seed)
    z = rng.integers(COMPONENTS, size=number)
    centres = rng.normal(size=(COMPONENTS, COLUMNS))[z]
    draws: dict[str, Callable[[], np.ndarray]] = {
        "normal": lambda: 1.5 * centres + rng.normal(size=centres.shape),
        "exponential": lambda: rng.exponential(np.exp(centres)),
        "gamma": lambda: rng.gamma(3.0, np.exp(centres)),
        "Poisson": lambda: rng.poisson(3 * np.exp(centres / 2)),
        "Bernoulli": lambda: rng.random(centres.shape) < 1 / (1 + np.exp(-2 * centres)),
        "categorical": lambda: rng.binomial(LEVELS - 1, 1 / (1 + np.exp(-2 * centres))),
    }
    return draws[kind]().astype(np.float32)


def labels(x: np.ndarray) -> np.ndarray:
    """The start of both: the nearest of the first rows."""
    return ((x[:, None] - x[None, :COMPONENTS]) ** 2).sum(2).argmin(1)


def ours(kind: str, x: np.ndarray, steps: int) -> Callable[[], float]:
    """Steps of `em.fit` from the labels; the log-likelihood per row after them."""
    import jax

    from lvm_jax import em

    family: dict[str, Any] = {
        "normal": "full",
        "exponential": em.Exponential(),
        "gamma": em.Gamma(),
        "Poisson": em.Poisson(),
        "Bernoulli": em.Bernoulli(),
        "categorical": em.Categorical((LEVELS,) * COLUMNS),
    }

    def fit() -> float:
        found = em.fit(
            jax.random.key(0), x, COMPONENTS, family[kind], start=labels(x), max_steps=steps,
            tolerance=0.0, regularization=0.0, throw=False,
        )  # fmt: skip
        return found.info.log_likelihood

    return fit


def theirs(kind: str, x: np.ndarray, steps: int) -> Callable[[], float]:
    """The same steps of pomegranate, without its checks of the data, after a first call."""
    import torch
    from pomegranate import distributions
    from pomegranate.gmm import GeneralMixtureModel

    make: dict[str, Any] = {
        "normal": distributions.Normal,
        "exponential": distributions.Exponential,
        "gamma": distributions.Gamma,
        "Poisson": distributions.Poisson,
        "Bernoulli": distributions.Bernoulli,
        "categorical": distributions.Categorical,
    }
    data = torch.tensor(x.astype(np.int64) if kind == "categorical" else x)
    group = labels(x)

    shares = np.bincount(group, minlength=COMPONENTS) / len(x)
    if kind == "categorical":
        shares, probabilities = softened(x)

    def start() -> list[Any]:
        if kind == "categorical":
            return [make[kind](part, check_data=False) for part in probabilities]
        parts = [make[kind](check_data=False) for _ in range(COMPONENTS)]
        return [part.fit(data[group == k]) for k, part in enumerate(parts)]

    def fit() -> float:
        options = {"max_iter": steps, "tol": -np.inf, "check_data": False}
        model = GeneralMixtureModel(start(), shares, **options)
        return float(model.fit(data).log_probability(data).mean())

    fit()
    return fit


def softened(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights [K] and probabilities [K, D, L] in the start of `ours`."""
    import jax

    from lvm_jax import em

    family = em.Categorical((LEVELS,) * COLUMNS)
    start = em.initialize(jax.random.key(0), x, COMPONENTS, family, start=labels(x))
    shape = COMPONENTS, COLUMNS, LEVELS
    return np.exp(start.log_weights).reshape(-1), np.array(start.components).reshape(shape)
