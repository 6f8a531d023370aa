"""A latent-variable model p(x, z; theta) as pure functions, for one data point."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax

from lvm_jax import checks, precision, support
from lvm_jax.distributions import data_support
from lvm_jax.support import Support
from lvm_jax.typing import Array, Distribution, Key, Latent, Params, Scalar

KEPT = 32  # models whose shapes are kept


class Model(NamedTuple):
    """p(x, z; theta) = p(z; theta) p(x | z; theta), with what is known beside it.

    `support` are the values that a number of x may have; None reads them from the type of
    p(x | z): bits, counts and labels of the distributions here and in distrax, and for any other
    type real numbers. Entry points refuse data off the support.
    """

    init: Callable[[Key[Array, ""]], Params]  # theta
    prior: Callable[[Params], Distribution]  # p(z; theta)
    likelihood: Callable[[Params, Latent], Distribution]  # p(x | z; theta)
    posterior: Callable[[Params, Array], Distribution] | None = None  # p(z | x; theta)
    log_evidence: Callable[[Params, Array], Scalar] | None = None  # log p(x; theta)
    support: Support | None = None


class DataPoint(NamedTuple):
    """What one draw of x is like."""

    x: Any  # leaves of shape and dtype
    support: Support


def log_joint(model: Model, theta: Params, x: Array) -> Callable[[Latent], Scalar]:
    """The function z -> log p(x, z; theta) of one data point, in nats.

    Raises ValueError if x has not the shape of one draw from the likelihood: a broadcast would
    give a wrong density in silence. An x that is off the model's support is refused where it is
    not traced.
    """
    check_point(model, theta, x)

    @precision.full_by_default
    def joint(z: Latent) -> Scalar:
        return model.prior(theta).log_prob(z) + model.likelihood(theta, z).log_prob(x)

    return joint


def simulate(key: Key[Array, ""], model: Model, theta: Params) -> tuple[Latent, Array]:
    """One pair z ~ p(z; theta), x ~ p(x | z; theta). Unjitted; `vmap` it over keys for more."""
    key_z, key_x = jax.random.split(key)
    z = model.prior(theta).sample(seed=key_z)
    return z, model.likelihood(theta, z).sample(seed=key_x)


def data_point(model: Model, theta: Params) -> DataPoint:
    """One x as the model draws it. Shapes and types only: nothing is computed.

    The last few models are kept: a second call with parameters of the same shapes costs no trace.
    """
    leaves, structure = jax.tree.flatten(jax.eval_shape(unchanged, theta))
    return _data_point(model, structure, tuple(leaves))


def unchanged(tree: Params) -> Params:
    """The parameters as they are; `jax.eval_shape` of it gives their shapes and types."""
    return tree


@lru_cache(maxsize=KEPT)
def _data_point(model: Model, structure: Any, leaves: tuple[Any, ...]) -> DataPoint:
    found: list[Support] = []

    def draw(theta: Params, key: Key[Array, ""]) -> Any:
        z = checks.distribution(model.prior(theta), "model.prior").sample(seed=key)
        likelihood = checks.distribution(model.likelihood(theta, z), "model.likelihood")
        found.append(data_support(likelihood))
        return likelihood.sample(seed=key)

    x = jax.eval_shape(draw, jax.tree.unflatten(structure, leaves), jax.random.key(0))
    return DataPoint(x, found[0] if model.support is None else model.support)


def check_point(model: Model, theta: Params, x: Array) -> None:
    """Refuse an x that is not ONE data point of the model."""
    expected = data_point(model, theta)
    shapes = [jax.tree.map(lambda leaf: tuple(jax.numpy.shape(leaf)), v) for v in (expected.x, x)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"x: expected one data point of shape {shapes[0]}, got {shapes[1]}; map over rows with "
            "jax.vmap"
        )
    if expected.support != support.REAL:
        for leaf in jax.tree.leaves(x):
            if not isinstance(leaf, jax.core.Tracer):
                support.check(expected.support, leaf)
