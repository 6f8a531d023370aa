"""Component families: one exponential family each, known by t(x), eta and its own M-step.

A family says, for K components at once,

    log p(x | z=k) = <t(x), eta_k> + offset_k + h(x)

so that the E-step is one matrix product T(X) @ eta.T and the M-step one product R.T @ T(X) of the
same features. All per-component work is written for ONE component and vmapped over K.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax.typing import Array, ArrayLike, Bool, Float, Int, Key, Params, Scalar

# What the fast path may lose to rounding, root mean square per point: float32, float64.
ROUNDING_NATS = {4: 1e-3, 8: 1e-7}


class Settings(NamedTuple):
    """What the M-step needs besides the data; a pytree, so that changing it never recompiles."""

    regularization: Any  # added to every variance
    prior: Any = None  # the family's conjugate prior, or None for maximum likelihood
    concentration: Any = None  # Dirichlet parameters [K] of the weights, or None


class Sums(NamedTuple):
    """Sufficient statistics of one pass; they add over chunks, files and devices."""

    counts: Float[Array, " K"]  # sum_n w_n r_nk
    features: Float[Array, "K F"]  # sum_n w_n r_nk t(x_n)
    shared: Any  # sum_n w_n times what all components share, or ()


@dataclass(frozen=True)
class ExponentialFamily:
    """The interface of a component family, with the defaults that most families keep.

    A new family overrides `features`, `natural`, `maximize`, `sample_one`, `means`,
    `num_component_parameters` and `check`; docs/extending/em_family.md has a skeleton. `components`
    is a pytree of arrays with leading axis K.
    """

    translates: ClassVar[bool] = False  # are the data centred before t(x)?
    has_exact_path: ClassVar[bool] = False  # is there a slower path that keeps all digits?
    has_prior: ClassVar[bool] = False

    def check(self, x: ArrayLike) -> None:
        """Refuse data outside the support (host-side), with a ValueError."""

    def features(self, x: Float[Array, "n D"]) -> Float[Array, "n F"]:
        """t(x) for a block of rows."""
        return x

    def natural(self, components: Params) -> tuple[Float[Array, "K F"], Float[Array, " K"]]:
        """eta_k and offset_k = -A(eta_k), for all K."""
        raise TypeError(f"{type(self).__name__} must define natural(components)")

    def base(self, components: Params, x: Float[Array, "n D"]) -> Float[Array, " n"]:
        """h(x), the part of the log-density that all components share."""
        return jnp.zeros(x.shape[0], x.dtype)

    def shared(self, x: Float[Array, "n D"], weight: Float[Array, " n"]) -> Any:
        """sum_n w_n of the statistics that do not depend on k; () for most families."""
        return ()

    def summarize(self, sums: Sums) -> Any:
        """Turn the added statistics into what `maximize` reads."""
        return sums

    def summarize_assigned(self, x: Float[Array, "n D"], resp: Float[Array, "n K"]) -> Any:
        """`summarize` of a block whose (weighted) responsibilities are given."""
        sums = Sums(resp.sum(0), resp.T @ self.features(x), self.shared(x, resp.sum(1)))
        return self.summarize(sums)

    def merge(self, a: Any, b: Any) -> Any:
        """Add the summaries of two blocks."""
        return jax.tree.map(jnp.add, a, b)

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

    def log_prior(self, components: Params, prior: Any) -> Scalar:
        """Log-density of `components` under the conjugate prior."""
        return jnp.zeros(())

    def is_safe(self, components: Params) -> Bool[Array, ""]:
        """Does the matrix-product path keep enough digits for these components?"""
        return jnp.array(True)

    def exact_log_prob(self, components: Params, x: Float[Array, "n D"]) -> Float[Array, "n K"]:
        """log p(x | z=k) without cancellation; here the same as the fast path."""
        eta, offset = self.natural(components)
        return self.features(x) @ eta.T + offset[None] + self.base(components, x)[:, None]

    def sample_one(self, key: Key[Array, ""], component: Params) -> Float[Array, " D"]:
        """One draw from one component."""
        raise TypeError(f"{type(self).__name__} must define sample_one(key, component)")

    def select(self, components: Params, k: Int[Array, "..."]) -> Params:
        """The parameters of component k."""
        return jax.tree.map(lambda leaf: leaf[k], components)

    def num_component_parameters(self, num_components: int, dim: int) -> int:
        """Free parameters of the K components together (weights not counted)."""
        return num_components * dim

    def start(self, centres: Float[Array, "K D"], spread: Float[Array, " D"]) -> Params:
        """Parameters that stand in for a component before it has seen a point."""
        return centres

    def means(self, components: Params) -> Float[Array, "K D"]:
        """E[x | z=k]."""
        return components


def divide(sums: Float[Array, "K D"], counts: Float[Array, " K"]) -> Float[Array, "K D"]:
    """sums_k / counts_k; 0 for a component without points."""
    return sums / jnp.where(counts > 0, counts, 1)[:, None]


def keep_empty(counts: Float[Array, " K"], new: Params, previous: Params) -> Params:
    """`new` where a component has points, `previous` where it has none."""

    def pick(fresh: Array, old: Array) -> Array:
        return jnp.where(counts.reshape(-1, *(1,) * (fresh.ndim - 1)) > 0, fresh, old)

    return jax.tree.map(pick, new, previous)
