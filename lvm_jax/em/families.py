"""The interface of a component family: an exponential family given by t(x), eta and an M-step.

For K components at once,

    log p(x | z=k) = <t(x), eta_k> + offset_k + h(x)

so that the E-step is the matrix product T(X) @ eta.T and the M-step the product R.T @ T(X) of the
same features. Per-component functions take ONE component and are vmapped over K.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.em.refusals import in_columns
from lvm_jax.typing import Array, ArrayLike, Bool, Float, Int, Key, Params, Scalar

# Largest root mean square rounding error per point of the fast path, for float32 and float64.
ROUNDING_NATS = {4: 1e-3, 8: 1e-7}
# log 0 in a matrix product, where -inf times 0 would be NaN.
IMPOSSIBLE = -1e30

AVERAGES = ("means", "remainder")  # fields of a summary that are not sums over rows


class Settings(NamedTuple):
    """Settings of the M-step; a pytree, so that changed values do not recompile."""

    regularization: Any  # added to every variance
    prior: Any = None  # the family's conjugate prior, or None for maximum likelihood
    concentration: Any = None  # Dirichlet parameters [K] of the weights, or None


class Density(NamedTuple):
    """The expectation of a family in which only z is latent."""

    log_prob: Float[Array, "n K"]


class Sums(NamedTuple):
    """Sufficient statistics of one pass, which add over chunks, files and devices."""

    counts: Float[Array, " K"]  # sum_n w_n r_nk
    features: Float[Array, "K F"]  # sum_n w_n r_nk t(x_n)
    shared: Any  # weighted sum of the statistics that all components share, or ()


@dataclass(frozen=True)
class ExponentialFamily:
    """The interface of a component family, with common defaults.

    A new family overrides `natural`, `maximize` and `sample_one`, and where the defaults do not
    fit `features`, `means`, `num_component_parameters` and `check`; docs/extending/em_family.md has
    a skeleton. `components` is a pytree of arrays with leading axis K.
    """

    translates: ClassVar[bool] = False  # whether the data are centred before t(x)
    has_exact_path: ClassVar[bool] = False  # whether `exact_log_prob` avoids cancellation
    has_fast_path: ClassVar[bool] = True  # whether two matrix products make a step
    keeps_zeros: ClassVar[bool] = False  # whether EM cannot leave a parameter of 0
    has_starts: ClassVar[bool] = True  # whether `start` makes components from centres
    by_pattern: ClassVar[bool] = False  # whether `incomplete` takes blocks of one pattern

    def check(self, x: ArrayLike) -> None:
        """Raise ValueError on the host for data outside the support."""

    def check_observed(self, x: np.ndarray) -> None:
        """`check` of the observed entries of rows with NaN, column by column."""
        for column, values in enumerate(x.T):
            seen = values[~np.isnan(values)]
            if seen.size:
                with in_columns((column,)):
                    self.check(seen[:, None])

    def accepts_nan(self, dim: int) -> np.ndarray:
        """Whether each of D columns may have missing entries."""
        return np.full(dim, self.incomplete(1) is not None)

    def centre(self, mean: np.ndarray) -> np.ndarray:
        """The origin that is subtracted from the rows before t(x), from their mean [D]."""
        return mean if self.translates else np.zeros_like(mean)

    def incomplete(self, block: int) -> "ExponentialFamily | None":
        """The family of rows with missing entries (NaN), with the same components; None if none.

        With `by_pattern` every `block` rows have the same missing entries.
        """
        return None

    @property
    def block(self) -> int:
        """The number of successive rows with one pattern of missing entries."""
        return 1

    @property
    def normal(self) -> "ExponentialFamily":
        """The family that has the variances of the columns: itself, or a part."""
        return self

    @property
    def original(self) -> "ExponentialFamily":
        """The family of complete rows, which a mixture has: the inverse of `incomplete`."""
        return self

    def features(self, x: Float[Array, "n D"]) -> Float[Array, "n F"]:
        """t(x) for a block of rows."""
        return x

    def natural(self, components: Params) -> tuple[Float[Array, "K F"], Float[Array, " K"]]:
        """eta_k and offset_k = -A(eta_k) of all K components."""
        raise TypeError(f"{type(self).__name__} must define natural(components)")

    def base(self, components: Params, x: Float[Array, "n D"]) -> Float[Array, " n"]:
        """h(x), the part of the log-density that all components share."""
        return jnp.zeros(x.shape[0], x.dtype)

    def shared(self, x: Float[Array, "n D"], weight: Float[Array, " n"]) -> Any:
        """sum_n w_n of the statistics that do not depend on k; () for most families."""
        return ()

    def summarize(self, sums: Sums) -> Any:
        """The summary for `maximize` from the summed statistics."""
        return sums

    def summarize_assigned(self, x: Float[Array, "n D"], resp: Float[Array, "n K"]) -> Any:
        """The summary of a block with given (weighted) responsibilities."""
        sums = Sums(resp.sum(0), resp.T @ self.features(x), self.shared(x, resp.sum(1)))
        return self.summarize(sums)

    def expectation(self, components: Params, x: Float[Array, "n D"]) -> Any:
        """The posterior of what is latent besides z, for each component; a field is `log_prob`.

        `has_fast_path` is False for a family with such variables, whose statistics depend on the
        current components.
        """
        return Density(self.exact_log_prob(components, x))

    def summarize_expected(
        self, components: Params, x: Float[Array, "n D"], expected: Any, resp: Float[Array, "n K"]
    ) -> Any:
        """The summary of a block from its `expectation` and (weighted) responsibilities."""
        return self.summarize_assigned(x, resp)

    def merge(self, a: Any, b: Any) -> Any:
        """The summary of the union of two blocks."""
        return jax.tree.map(jnp.add, a, b)

    def lift(self, summary: Any) -> Any:
        """A summary of `original`, of complete rows, as one of this family."""
        return summary

    def reweight(self, summary: Any, factor: Scalar) -> Any:
        """The summary of the same rows with `factor` times their weights."""
        return jax.tree.map(lambda leaf: factor * leaf, summary)

    def translate(self, components: Params, shift: Float[Array, "*R D"]) -> Params:
        """The components of the rows x + shift, for a family that `translates`."""
        return components

    def translate_summary(self, summary: Any, shift: Float[Array, "*R D"]) -> Any:
        """The summary of the rows x + shift, for a family that `translates`."""
        return summary

    def counts(self, summary: Any) -> Float[Array, " K"]:
        """sum_n w_n r_nk, from a summary."""
        return summary.counts

    def maximize(self, summary: Any, previous: Params, settings: Settings) -> Params:
        """The M-step; a component whose count is zero keeps its `previous` parameters."""
        raise TypeError(f"{type(self).__name__} must define maximize(...)")

    def log_weights(
        self, counts: Float[Array, " K"], components: Params, settings: Settings
    ) -> Float[Array, " K"]:
        """The log-weights of the M-step: log (N_k / N) (Bishop 2006, 9.26)."""
        return jnp.log(counts) - jnp.log(counts.sum())

    def gain(self, old: Params, new: Params, settings: Settings) -> Scalar:
        """The increase of the objective by the M-step, which the trace includes; else 0."""
        return jnp.zeros(())

    def log_prior(self, components: Params, prior: Any) -> Scalar:
        """Log-density of `components` under the conjugate prior."""
        return jnp.zeros(())

    def is_safe(self, components: Params) -> Bool[Array, ""]:
        """Whether the fast path's rounding error is acceptable for these components."""
        return jnp.array(True)

    def exact_log_prob(self, components: Params, x: Float[Array, "n D"]) -> Float[Array, "n K"]:
        """log p(x | z=k) without cancellation; by default the fast path's formula."""
        eta, offset = self.natural(components)
        return self.features(x) @ eta.T + offset[None] + self.base(components, x)[:, None]

    def sample_one(self, key: Key[Array, ""], component: Params) -> Float[Array, " D"]:
        """Draw one point from one component."""
        raise TypeError(f"{type(self).__name__} must define sample_one(key, component)")

    def unconstrain(self, components: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """Unconstrained coordinates of `components`, for acceleration.

        Their scale should make size_k^2 times the Fisher information of component k at `at` the
        identity. The default are the components, multiplied by the size.
        """
        return jax.tree.map(lambda leaf: leaf * like(size, leaf), components)

    def constrain(self, free: Params, at: Params, size: Float[Array, " K"]) -> Params:
        """The inverse of `unconstrain`, of its first argument."""
        return jax.tree.map(lambda leaf: leaf / like(size, leaf), free)

    def chart(self, at: Params, size: Float[Array, " K"]) -> tuple[Params, Callable[[Any], Params]]:
        """Local coordinates for standard errors: their values at `at`, and the map to components.

        By default those of `unconstrain`. A coordinate without effect is left out.
        """
        return self.unconstrain(at, at, size), lambda free: self.constrain(free, at, size)

    def within(self, components: Params, settings: Settings) -> Params:
        """The components, at the limit of the settings where an acceleration has crossed it."""
        return components

    def select(self, components: Params, k: Int[Array, "..."]) -> Params:
        """The parameters of component k."""
        return jax.tree.map(lambda leaf: leaf[k], components)

    def floats_per_component(self, dim: int) -> int:
        """The working memory of a row for each component."""
        return 3

    def boundary(self, components: Params, settings: Settings) -> tuple[str, ...]:
        """The estimates on the boundary of their range, in words; on the host."""
        return ()

    def num_component_parameters(self, num_components: int, dim: int) -> int:
        """Total number of free parameters of the K components, without the weights."""
        return num_components * dim

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> Params:
        """Initial parameters from centres and the standard deviations of the data."""
        return centres

    def covariances(self, components: Params) -> Float[Array, "K D D"]:
        """Cov[x | z=k] of Gaussian densities; TypeError for others."""
        raise TypeError(f"covariances: {type(self).__name__} components have none")

    def means(self, components: Params) -> Float[Array, "K D"]:
        """E[x | z=k]."""
        return components


def divide(sums: Float[Array, "K D"], counts: Float[Array, " K"]) -> Float[Array, "K D"]:
    """sums_k / counts_k; 0 for a component without points."""
    return sums / jnp.where(counts > 0, counts, 1)[:, None]


def reweighted(summary: Any, factor: Scalar) -> Any:
    """A summary whose sums are multiplied by `factor`, and whose means are not changed."""
    sums = {name: leaf for name, leaf in summary._asdict().items() if name not in AVERAGES}
    return summary._replace(**jax.tree.map(lambda leaf: factor * leaf, sums))


def like(per_component: Float[Array, " K"], leaf: Array) -> Array:
    """Numbers of K components with the rank of a leaf [K, ...]."""
    return per_component.reshape(-1, *(1,) * (leaf.ndim - 1))


def keep_empty(counts: Float[Array, " K"], new: Params, previous: Params) -> Params:
    """`new` where a component has points, `previous` where it has none."""

    def pick(fresh: Array, old: Array) -> Array:
        return jnp.where(like(counts, fresh) > 0, fresh, old)

    return jax.tree.map(pick, new, previous)
