"""The data of a run, its folds, and the options that depend on the data."""

import dataclasses
import warnings
from typing import NamedTuple

import jax
import numpy as np

from experiments.gmm_em.all_rows import load as load_rows
from experiments.gmm_em.config import Config, Covariance
from experiments.gmm_em.search import models
from lvm_jax import data, em
from lvm_jax._core import checks as check
from lvm_jax.em import incomplete, inputs
from lvm_jax.em.sources import Source


class Loaded(NamedTuple):
    """The data and the completed options."""

    config: Config  # with the defaults that depend on the data
    dataset: data.Dataset  # after standardisation and PCA
    original: data.Dataset  # before them
    pca: data.PCA | None
    folds: list[np.ndarray]  # indices of the points held out together
    source: Source | None = None  # of all rows, if these are a sample


def load(config: Config) -> Loaded:
    """Read and transform the data, fill in the defaults, and check that every fit is possible."""
    original, source = load_rows(config)
    original = dataset = with_values(original)
    incomplete.check_columns(original.x, "data")
    config = filled(config, original.x)
    if config.standardize:
        dataset = dataset.standardized()
    pca = None
    if config.pca_dim is not None:
        check.points(dataset.x, "pca_dim: data")
        dataset, pca = data.reduce(dataset, config.pca_dim)
    if dataset.x.shape[1] == 1:  # full, diag and spherical are equal in one dimension
        is_tied = config.covariance == "tied"
        other = [c for c in config.compare if (c == "tied") != is_tied][:1]
        config = dataclasses.replace(config, compare=(config.covariance, *other))
    order = jax.random.permutation(keys(config)[2][0], len(dataset.x))
    folds = np.array_split(np.asarray(order), config.num_folds)
    check_fits(dataset.x, config, folds)
    return Loaded(config, dataset, original, pca, folds, source)


def with_values(dataset: data.Dataset) -> data.Dataset:
    """The rows with at least one value."""
    empty = np.isnan(dataset.x).all(1)
    if not empty.any():
        return dataset
    source = f"{dataset.source}, without {empty.sum():,} empty rows"
    return dataset._replace(x=dataset.x[~empty], source=source)


def keys(config: Config) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Keys of the fit, the comparison, the folds (order and fits) and the samples."""
    fit, comparison, folds, samples = jax.random.split(jax.random.key(config.seed), 4)
    return fit, comparison, jax.random.split(folds), samples


def filled(config: Config, x: np.ndarray) -> Config:
    """The options with defaults that depend on the data; refuses too many components."""
    k, largest, pca_dim = config.num_components, config.max_components, config.pca_dim
    if k is None:
        k = {"old_faithful": 2, "digits": 10}.get(config.data, 3)
    if largest is None:
        largest = min(max(6, 2 * k), len(x) // 2, len(np.unique(x, axis=0)))
    if pca_dim is None and config.data == "digits" and config.columns is None:
        pca_dim = 16
    elif pca_dim is not None and pca_dim > min(x.shape):
        raise ValueError(f"pca_dim: expected at most {min(x.shape)} for {x.shape}, got {pca_dim}")
    num_refits = config.num_refits
    if num_refits is None:
        num_refits = 200 if x.size * x.shape[1] * k <= 1e6 else 0
    needed = 2 * max(k, largest, config.num_folds)
    if len(x) < needed:
        raise ValueError(
            f"data: expected at least {needed} rows for {k} components, {config.num_folds} folds "
            f"and a comparison of up to {largest} components, got {len(x)}; lower --num-components, "
            "--num-folds or --max-components"
        )
    changes = {"num_components": k, "max_components": largest, "pca_dim": pca_dim}
    config = dataclasses.replace(config, **changes, num_refits=num_refits)
    return dataclasses.replace(config, search=models(x, config))


def check_fits(x: np.ndarray, config: Config, folds: list[np.ndarray]) -> None:
    """Refuse data for which a fit of the grid or of a fold is impossible."""
    if (x == x[0]).all():
        raise ValueError(f"data: expected rows that differ, got {len(x)} equal ones")
    with warnings.catch_warnings(action="ignore"):  # the fits issue them again
        for covariance, k in comparison_grid(config):
            inputs.check_data(x, k, em.GAUSSIANS[covariance], None, config.regularization)
    for number, fold in enumerate(folds, 1):
        name, rest = f"data outside fold {number} of {len(folds)}", np.delete(x, fold, axis=0)
        check.distinct_rows(rest, config.num_components, name)
        incomplete.check_columns(rest, name)


def comparison_grid(config: Config) -> list[tuple[Covariance, int]]:
    """The (covariance type, K) to compare, the mixture's own first; at most seven values of K.

    Every cell compiles for about a second, so other types use the mixture's K and its neighbours.
    """
    own, most = (config.covariance, config.num_components), config.max_components
    spaced = np.linspace(1, most, min(most, 6)).round().astype(int).tolist()
    sizes = sorted({*spaced, config.num_components})
    place = sizes.index(config.num_components)
    around = sizes[max(place - 1, 0) : place + 2]
    others = [(c, k) for c in config.compare if c != config.covariance for k in around]
    return [*dict.fromkeys([own, *((config.covariance, k) for k in sizes), *others])]
