"""Naive Monte Carlo for log p(x), from the prior and from a uniform distribution.

Both are importance sampling from a q that does not depend on x. Both fail in many dimensions of z,
where few draws have a high p(x, z); `k_hat`, `ess` and `standard_error` show it.
"""

from collections.abc import Callable
from typing import NamedTuple

from lvm_jax import distributions, weights
from lvm_jax._core import checks
from lvm_jax.evidence.importance import importance
from lvm_jax.evidence.result import Evidence
from lvm_jax.typing import Array, Distribution, Key, Latent, Scalar
from lvm_jax.weights import LogJoint


class _Relative(NamedTuple):
    """A distribution with its own draws and a density of 1, relative to itself."""

    base: Distribution

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Latent:
        return self.base.sample(seed=seed, sample_shape=sample_shape)

    def log_prob(self, value: Latent) -> float:
        return 0.0


def naive(
    key: Key[Array, ""],
    log_likelihood: Callable[[Latent], Scalar],
    prior: Distribution,
    num_samples: int,
) -> Evidence:
    """log p(x) = log E_{p(z)}[p(x | z)] by S draws from the prior, of one data point, in nats.

        log (1/S) sum_s p(x | z_s),    z_s ~ p(z)

    `log_likelihood` maps z to log p(x | z). Streams and raises as `importance`.
    """
    checks.key(key)
    weights.check_log_prob(prior, "prior")
    # The weights are p(x, z) / p(z) = p(x | z): the prior cancels and is not evaluated.
    return importance(key, log_likelihood, _Relative(prior), num_samples)


def uniform(
    key: Key[Array, ""],
    log_joint: LogJoint,
    space: Distribution,
    num_samples: int,
) -> Evidence:
    """log p(x) by S draws z_s uniform over the space Z of z, of one data point, in nats.

        p(x) = |Z| E_z[p(x, z)],    log |Z| + log (1/S) sum_s p(x, z_s),    z_s ~ U(Z)

    |Z| is the number of values of a finite z (L^K for K integers in {0, ..., L - 1}), or the volume
    of a box; mass of p(x, z) outside the box is lost. `space` is any distribution on Z, such as
    the prior of a discrete z, or `distributions.uniform(low, high)`. Streams as `importance`.

    Raises TypeError for a `space` whose volume is not finite (a Gaussian), and as `importance`.
    """
    checks.key(key)
    # With q(z) = 1 / |Z| the weights contain the factor |Z|.
    flat = distributions.flatten(space)
    return importance(key, log_joint, flat, num_samples)
