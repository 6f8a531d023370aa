"""The part of a variational family that is the plug-in Gaussian mixture's: E-step and summaries."""

from typing import Any, ClassVar, NamedTuple

from lvm_jax.em.families import ExponentialFamily, Sums
from lvm_jax.em.gaussian import Gaussian, Gaussians
from lvm_jax.typing import Array, Bool, Float, Int, Key, Scalar


class Posterior(NamedTuple):
    """The variational posterior of K components and their weights."""

    gaussians: Gaussians  # means m_k and covariances C_k = E[Lambda_k]^-1
    strength: Float[Array, " K"]  # beta_k
    degrees: Float[Array, " K"]  # nu_k
    concentration: Any  # [K] of a Dirichlet; [K, 2] of sticks


class PlugIn(ExponentialFamily):
    """A family whose components are a `Posterior`, with the passes of its Gaussians."""

    gaussian: Gaussian
    translates: ClassVar[bool] = True
    has_exact_path: ClassVar[bool] = True

    @property
    def has_fast_path(self) -> bool:  # type: ignore[override]
        """Whether two matrix products make a step."""
        return self.gaussian.has_fast_path

    @property
    def by_pattern(self) -> bool:  # type: ignore[override]
        """Whether `incomplete` takes blocks of one pattern."""
        return self.gaussian.by_pattern

    @property
    def block(self) -> int:
        """The number of successive rows with one pattern of missing entries."""
        return self.gaussian.block

    def features(self, x: Float[Array, "n D"]) -> Float[Array, "n F"]:
        """t(x)."""
        return self.gaussian.features(x)

    def natural(self, components: Posterior) -> tuple[Array, Array]:
        """eta_k and offset_k."""
        return self.gaussian.natural(components.gaussians)

    def base(self, components: Posterior, x: Float[Array, "n D"]) -> Float[Array, " n"]:
        """h(x)."""
        return self.gaussian.base(components.gaussians, x)

    def shared(self, x: Float[Array, "n D"], weight: Float[Array, " n"]) -> Any:
        """The statistics that do not depend on k."""
        return self.gaussian.shared(x, weight)

    def summarize(self, sums: Sums) -> Any:
        """The moments from the summed statistics."""
        return self.gaussian.summarize(sums)

    def summarize_assigned(self, x: Float[Array, "n D"], resp: Float[Array, "n K"]) -> Any:
        """The moments of a block with given responsibilities."""
        return self.gaussian.summarize_assigned(x, resp)

    def merge(self, a: Any, b: Any) -> Any:
        """The moments of the union of two blocks."""
        return self.gaussian.merge(a, b)

    def reweight(self, summary: Any, factor: Scalar) -> Any:
        """The moments of the same rows with `factor` times their weights."""
        return self.gaussian.reweight(summary, factor)

    def translate(self, components: Posterior, shift: Float[Array, "*R D"]) -> Posterior:
        """The components of the rows x + shift."""
        moved = self.gaussian.translate(components.gaussians, shift)
        return components._replace(gaussians=moved)

    def translate_summary(self, summary: Any, shift: Float[Array, "*R D"]) -> Any:
        """The moments of the rows x + shift."""
        return self.gaussian.translate_summary(summary, shift)

    def is_safe(self, components: Posterior) -> Bool[Array, ""]:
        """Whether the fast path's rounding error is acceptable."""
        return self.gaussian.is_safe(components.gaussians)

    def exact_log_prob(self, components: Posterior, x: Float[Array, "n D"]) -> Array:
        """log N(x; m_k, C_k) without cancellation."""
        return self.gaussian.exact_log_prob(components.gaussians, x)

    def expectation(self, components: Posterior, x: Float[Array, "n D"]) -> Any:
        """The posterior of missing entries, of full and tied covariances."""
        return self.gaussian.expectation(components.gaussians, x)

    def summarize_expected(
        self, components: Posterior, x: Array, expected: Any, resp: Array
    ) -> Any:
        """The expected moments, of full and tied covariances."""
        return self.gaussian.summarize_expected(components.gaussians, x, expected, resp)

    def expected(self, components: Posterior, x: Array, resp: Array) -> Array:
        """E[x | x_observed]."""
        return self.gaussian.expected(components.gaussians, x, resp)  # type: ignore[attr-defined]

    def select(self, components: Posterior, k: Int[Array, "..."]) -> Posterior:
        """Component k."""
        chosen = self.gaussian.select(components.gaussians, k)
        return Posterior(chosen, *(leaf[k] for leaf in components[1:]))

    def floats_per_component(self, dim: int) -> int:
        """The working memory of a row for each component."""
        return self.gaussian.floats_per_component(dim)

    def means(self, components: Posterior) -> Float[Array, "K D"]:
        """m_k, relative to the origin."""
        return self.gaussian.means(components.gaussians)

    def sample_one(self, key: Key[Array, ""], component: Posterior) -> Float[Array, " D"]:
        """A draw of N(m_k, C_k)."""
        return self.gaussian.sample_one(key, component.gaussians)
