"""Reference posteriors of posteriordb, from a local clone, and the errors of a fit against them."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np

from lvm_jax._core.nearest import suggestion
from lvm_jax.typing import Array, Key, Latent
from lvm_jax.vi.export import named_draws
from lvm_jax.vi.result import VariationalFit

ELEMENT = re.compile(r"(.+)\[([\d,]+)\]")  # of an array: "theta[2]", "L[2,1]", from 1


class ReferencePosterior(NamedTuple):
    """The data and the reference draws of a posterior of posteriordb."""

    name: str
    data: dict[str, Any]  # numbers and arrays, for a log-density of one's own
    draws: dict[str, np.ndarray]  # [chains, draws, ...] in Stan's parameters; empty if it has none

    @property
    def mean(self) -> dict[str, np.ndarray]:
        """The posterior mean of each variable."""
        return {name: np.asarray(value.mean((0, 1))) for name, value in self.draws.items()}

    @property
    def standard_deviation(self) -> dict[str, np.ndarray]:
        """The posterior standard deviation of each variable."""
        return {name: np.asarray(value.std((0, 1))) for name, value in self.draws.items()}


class Comparison(NamedTuple):
    """The errors of a fit against reference draws."""

    mean_error: dict[str, np.ndarray]  # of the mean, in standard deviations of the reference
    scale_ratio: dict[str, np.ndarray]  # standard deviation of the fit / that of the reference
    missing: tuple[str, ...]  # variables of the reference that the fit does not have
    k_hat: float  # of the fit's weights; above 0.7 the draws cannot be trusted

    @property
    def largest_error(self) -> float:
        """The largest error of a mean, in standard deviations of the reference."""
        return max(float(np.abs(error).max()) for error in self.mean_error.values())


def posteriordb(path: str | Path, name: str) -> ReferencePosterior:
    """The data and the reference draws of posterior `name` in a clone of stan-dev/posteriordb.

    `path` is the clone, or its folder posterior_database. The model is Stan code, which is not
    translated: write its log-density from `data`. The draws are in the parameters of the Stan model
    (constrained), usually 10 chains of 1,000 nearly independent draws, so that their means have an
    error of about 0.01 standard deviations.

    Raises FileNotFoundError if `path` is no such folder or lacks a file, and ValueError for an
    unknown name. Source: Magnusson et al. (2025), posteriordb.
    """
    folder = Path(path)
    folder = folder / "posterior_database" if (folder / "posterior_database").is_dir() else folder
    names = sorted(file.stem for file in folder.glob("posteriors/*.json"))
    if not names:
        raise FileNotFoundError(
            f"path: expected a clone of stan-dev/posteriordb, with posteriors/*.json, got {path}"
        )
    if name not in names:
        raise ValueError(
            f"name: expected one of the {len(names)} posteriors in {folder / 'posteriors'}, got "
            f"{name!r}{suggestion(str(name), names, cutoff=0.6)}"
        )
    about = json.loads((folder / "posteriors" / f"{name}.json").read_text(encoding="utf-8"))
    data = _read(folder / "data" / "data", about["data_name"])
    reference = about.get("reference_posterior_name")
    place = folder / "reference_posteriors" / "draws" / "draws"
    draws = _draws(_read(place, reference)) if reference else {}
    return ReferencePosterior(name, {key: _array(value) for key, value in data.items()}, draws)


def compare_to_reference(
    key: Key[Array, ""],
    fit: VariationalFit,
    reference: ReferencePosterior,
    constrain: Callable[[Latent], Any] | None = None,
    num_draws: int = 10_000,
) -> Comparison:
    """The errors of the means and standard deviations of `fit.resample` against reference draws.

        error = (mean of the fit - mean of the reference) / standard deviation of the reference

    `constrain` maps one z to variables by name; those with the names of the reference are compared.

    Raises ValueError if the reference has no draws, no variable has a name of the reference, or a
    variable has another shape.
    """
    if not reference.draws:
        raise ValueError(f"reference: expected draws, but {reference.name} has none")
    found = named_draws(key, fit, num_draws, constrain)
    names = [name for name in reference.draws if name in found.variables]
    if not names:
        raise ValueError(
            f"constrain: expected some of the variables {', '.join(reference.draws)}, got "
            f"{', '.join(found.variables)}"
        )
    errors, ratios = {}, {}
    mean, deviation = reference.mean, reference.standard_deviation
    for name in names:
        draws = np.asarray(found.variables[name], float)
        if draws.shape[1:] != mean[name].shape:
            raise ValueError(
                f"constrain: expected {name} of shape {list(mean[name].shape)}, as in the "
                f"reference, got {list(draws.shape[1:])}"
            )
        errors[name] = np.asarray((draws.mean(0) - mean[name]) / deviation[name])
        ratios[name] = np.asarray(draws.std(0) / deviation[name])
    missing = tuple(name for name in reference.draws if name not in names)
    return Comparison(errors, ratios, missing, float(found.resampled.k_hat))


def _read(folder: Path, name: str) -> Any:
    """The JSON file in `name`.json.zip."""
    with ZipFile(folder / f"{name}.json.zip") as archive:
        return json.loads(archive.read(f"{name}.json"))


def _array(value: Any) -> Any:
    """A list as an array, unless its rows have different lengths; other values as they are."""
    if not isinstance(value, list):
        return value
    try:
        return np.array(value)
    except ValueError:
        return value


def _draws(chains: list[dict[str, list[float]]]) -> dict[str, np.ndarray]:
    """The variables, [chains, draws, ...], from chains of numbers such as "theta[2]"."""
    parts: dict[str, dict[tuple[int, ...], np.ndarray]] = {}
    for element in chains[0]:
        split = ELEMENT.fullmatch(element)
        name, index = split.groups() if split else (element, "")
        place = tuple(int(one) - 1 for one in index.split(",") if one)
        parts.setdefault(name, {})[place] = np.array([chain[element] for chain in chains], float)
    return {name: _assembled(part) for name, part in parts.items()}


def _assembled(part: dict[tuple[int, ...], np.ndarray]) -> np.ndarray:
    """One array from its elements; NaN where there is none."""
    if () in part:
        return part[()]
    shape = tuple(int(last) + 1 for last in np.max(list(part), axis=0))
    sizes = next(iter(part.values())).shape
    found = np.full((*sizes, math.prod(shape)), np.nan)
    for place, values in part.items():
        found[:, :, np.ravel_multi_index(place, shape)] = values
    return found.reshape(*sizes, *shape)
