"""Components that are products of families over blocks of columns, for mixed data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.em.blocks import Block, Expected, as_block, take, width
from lvm_jax.em.families import ExponentialFamily, Settings, Sums
from lvm_jax.em.refusals import in_columns
from lvm_jax.typing import Array, Bool, Float, Int, Key, Params, Scalar


@dataclass(frozen=True)
class Product(ExponentialFamily):
    """Blocks of columns that are independent given z, each with a family of its own.

        log p(x | z=k) = sum_b log p_b(x_b | z=k)

    t(x) and eta_k are those of the blocks one after the other, offset_k and h(x) are sums, and
    the M-step is that of each block. The components are a tuple of the blocks' components.

    Args:
        blocks: pairs of a family, or of a covariance type of a Gaussian, and of its columns:
            `Product([("full", (0, 1)), (em.Poisson(), (2,))])`. Every column is in one block.

    Raises ValueError or TypeError for blocks that share or leave out columns. A value outside the
    support of its block is refused with its row and column.
    """

    blocks: Any
    has_exact_path: ClassVar[bool] = True

    def __post_init__(self) -> None:
        blocks = tuple(as_block(block) for block in self.blocks)
        columns = [column for block in blocks for column in block.columns]
        if not columns or sorted(columns) != list(range(len(columns))):
            raise ValueError(
                "blocks: expected every column 0, 1, ..., D - 1 in one block, got the columns "
                f"{[list(block.columns) for block in blocks]}"
            )
        object.__setattr__(self, "blocks", blocks)

    @property
    def dim(self) -> int:
        """D, the number of columns."""
        return sum(len(columns) for _, columns in self.blocks)

    def split(self, x: Any) -> list[Any]:
        """The blocks of x, [..., D]."""
        return [take(x, columns) for _, columns in self.blocks]

    def join(self, parts: Sequence[Any]) -> Array:
        """[..., D] from the blocks; the inverse of `split`."""
        order = np.argsort([column for _, columns in self.blocks for column in columns])
        return take(jnp.concatenate(parts, -1), tuple(int(i) for i in order))

    def each(self, method: str, *parts: Any) -> tuple[Any, ...]:
        """A method of every block's family, of the arguments of that block."""
        return tuple(
            getattr(block.family, method)(*own)
            for block, *own in zip(self.blocks, *parts, strict=True)
        )

    def marginal(self, mixture: Any, number: int) -> Any:
        """The mixture of block `number` of a mixture of this family."""
        family, columns = self.blocks[number]
        origin = take(mixture.origin, columns)
        return replace(mixture, components=mixture.components[number], origin=origin, family=family)

    # On the host
    def check(self, x: Any) -> None:
        """Refuse another number of columns, and values outside the support of their block."""
        self._check("check", x)

    def check_observed(self, x: np.ndarray) -> None:
        """`check` of the observed entries."""
        self._check("check_observed", x)

    def _check(self, method: str, x: Any) -> None:
        if x.shape[1] != self.dim:
            raise ValueError(f"x: expected the {self.dim} columns of the blocks, got {x.shape[1]}")
        for family, columns in self.blocks:
            with in_columns(columns):
                getattr(family, method)(x[:, list(columns)])

    def accepts_nan(self, dim: int) -> np.ndarray:
        """Whether the family of each column has one of rows with missing entries."""
        return self._by_column(family.accepts_nan(len(columns)) for family, columns in self.blocks)

    def centre(self, mean: np.ndarray) -> np.ndarray:
        """The mean of the blocks whose families translate."""
        parts = zip(self.blocks, self.split(mean), strict=True)
        return self._by_column(block.family.centre(part) for block, part in parts)

    def _by_column(self, parts: Any) -> np.ndarray:
        parts = list(parts)
        out = np.zeros(self.dim, parts[0].dtype)
        for block, part in zip(self.blocks, parts, strict=True):
            out[list(block.columns)] = part
        return out

    def boundary(self, components: Params, settings: Settings) -> tuple[str, ...]:
        """Those of the blocks, with the first column of the block."""
        return tuple(
            f"{one} of the block of column {block.columns[0]}"
            for block, part in zip(self.blocks, components, strict=True)
            for one in block.family.boundary(part, settings)
        )

    def num_component_parameters(self, num_components: int, dim: int) -> int:
        """The sum over the blocks."""
        return sum(
            family.num_component_parameters(num_components, len(columns))
            for family, columns in self.blocks
        )

    def floats_per_component(self, dim: int) -> int:
        """The sum over the blocks."""
        return sum(f.floats_per_component(len(columns)) for f, columns in self.blocks)

    @property
    def keeps_zeros(self) -> bool:  # type: ignore[override]
        """Whether a block does."""
        return any(family.keeps_zeros for family, _ in self.blocks)

    # Rows with missing entries
    @property
    def by_pattern(self) -> bool:  # type: ignore[override]
        """Whether a block's family of missing entries takes blocks of one pattern."""
        return any(family.by_pattern for family, _ in self.blocks)

    @property
    def has_fast_path(self) -> bool:  # type: ignore[override]
        """Whether two matrix products make a step of every block."""
        return all(family.has_fast_path for family, _ in self.blocks)

    @property
    def block(self) -> int:
        """The number of successive rows with one pattern of missing entries."""
        return max(family.block for family, _ in self.blocks)

    def incomplete(self, block: int) -> ExponentialFamily | None:
        """The product of the families of missing entries; complete blocks keep their family."""
        return Product(
            tuple(Block(f.incomplete(block) or f, columns) for f, columns in self.blocks)
        )

    @property
    def original(self) -> ExponentialFamily:
        """The product of the families of complete rows."""
        return Product(tuple(Block(f.original, columns) for f, columns in self.blocks))

    def expectation(self, components: Params, x: Float[Array, "n D"]) -> Expected:
        """The posterior of the latent variables of each block besides z."""
        parts = self.each("expectation", components, self.split(x))
        return Expected(sum(part.log_prob for part in parts), parts)

    def summarize_expected(
        self,
        components: Params,
        x: Float[Array, "n D"],
        expected: Expected,
        resp: Float[Array, "n K"],
    ) -> Any:
        """The blocks' summaries, with their expected statistics."""
        resps = [resp] * len(self.blocks)
        return self.each("summarize_expected", components, self.split(x), expected.parts, resps)

    def expected(
        self, components: Params, x: Float[Array, "n D"], resp: Float[Array, "n K"]
    ) -> Float[Array, "n D"]:
        """E[x | x_observed] of the missing entries, by block."""
        return self.join([
            f.expected(own, part, resp) if hasattr(f, "expected") else part
            for (f, _), own, part in zip(self.blocks, components, self.split(x), strict=True)
        ])  # fmt: skip

    def conditional(
        self,
        components: Params,
        x: Float[Array, "n D"],
        z: Int[Array, " n"],
        draws: Float[Array, "n D"],
    ) -> Float[Array, "n D"]:
        """A draw of the missing entries given z, by block."""
        rows = zip(self.blocks, components, self.split(x), self.split(draws), strict=True)
        return self.join([
            f.conditional(own, part, z, draw) if hasattr(f, "conditional") else part
            for (f, _), own, part, draw in rows
        ])  # fmt: skip

    # Compiled
    def features(self, x: Float[Array, "n D"]) -> Float[Array, "n F"]:
        """t_b(x_b) of the blocks, one after the other."""
        return jnp.concatenate(self.each("features", self.split(x)), 1)

    def natural(self, components: Params) -> tuple[Float[Array, "K F"], Float[Array, " K"]]:
        """eta_k of the blocks, one after the other, and the sum of their offsets."""
        etas, offsets = zip(*self.each("natural", components), strict=True)
        return jnp.concatenate(etas, 1), sum(offsets)

    def base(self, components: Params, x: Float[Array, "n D"]) -> Float[Array, " n"]:
        """The sum of h_b(x_b)."""
        return sum(self.each("base", components, self.split(x)))

    def exact_log_prob(self, components: Params, x: Float[Array, "n D"]) -> Float[Array, "n K"]:
        """The sum over the blocks, each without cancellation."""
        return sum(self.each("exact_log_prob", components, self.split(x)))

    def is_safe(self, components: Params) -> Bool[Array, ""]:
        """Whether the rounding error of every block is acceptable."""
        return jnp.stack(self.each("is_safe", components)).all()

    def shared(self, x: Float[Array, "n D"], weight: Float[Array, " n"]) -> Any:
        """The shared statistics of the blocks."""
        return self.each("shared", self.split(x), [weight] * len(self.blocks))

    def summarize(self, sums: Sums) -> Any:
        """The blocks' summaries."""
        ends = np.cumsum([width(family, len(columns)) for family, columns in self.blocks])
        parts = jnp.split(sums.features, ends[:-1], axis=1)
        own = [Sums(sums.counts, part, one) for part, one in zip(parts, sums.shared, strict=True)]
        return self.each("summarize", own)

    def summarize_assigned(self, x: Float[Array, "n D"], resp: Float[Array, "n K"]) -> Any:
        """The blocks' summaries of a block of rows."""
        return self.each("summarize_assigned", self.split(x), [resp] * len(self.blocks))

    def merge(self, a: Any, b: Any) -> Any:
        """The blocks' merged summaries."""
        return self.each("merge", a, b)

    def lift(self, summary: Any) -> Any:
        """The blocks' summaries of complete rows, as those of incomplete ones."""
        return self.each("lift", summary)

    def reweight(self, summary: Any, factor: Scalar) -> Any:
        """The blocks' summaries of other weights."""
        return self.each("reweight", summary, [factor] * len(self.blocks))

    def translate(self, components: Params, shift: Float[Array, "*R D"]) -> Params:
        """The blocks' components relative to another origin."""
        return self.each("translate", components, self.split(shift))

    def translate_summary(self, summary: Any, shift: Float[Array, "*R D"]) -> Any:
        """The blocks' summaries relative to another origin."""
        return self.each("translate_summary", summary, self.split(shift))

    def counts(self, summary: Any) -> Float[Array, " K"]:
        """sum_n w_n r_nk, which all blocks have."""
        return self.blocks[0].family.counts(summary[0])

    def maximize(self, summary: Any, previous: Params, settings: Settings) -> Params:
        """The M-step of every block."""
        return self.each("maximize", summary, previous, [settings] * len(self.blocks))

    def sample_one(self, key: Key[Array, ""], component: Params) -> Float[Array, " D"]:
        """One draw from each block."""
        keys = jax.random.split(key, len(self.blocks))
        return self.join(self.each("sample_one", list(keys), component))

    def unconstrain(self, components: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """The blocks' coordinates."""
        return self.each("unconstrain", components, at, [size] * len(self.blocks))

    def constrain(self, free: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """The blocks' components from their coordinates."""
        return self.each("constrain", free, at, [size] * len(self.blocks))

    def chart(self, at: Params, size: Float[Array, " K"]) -> tuple[Params, Callable[[Any], Params]]:
        """The blocks' coordinates."""
        begin, moves = zip(*self.each("chart", at, [size] * len(self.blocks)), strict=True)
        return begin, lambda free: tuple(m(u) for m, u in zip(moves, free, strict=True))

    def select(self, components: Params, k: Int[Array, "..."]) -> Params:
        """The blocks' parameters of component k."""
        return self.each("select", components, [k] * len(self.blocks))

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> Params:
        """The blocks' components at the start of a fit."""
        return self.each("start", self.split(centres), self.split(spread))

    def means(self, components: Params) -> Float[Array, "K D"]:
        """E[x | z=k]."""
        return self.join(self.each("means", components))
