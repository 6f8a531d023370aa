"""The common part of families of independent entries, with or without missing ones (NaN).

Each entry has p statistics. A missing entry drops out: with m = 1 for an observed and 0 for a
missing entry, t(x) gets the columns m_d, which multiply the log-normalisers and count the entries
(see `masked`). The family of complete rows leaves these columns out.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Self

import jax.numpy as jnp

from lvm_jax.em.families import ExponentialFamily, Sums
from lvm_jax.em.masked import Masked, split
from lvm_jax.typing import Array, Float, Params


@dataclass(frozen=True)
class Entries(Masked):
    """Independent entries; a subclass defines `statistics` and `entry_natural`.

    `incomplete_rows` is set by `incomplete`.
    """

    incomplete_rows: bool = field(default=False, kw_only=True, repr=False)

    def statistics(self, x: Float[Array, "n D"]) -> Float[Array, "n P D"]:
        """The statistics of each entry."""
        raise TypeError(f"{type(self).__name__} must define statistics(x)")

    def entry_natural(self, components: Params) -> tuple[Array, Array]:
        """The natural parameters [K, P, D] and -A [K, D] of each entry."""
        raise TypeError(f"{type(self).__name__} must define entry_natural(components)")

    def incomplete(self, block: int) -> ExponentialFamily | None:
        """The family of the observed entries."""
        return replace(self, incomplete_rows=True)

    @property
    def num_statistics(self) -> int:
        """P."""
        return 1

    @property
    def original(self) -> Self:
        """The family of complete rows."""
        return replace(self, incomplete_rows=False)

    def observed(self, x: Float[Array, "n D"]) -> tuple[Array, Array]:
        """The rows with 1 for missing entries, and m."""
        if not self.incomplete_rows:
            return x, jnp.ones_like(x)
        _, mask = split(x)
        return jnp.where(mask > 0, x, 1), mask

    def features(self, x: Float[Array, "n D"]) -> Float[Array, "n F"]:
        """The statistics of the observed entries, and m for incomplete rows."""
        if not self.incomplete_rows:
            return self.statistics(x).reshape(len(x), -1)
        filled, mask = self.observed(x)
        parts = self.statistics(filled) * mask[:, None]
        return jnp.concatenate([parts.reshape(len(x), -1), mask], 1)

    def natural(self, components: Params) -> tuple[Array, Array]:
        """eta, and the offset: the sum of -A, or 0 where -A multiplies m."""
        eta, rest = self.entry_natural(components)
        eta = eta.reshape(len(eta), -1)
        if self.incomplete_rows:
            return jnp.concatenate([eta, rest], 1), jnp.zeros_like(rest[:, 0])
        return eta, rest.sum(1)

    def lift(self, summary: Any) -> Any:
        """Every entry of a complete row is observed."""
        if not isinstance(summary, Sums):
            return summary
        shape = len(summary.counts), summary.features.shape[1] // self.num_statistics
        observed = jnp.broadcast_to(summary.counts[:, None], shape)
        return summary._replace(features=jnp.concatenate([summary.features, observed], 1))

    def totals(self, sums: Sums, dim: int) -> tuple[Float[Array, "K P D"], Float[Array, "K D"]]:
        """The summed statistics of the entries, and their weights."""
        size = len(sums.counts)
        if self.incomplete_rows:
            return sums.features[:, :-dim].reshape(size, -1, dim), sums.features[:, -dim:]
        weights = jnp.broadcast_to(sums.counts[:, None], (size, dim))
        return sums.features.reshape(size, -1, dim), weights


def named(what: str, places: Any) -> tuple[str, ...]:
    """Words for the estimates at places (component, column)."""
    return tuple(f"{what} of column {d} in component {k}" for k, d in places)
