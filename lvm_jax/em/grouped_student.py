"""Student-t components of rows with missing entries (NaN); see `grouped`.

The observed entries of a Student-t vector have a Student-t law with the same nu, and

    E[u (x - mean) (x - mean)^T | x_o] = E[u | x_o] e e^T + Cov_mm

where e is the residual and Cov_mm the conditional covariance of the missing entries under the scale
matrix, as for a Gaussian (Liu and Rubin 1995, section 2.2).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax.em.families import ExponentialFamily
from lvm_jax.em.grouped import Expectation, GroupedFull
from lvm_jax.em.priors import LOG_2PI
from lvm_jax.em.student import Student, StudentMoments, Students, Weights, weigh
from lvm_jax.typing import Array, Float


class Scaled(NamedTuple):
    """The posterior of u and of the missing entries."""

    log_prob: Float[Array, "n K"]
    weights: Weights
    missing: Expectation


@dataclass(frozen=True)
class GroupedStudent(Student):
    """Full `Student` for rows with missing entries, in blocks of one pattern."""

    block: int = 1

    @property
    def original(self) -> ExponentialFamily:
        """The family of complete rows."""
        return Student(self.covariance_type, self.degrees, self.bounds)

    @property
    def grouped(self) -> GroupedFull:
        """The family of Gaussians with missing entries."""
        return GroupedFull(self.block)

    def floats_per_component(self, dim: int) -> int:
        """Those of Gaussians, and the expectations of u."""
        return self.grouped.floats_per_component(dim) + 3

    def expectation(self, components: Students, x: Float[Array, "n D"]) -> Any:
        """log p(x_observed | z=k) and the posterior of u and of the missing entries."""
        found = self.grouped.expectation(components.normal, x)

        def one(each: tuple[Array, Array]) -> Array:
            y = self.normal.whiten_one(*each)
            return (y * y).sum(1)

        distance = jax.lax.map(one, (components.normal.scale, found.residuals)).T
        observed = (~jnp.isnan(x)).sum(1, dtype=x.dtype)[:, None]
        log_det = -found.log_prob - 0.5 * (distance + LOG_2PI * observed)
        weights = weigh(components.degrees, distance, observed, log_det)
        return Scaled(weights.log_prob, weights, found)

    def summarize_expected(
        self, components: Students, x: Float[Array, "n D"], expected: Any, resp: Array
    ) -> StudentMoments:
        """Counts, sums of E[log u], and expected moments with the weights r_nk E[u]."""
        weights, missing = expected.weights, expected.missing
        scaled = resp * weights.mean
        block = lambda leaf: leaf.reshape(-1, self.block, leaf.shape[1]).sum(1).T  # noqa: E731
        plain, total = block(resp), block(scaled)
        ratio = plain / jnp.where(total > 0, total, 1)  # Cov_mm has the weight r, not r E[u]
        missing = missing._replace(covariances=missing.covariances * ratio[:, :, None, None])
        moments = self.grouped.summarize_expected(components.normal, x, missing, scaled)
        return StudentMoments(resp.sum(0), (resp * weights.log_mean).sum(0), moments)

    def expected(
        self, components: Students, x: Float[Array, "n D"], resp: Float[Array, "n K"]
    ) -> Float[Array, "n D"]:
        """E[x | x_observed], for nu > 1."""
        return self.grouped.expected(components.normal, x, resp)

    def conditional(self, components: Students, *_: Any) -> Array:
        """Refused: draws given the observed entries need the posterior of u."""
        raise TypeError("sample_missing: Student components have none; impute has expectations")
