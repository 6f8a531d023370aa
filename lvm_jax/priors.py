"""Priors p(z) of a latent z: standard normal, a learned mixture, the VampPrior."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core import checks
from lvm_jax.distributions import normal
from lvm_jax.typing import (
    Array,
    ArrayLike,
    ConditionalDensity,
    Distribution,
    Float,
    Int,
    Key,
    Latent,
    Params,
    Scalar,
)

SPREAD = 0.5  # of a component of a fresh mixture, whose whole has unit variance
JITTER = 0.01  # of fresh pseudo-inputs about their data, in standard deviations of the data


class Prior(NamedTuple):
    """p(z). `build` makes it afresh from its parameters, so that these may be transformed."""

    init: Callable[[Key[Array, ""]], Params]
    build: Callable[[Params], Distribution]


class MixturePrior(NamedTuple):
    """The parameters of `mixture`."""

    logits: Float[Array, " K"]  # log pi up to a constant
    locs: Float[Array, "K D"]
    log_scales: Float[Array, "K D"]


class Vamp(NamedTuple):
    """The parameters of `vamp`."""

    pseudo_inputs: Float[Array, "K D"]
    logits: Float[Array, " K"]  # log pi up to a constant


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["log_weights", "shared", "parts"],
    meta_fields=["component"],
)
@dataclass(frozen=True, eq=False)
class Mixture:
    """p(z) = sum_k pi_k component(shared, parts_k)(z), with parts_k row k of every leaf of `parts`.

    A pytree whose leaves are its arrays, the function being static: components are built anew
    whenever they are used, so it is safe under every transformation whatever distribution they
    are. `shared` is what all components depend on, () if nothing.
    """

    log_weights: Params  # log pi, normalised, [*B, K]; B where it is vmapped
    shared: Params
    parts: Params  # leaves [K, ...]
    component: Callable[[Params, Params], Distribution] = field(repr=False)

    @property
    def reparameterized(self) -> bool:
        """No: which component a draw comes from has no derivative in the parameters."""
        return False

    def log_prob(self, value: Latent) -> Scalar:
        """log sum_k pi_k p_k(z), in nats."""
        each = jax.vmap(lambda part: self.component(self.shared, part).log_prob(value))
        log_p = each(self.parts)
        if log_p.shape != self.log_weights.shape:
            raise ValueError(
                f"value: expected one z, got a batch of shape {log_p.shape[1:]}; map over rows "
                "with jax.vmap"
            )
        return jax.nn.logsumexp(self.log_weights + log_p)

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Latent:
        """A component for each draw, then z from it; leaves [*sample_shape, ...]."""
        key_label, key_z = jax.random.split(seed)
        count = math.prod(sample_shape)
        labels = jax.random.categorical(key_label, self.log_weights, shape=(count,))

        def draw(key: Key[Array, ""], label: Int[Array, ""]) -> Latent:
            part = jax.tree.map(lambda leaf: leaf[label], self.parts)
            return self.component(self.shared, part).sample(seed=key)

        flat = jax.vmap(draw)(jax.random.split(key_z, count), labels)
        return jax.tree.map(lambda leaf: leaf.reshape(*sample_shape, *leaf.shape[1:]), flat)


def standard_normal(dim: int) -> Prior:
    """z ~ N(0, I) in `dim` dimensions; no parameters. Raises ValueError for dim < 1."""
    dim = checks.integer(dim, "dim", 1)
    return Prior(
        init=lambda key: (),
        build=lambda params: normal(jnp.zeros(dim), jnp.ones(dim)),
    )


def mixture(dim: int, num_components: int) -> Prior:
    """z ~ sum_k pi_k N(loc_k, diag(exp(log_scale_k))^2), all of it learned.

    It starts with equal weights, standard deviations of 1/2 and means drawn from N(0, 3/4 I): on
    average N(0, I), where guides start, with every component at a place of its own. Equal
    components would have equal gradients, and stay equal for ever.

    Raises ValueError for dim or num_components < 1.
    """
    dim = checks.integer(dim, "dim", 1)
    num_components = checks.integer(num_components, "num_components", 1)

    def init(key: Key[Array, ""]) -> MixturePrior:
        checks.key(key)
        shape = (num_components, dim)
        locs = math.sqrt(1 - SPREAD**2) * jax.random.normal(key, shape)
        return MixturePrior(jnp.zeros(num_components), locs, jnp.full(shape, math.log(SPREAD)))

    def build(params: MixturePrior) -> Mixture:
        parts = (params.locs, params.log_scales)
        return Mixture(jax.nn.log_softmax(params.logits), (), parts, _diagonal_normal)

    return Prior(init, build)


def _diagonal_normal(shared: Params, part: tuple[Array, Array]) -> Distribution:
    loc, log_scale = part
    return normal(loc, jnp.exp(log_scale))


def mixture_of(
    q: ConditionalDensity, inputs: Float[Array, "K ..."], logits: Float[Array, " K"] | None = None
) -> Mixture:
    """p(z) = sum_k pi_k q(z | u_k), of the K `inputs` u_k, with pi = softmax(logits), or equal pi.

    With learned inputs this is the VampPrior: the optimal prior of a VAE is the aggregate
    posterior, the mean of q(z | x_n) over the data, and this is its best summary by K inputs. p and
    q then share the parameters of q, so that both are built by one function of all parameters:

        def pair(params):
            q = guide(params.phi)
            vamp = params.theta.prior
            return model(params.theta, mixture_of(q, vamp.pseudo_inputs, vamp.logits)), q

    where `model` has `priors.vamp` for its prior. One density costs K densities of q at a z that it
    did not draw: an inverse autoregressive q has to be inverted for each, a coupling flow or a
    Gaussian has not.

    Source: Tomczak and Welling (2018), section 3, whose pi_k are equal.
    """
    if logits is None:
        logits = jnp.zeros(inputs.shape[0])
    return Mixture(jax.nn.log_softmax(logits), q, inputs, _component)


def _component(q: ConditionalDensity, x: Array) -> Distribution:
    return q(x)


def vamp(num_components: int, start: ArrayLike) -> Prior:
    """The parameters of a VampPrior, `Vamp`: pseudo-inputs and weights for `mixture_of`.

    `start` is data rows [N, D], N >= K: the pseudo-inputs begin at K rows drawn without
    replacement, plus noise of a hundredth of the data's standard deviation, so that two equal
    rows give no two equal components. They are not held to the range of the data.

    Raises ValueError for a `start` without K distinct rows, and in `build`: the prior needs q.
    """
    num_components = checks.integer(num_components, "num_components", 1)
    rows = np.asarray(checks.points(start, "start", num_components))
    checks.distinct_rows(rows, num_components, "start")
    jitter = JITTER * float(rows.std())

    def init(key: Key[Array, ""]) -> Vamp:
        checks.key(key)
        key_rows, key_noise, _ = jax.random.split(key, 3)
        index = jax.random.choice(key_rows, len(rows), (num_components,), replace=False)
        chosen = jnp.asarray(rows, float)[index]
        noise = jitter * jax.random.normal(key_noise, chosen.shape)
        return Vamp(chosen + noise, jnp.zeros(num_components))

    def build(params: Vamp) -> Mixture:
        raise ValueError(
            "prior: expected the VampPrior built from q, got its parameters alone; bind the model "
            "by model(theta, priors.mixture_of(q, theta.prior.pseudo_inputs, theta.prior.logits))"
        )

    return Prior(init, build)
