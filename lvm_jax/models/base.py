"""A latent-variable model p(x, z; theta) as pure functions, for one data point."""

from collections.abc import Callable
from typing import NamedTuple

from lvm_jax.typing import Array, Distribution, Key, Latent, Params, Scalar


class Model(NamedTuple):
    """p(x, z; theta) = p(z; theta) p(x | z; theta); the last two where they are known exactly."""

    init: Callable[[Key[Array, ""]], Params]  # theta
    prior: Callable[[Params], Distribution]  # p(z; theta)
    likelihood: Callable[[Params, Latent], Distribution]  # p(x | z; theta)
    posterior: Callable[[Params, Array], Distribution] | None = None  # p(z | x; theta)
    log_evidence: Callable[[Params, Array], Scalar] | None = None  # log p(x; theta)


def log_joint(model: Model, theta: Params, x: Array) -> Callable[[Latent], Scalar]:
    """The function z -> log p(x, z; theta) of one data point, in nats."""

    def joint(z: Latent) -> Scalar:
        return model.prior(theta).log_prob(z) + model.likelihood(theta, z).log_prob(x)

    return joint
