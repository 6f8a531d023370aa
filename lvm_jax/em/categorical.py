"""Categorical components (latent class analysis), and counts of categories."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core import checks
from lvm_jax.em.families import IMPOSSIBLE, ExponentialFamily, Settings, Sums
from lvm_jax.em.masked import Masked
from lvm_jax.em.refusals import OutsideSupport
from lvm_jax.typing import Array, Float, Int, Key, Params

# Probabilities below this are named as estimates on the boundary.
ZERO = 1e-10


@dataclass(frozen=True)
class Categorical(Masked):
    """Independent categories: column d has one of L_d levels, coded 0, 1, ..., L_d - 1.

    t(x) has a column for each level of each column, 1 where the entry has this level, and

        log p(x | z=k) = sum_d log p_kd(x_d),    p_kd(l) = sum_n r_nk [x_nd = l] / sum_n r_nk

    (latent class analysis; Goodman 1974). Components are probabilities, [K, sum_d L_d], column
    after column. A probability of 0 is kept, and `Info.boundary` names it: a row that needs it
    in every component has log p(x) = -inf. NaN is a missing entry.

    Args:
        levels: L_d of each column, or one number for all columns.

    Raises ValueError for a code that is not a level, with its row and column.
    """

    levels: Any
    keeps_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.levels, int | np.integer):
            object.__setattr__(self, "levels", checks.integer(self.levels, "levels", 1))
        else:
            sizes = tuple(checks.integer(size, "levels", 1) for size in self.levels)
            object.__setattr__(self, "levels", sizes)

    def sizes(self, dim: int) -> np.ndarray:
        """The number of levels of each of D columns."""
        return np.broadcast_to(np.asarray(self.levels, int), (dim,))

    def places(self, dim: int) -> tuple[np.ndarray, np.ndarray]:
        """The column and the level of each probability."""
        sizes = self.sizes(dim)
        levels = np.concatenate([np.arange(size) for size in sizes])
        return np.repeat(np.arange(dim), sizes), levels

    def num_columns(self, components: Params) -> int:
        """D, from the probabilities."""
        if isinstance(self.levels, tuple):
            return len(self.levels)
        return components.shape[-1] // self.levels

    def incomplete(self, block: int) -> ExponentialFamily | None:
        """The same family: a missing entry has no level."""
        return self

    def check(self, x: Any) -> None:
        """Refuse codes that are not levels."""
        if isinstance(self.levels, tuple) and x.shape[1] != len(self.levels):
            raise ValueError(f"x: expected {len(self.levels)} columns, got {x.shape[1]}")
        sizes = self.sizes(x.shape[1])
        bad = (x < 0) | (x >= sizes[None]) | ((x != np.round(x)) & ~np.isnan(x))
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            expected = f"one of {sizes[column]} levels, coded 0 to {sizes[column] - 1}"
            raise OutsideSupport(expected, f"{x[row, column]:g}", column)

    def check_observed(self, x: np.ndarray) -> None:
        """`check`, which accepts NaN."""
        self.check(x)

    def num_component_parameters(self, num_components: int, dim: int) -> int:
        """K sum_d (L_d - 1)."""
        return num_components * int((self.sizes(dim) - 1).sum())

    def boundary(self, components: Params, settings: Settings) -> tuple[str, ...]:
        """The probabilities that are 0."""
        probabilities = np.asarray(components)
        columns, levels = self.places(self.num_columns(probabilities))
        return tuple(
            f"p = {probabilities[k, i]:.1g} of level {levels[i]} of column {columns[i]} "
            f"in component {k}"
            for k, i in np.argwhere(probabilities < ZERO)
        )

    def features(self, x: Float[Array, "n D"]) -> Float[Array, "n F"]:
        """1 for the level of each entry, 0 for the others and for missing entries."""
        columns, levels = self.places(x.shape[1])
        spread = jnp.repeat(x, self.sizes(x.shape[1]), axis=1, total_repeat_length=len(columns))
        return (spread == levels[None]).astype(x.dtype)

    def natural(self, components: Params) -> tuple[Array, Array]:
        """eta_k = log p_k, offset_k = 0."""
        some = components > 0
        eta = jnp.where(some, jnp.log(jnp.where(some, components, 1)), IMPOSSIBLE)
        return eta, jnp.zeros_like(eta[:, 0])

    def normalize(self, levels: Float[Array, "K F"]) -> tuple[Array, Array]:
        """Numbers divided by their sum over the levels of the column, and that sum."""
        columns, _ = self.places(self.num_columns(levels))
        total = jax.ops.segment_sum(levels.T, columns, int(columns[-1]) + 1)[columns].T
        return levels / jnp.where(total > 0, total, 1), total

    def maximize(self, summary: Sums, previous: Params, settings: Settings) -> Params:
        """Shares of the levels; a column without observed entries keeps its probabilities."""
        shares, total = self.normalize(summary.features)
        return jnp.where(total > 0, shares, previous)

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> Params:
        """Equal probabilities, until the first M-step."""
        sizes = self.sizes(centres.shape[1])
        equal = np.repeat(1 / sizes, sizes).astype(centres.dtype)
        return jnp.broadcast_to(equal[None], (centres.shape[0], len(equal)))

    def padded(self, components: Params) -> Float[Array, "... D L"]:
        """Probabilities with an axis of columns and one of levels, 0 beyond the last level."""
        sizes = self.sizes(self.num_columns(components))
        first = np.cumsum(sizes) - sizes
        index = first[:, None] + np.arange(sizes.max())[None]
        live = np.arange(sizes.max())[None] < sizes[:, None]
        return jnp.where(live, components[..., np.where(live, index, 0)], 0)

    def means(self, components: Params) -> Float[Array, "K D"]:
        """The mean code of each column."""
        table = self.padded(components)
        return table @ jnp.arange(table.shape[-1], dtype=table.dtype)

    def expected(
        self, components: Params, x: Float[Array, "n D"], resp: Float[Array, "n K"]
    ) -> Float[Array, "n D"]:
        """The most probable level of each entry, because codes have no mean."""
        return self.padded(resp @ components).argmax(-1).astype(x.dtype)

    def sample_one(self, key: Key[Array, ""], component: Params) -> Float[Array, " D"]:
        """A level for each column."""
        levels = jax.random.categorical(key, jnp.log(self.padded(component)), axis=-1)
        return levels.astype(component.dtype)

    def unconstrain(self, components: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """log p, in standard deviations of one row: sqrt(p) log p."""
        some = at > 0
        return jnp.where(some, jnp.log(jnp.where(components > 0, components, 1)), 0) * (
            jnp.sqrt(at) * size[:, None]
        )

    def constrain(self, free: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """Probabilities; those that are 0 `at` stay 0."""
        some = at > 0
        scale = jnp.where(some, jnp.sqrt(at) * size[:, None], 1)
        return self.normalize(jnp.where(some, jnp.exp(jnp.minimum(free / scale, 0)), 0))[0]


@dataclass(frozen=True)
class Labels(ExponentialFamily):
    """A column of known components: code k < K for component k, and K for a row of any component.

    p(x | z=k) is 1 for the codes k and K, and 0 for others. Components are their own codes, [K].
    """

    number: int  # K

    def features(self, x: Float[Array, "n 1"]) -> Float[Array, "n K"]:
        """1 in the column of the label, and 0 for a row without one."""
        return (x == jnp.arange(self.number, dtype=x.dtype)[None]).astype(x.dtype)

    def natural(self, components: Params) -> tuple[Array, Array]:
        """0 for the component's own label, log 0 for others."""
        own = components[:, None] == jnp.arange(self.number, dtype=components.dtype)[None]
        return jnp.where(own, 0, jnp.asarray(IMPOSSIBLE, components.dtype)), jnp.zeros_like(
            components
        )

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> Params:
        """Component k has label k."""
        return jnp.arange(centres.shape[0], dtype=centres.dtype)

    def maximize(self, summary: Sums, previous: Params, settings: Settings) -> Params:
        """Labels are not estimated."""
        return previous

    def means(self, components: Params) -> Float[Array, "K D"]:
        """The labels."""
        return components[:, None]

    def num_component_parameters(self, num_components: int, dim: int) -> int:
        """None."""
        return 0

    def unconstrain(self, components: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """The labels, which do not change."""
        return components

    def constrain(self, free: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """The labels."""
        return at

    def sample_one(self, key: Key[Array, ""], component: Params) -> Float[Array, " D"]:
        """The label."""
        return component[None]

    def select(self, components: Params, k: Int[Array, "..."]) -> Params:
        """The label of component k."""
        return components[k]
