"""Priors p(z): standard normal, learned mixture, VampPrior."""

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

SPREAD = 0.5  # initial standard deviation of mixture components
JITTER = 0.01  # initial noise of pseudo-inputs, in standard deviations of the data


class Prior(NamedTuple):
    """p(z). `build` rebuilds it on each call, so transformations need only its parameters."""

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

    A pytree of arrays with a static function. Components are rebuilt on each call, so the mixture
    is safe under every transformation.
    """

    log_weights: Params  # log pi, normalised, [*B, K] with vmapped axes B
    shared: Params  # parameters of all components, or ()
    parts: Params  # leaves [K, ...]
    component: Callable[[Params, Params], Distribution] = field(repr=False)

    @property
    def reparameterized(self) -> bool:
        """False: the choice of the component has no derivative."""
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
        """Draws, each from a random component; leaves [*sample_shape, ...]."""
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
    """z ~ sum_k pi_k N(loc_k, diag(exp(log_scale_k))^2), with learned parameters.

    Initial weights are equal, standard deviations 1/2, and means from N(0, 3/4 I), which gives
    N(0, I) on average. Means must differ, because equal components have equal gradients.

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
    """p(z) = sum_k pi_k q(z | u_k) with K `inputs` u_k and pi = softmax(logits), equal by default.

    With learned inputs this is the VampPrior, which approximates the optimal prior of a VAE: the
    aggregate posterior, the mean of q(z | x_n) over the data. p then depends on the parameters of
    q, so one function builds both:

        def pair(params):
            q = guide(params.phi)
            vamp = params.theta.prior
            return model(params.theta, mixture_of(q, vamp.pseudo_inputs, vamp.logits)), q

    where the prior of `model` is `priors.vamp`. One density costs K densities of q. An inverse
    autoregressive q inverts the flow for each, which is slow.

    Source: Tomczak and Welling (2018), section 3, whose pi_k are equal.
    """
    if logits is None:
        logits = jnp.zeros(inputs.shape[0])
    return Mixture(jax.nn.log_softmax(logits), q, inputs, _component)


def _component(q: ConditionalDensity, x: Array) -> Distribution:
    return q(x)


def vamp(num_components: int, start: ArrayLike) -> Prior:
    """The parameters of a VampPrior, `Vamp`: pseudo-inputs and weights for `mixture_of`.

    The pseudo-inputs start at K random rows of `start` [N, D], N >= K, plus noise of 1% of the
    data's standard deviation, so that components differ. They may leave the range of the data.

    Raises ValueError for a `start` without K distinct rows. `build` always raises ValueError,
    because the prior needs q: use `mixture_of`.
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
            "prior: expected the VampPrior built from q, got only its parameters; call "
            "model(theta, priors.mixture_of(q, theta.prior.pseudo_inputs, theta.prior.logits))"
        )

    return Prior(init, build)
