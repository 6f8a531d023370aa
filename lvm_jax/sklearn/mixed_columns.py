"""Tables of mixed columns: the family of each column, and the codes of its levels."""

from typing import Any, NamedTuple

import numpy as np

from lvm_jax import em
from lvm_jax.em.families import ExponentialFamily

FAMILIES: dict[str, Any] = {
    "bernoulli": em.Bernoulli(),
    "categorical": em.Categorical,
    "diag": em.GAUSSIANS["diag"],
    "exponential": em.Exponential(),
    "full": em.GAUSSIANS["full"],
    "gamma": em.Gamma(),
    "gaussian": em.GAUSSIANS["diag"],
    "multinomial": em.Multinomial(),
    "negative_binomial": em.NegativeBinomial,
    "poisson": em.Poisson(),
    "spherical": em.GAUSSIANS["spherical"],
    "tied": em.GAUSSIANS["tied"],
    "von_mises_fisher": em.VonMisesFisher(),
}
CATEGORIES = ("category", "object", "bool", "boolean", "string", "str")  # dtypes of data frames


class Columns(NamedTuple):
    """What a fit has found about the columns."""

    names: list[Any]
    families: list[Any]  # of each column: a name of FAMILIES, or an em.ExponentialFamily
    levels: dict[Any, np.ndarray]  # of the categorical columns, by name

    def encode(self, table: np.ndarray) -> np.ndarray:
        """Numbers [N, D] of float64 from a table: codes of levels, and NaN for missing entries."""
        if table.dtype.kind in "fiub" and not self.levels:
            return table.astype(np.float64)
        out = np.empty(table.shape, np.float64)
        for d, name in enumerate(self.names):
            read = _codes if name in self.levels else _numbers
            out[:, d] = read(table[:, d], name, self.levels.get(name))
        return out

    def decode(self, x: np.ndarray) -> np.ndarray:
        """The table of numbers x: of objects if a column is categorical."""
        if not self.levels:
            return x
        out = x.astype(object)
        for d, name in enumerate(self.names):
            if name in self.levels:
                out[:, d] = self.levels[name][x[:, d].astype(int)]
        return out

    def product(self, x: np.ndarray) -> em.Product:
        """The family of all columns; those of one family are one block."""
        blocks: dict[Any, list[int]] = {}
        for d, family in enumerate(self.families):
            blocks.setdefault(family, []).append(d)
        made = [(self._family(family, x[:, own], own), own) for family, own in blocks.items()]
        return em.Product(made)

    def _family(self, family: Any, x: np.ndarray, own: list[int]) -> ExponentialFamily:
        if family == "categorical":
            return em.Categorical(tuple(len(self.levels[self.names[d]]) for d in own))
        if family == "negative_binomial":  # the next power of two over twice the largest count
            top = max(float(np.nanmax(x, initial=0)), 1.0)
            return em.NegativeBinomial(2 ** int(np.ceil(np.log2(2 * top))))
        return FAMILIES.get(family, family)

    def spread_out(self, x: np.ndarray) -> np.ndarray:
        """Columns for k-means: standardised numbers, and an indicator of each level."""
        parts = []
        for d, name in enumerate(self.names):
            column = x[:, d]
            if name in self.levels:
                parts.append(column[:, None] == np.arange(len(self.levels[name])))
                continue
            deviation = np.nanstd(column)
            centred = (column - np.nanmean(column)) / (deviation if deviation > 0 else 1)
            parts.append(np.nan_to_num(centred)[:, None])
        return np.concatenate(parts, 1).astype(np.float64)

    def filled(self, x: np.ndarray) -> np.ndarray:
        """Numbers with the column's mean for missing ones; missing categories stay NaN."""
        means = np.nanmean(x, axis=0)
        means[[name in self.levels for name in self.names]] = np.nan
        return np.where(np.isnan(x), means, x)


def describe(columns: Any, X: Any, table: np.ndarray, names: list[Any]) -> Columns:
    """The columns of a fit, from the parameter `columns`."""
    families = _families(columns, X, table, names)
    levels = {}
    for d, name in enumerate(names):
        if families[d] == "categorical":
            levels[name] = _levels(table[:, d], name)
    return Columns(names, families, levels)


def _families(columns: Any, X: Any, table: np.ndarray, names: list[Any]) -> list[Any]:
    if columns is None:
        return [_guess(X, table, d) for d in range(len(names))]
    if not isinstance(columns, dict):
        found = list(columns)
        if len(found) != len(names):
            raise ValueError(
                f"columns: expected a family for each of {len(names)} columns, got {len(found)}"
            )
        return [_known(family) for family in found]
    found = [None] * len(names)
    for family, own in columns.items():
        for column in own:
            d = names.index(column) if column in names else column
            if not isinstance(d, int | np.integer) or not 0 <= d < len(names):
                raise ValueError(f"columns: expected columns of X, {names}, got {column!r}")
            if found[d] is not None:
                raise ValueError(f"columns: expected one family for {names[d]!r}, got two")
            found[d] = _known(family)
    lost = [name for name, family in zip(names, found, strict=True) if family is None]
    if lost:
        raise ValueError(f"columns: expected a family for each column, got none for {lost}")
    return found


def _known(family: Any) -> Any:
    if isinstance(family, ExponentialFamily) or (isinstance(family, str) and family in FAMILIES):
        return family
    raise ValueError(
        f"columns: expected a family of {', '.join(FAMILIES)}, or an em.ExponentialFamily, got "
        f"{family!r}"
    )


def _guess(X: Any, table: np.ndarray, d: int) -> str:
    """categorical for text, booleans and categories, gaussian for numbers."""
    if hasattr(X, "dtypes") and hasattr(X, "iloc"):
        kind = str(X.dtypes.iloc[d])
        if kind not in ("object", "str", "string"):
            return "categorical" if kind in CATEGORIES else "gaussian"
    if table.dtype.kind in "fiub":
        return "gaussian"
    values = [value for value in table[:, d] if not _is_missing(value)]
    return (
        "categorical" if any(isinstance(v, str | bool | np.bool_) for v in values) else "gaussian"
    )


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ == "NAType":
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _levels(column: np.ndarray, name: Any) -> np.ndarray:
    """The different values of a column, sorted."""
    found = {value for value in column.tolist() if not _is_missing(value)}
    if not found:
        raise ValueError(f"X: expected an observed value in the column {name!r}, got none")
    ordered = sorted(found, key=lambda value: (type(value).__name__, value))
    levels = np.empty(len(ordered), object)
    levels[:] = ordered
    return levels


def _codes(column: np.ndarray, name: Any, levels: Any) -> np.ndarray:
    """The number of each value's level."""
    code = {level: number for number, level in enumerate(levels)}
    out = np.full(len(column), np.nan)
    for row, value in enumerate(column.tolist()):
        if value in code:
            out[row] = code[value]
        elif not _is_missing(value):
            raise ValueError(
                f"X: the column {name!r} has the level {value!r} in row {row}, which is not a "
                f"level of the fit: {list(levels)[:20]}; set it to NaN, or fit with rows of it"
            )
    return out


def _numbers(column: np.ndarray, name: Any, levels: Any) -> np.ndarray:
    """The values of a numeric column."""
    out = np.full(len(column), np.nan)
    for row, value in enumerate(column.tolist()):
        if _is_missing(value):
            continue
        try:
            out[row] = float(value)
        except TypeError as error:
            raise TypeError(
                f"X: argument must be a string or a number, got {type(value).__name__} in row "
                f"{row} of the column {name!r}"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"X: expected numbers in the column {name!r}, got {value!r} in row {row}; a column "
                "of levels is 'categorical'"
            ) from error
    return out
