"""A latent-variable model p(x, z; theta) as pure functions, for one data point."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from lvm_jax import precision
from lvm_jax.typing import Array, Distribution, Key, Latent, Params, Scalar


class Model(NamedTuple):
    """p(x, z; theta) = p(z; theta) p(x | z; theta); the last two where they are known exactly."""

    init: Callable[[Key[Array, ""]], Params]  # theta
    prior: Callable[[Params], Distribution]  # p(z; theta)
    likelihood: Callable[[Params, Latent], Distribution]  # p(x | z; theta)
    posterior: Callable[[Params, Array], Distribution] | None = None  # p(z | x; theta)
    log_evidence: Callable[[Params, Array], Scalar] | None = None  # log p(x; theta)


def log_joint(model: Model, theta: Params, x: Array) -> Callable[[Latent], Scalar]:
    """The function z -> log p(x, z; theta) of one data point, in nats.

    Raises ValueError if x has not the shape of one draw from the likelihood: a broadcast would
    give a wrong density in silence.
    """
    check_point(model, theta, x)

    @precision.full_by_default
    def joint(z: Latent) -> Scalar:
        return model.prior(theta).log_prob(z) + model.likelihood(theta, z).log_prob(x)

    return joint


def check_point(model: Model, theta: Params, x: Array) -> None:
    """Refuse an x that is not ONE data point of the model. Shapes only: nothing is computed."""

    def draw(key: Key[Array, ""]) -> tuple[Any, Any]:
        z = model.prior(theta).sample(seed=key)
        return z, model.likelihood(theta, z).sample(seed=key)

    _, expected = jax.eval_shape(draw, jax.random.key(0))
    shapes = [jax.tree.map(lambda leaf: tuple(jax.numpy.shape(leaf)), v) for v in (expected, x)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"x: expected one data point of shape {shapes[0]}, got {shapes[1]}; map over rows with "
            "jax.vmap"
        )
