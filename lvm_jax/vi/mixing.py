"""Importance weights by the density of a mixture, and the weights of its components from them.

Every component has the same number of draws, whatever its mass. The proposal is the equal mixture

    q_bar(z) = (1 / K) sum_k sum_j a_j q_kj(z),    w = p(z) / q_bar(z)

with the share a_j of its draws in width j. A weight is finite and counts each mode once, however
many components cover it: w <= K p(z) / (a_j q_kj(z)) for every component.

Source: Hesterberg (1995); Owen and Zhou (2000), the balance heuristic with equal strata; Cappe et
al. (2008), population Monte Carlo, equation 8, for the weights.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import precision
from lvm_jax.compiling import bounded_jit
from lvm_jax.distributions.mixtures import NormalMixture
from lvm_jax.estimate import Estimate
from lvm_jax.typing import Array, Float, Key, Scalar

NUM_STEPS = 200  # of EM for the weights
LEAST = 1e-30  # the least weight of a component
CHUNK = 2**25  # numbers in the log-densities of the draws that are evaluated at once


class Draws(NamedTuple):
    """S draws, the same number from each of K components."""

    log_p: Float[Array, " S"]  # nats
    log_parts: Float[Array, "S K J"]  # of the components
    log_weights: Float[Array, " S"]  # log p - log q_bar


class Masses(NamedTuple):
    """The integral of p under each component, by its share of the mixture at each draw."""

    log_evidence: Scalar  # log Z, nats
    log_mass: Float[Array, " K"]  # log Z_k, nats
    mass: Estimate  # Z_k / Z, [K]


@bounded_jit(3, lean=True)
def draw_evenly(
    key: Key[Array, ""], mixture: NormalMixture, density: Any, counts: tuple[int, ...]
) -> Draws:
    """`counts[j]` draws of width j from each component, in the order of the components."""
    num_modes, dim = mixture.means.shape
    each = sum(counts)
    width = np.repeat(np.arange(len(counts)), counts)
    label = (np.arange(num_modes)[:, None] * len(counts) + width[None]).ravel()
    noise = jax.random.normal(key, (label.size, dim), mixture.means.dtype)
    z = mixture.place(noise, jnp.asarray(label))
    size = max(CHUNK // (num_modes * dim), 1)
    log_p, parts = jax.lax.map(lambda z: (density(z), mixture.log_parts(z)), z, batch_size=size)
    log_p = jnp.where(jnp.isnan(log_p), -jnp.inf, log_p)
    share = jnp.log(jnp.asarray(counts, parts.dtype) / each)
    log_q = jax.nn.logsumexp(parts + share[None, None], axis=(1, 2)) - np.log(num_modes)
    return Draws(log_p, parts, log_p - log_q)


@bounded_jit(lean=True)
@precision.full
def mixture_weights(draws: Draws) -> Float[Array, "K J"]:
    """The log-weights pi that maximise sum_s w_s log sum_kj pi_kj q_kj(z_s), by EM.

    They minimise an estimate of KL(p || mixture).
    """
    shape = draws.log_parts.shape
    parts = draws.log_parts.reshape(shape[0], -1)
    high = parts.max(1, keepdims=True)
    likely = jnp.exp(parts - high)
    weight = jax.nn.softmax(draws.log_weights)

    def step(_: Any, share: Float[Array, " C"]) -> Float[Array, " C"]:
        share = share * ((weight / (likely @ share)) @ likely)
        share = jnp.maximum(share, LEAST)
        return share / share.sum()

    equal = jnp.full(parts.shape[1], 1 / parts.shape[1], parts.dtype)
    return jnp.log(jax.lax.fori_loop(0, NUM_STEPS, step, equal)).reshape(shape[1:])


@bounded_jit(lean=True)
@precision.full
def masses(draws: Draws, log_weights: Float[Array, "K J"]) -> Masses:
    """The masses of the components of the mixture with these weights.

    Z_k is the mean of w rho_k, with rho_k(z) = sum_j pi_kj q_kj(z) / q(z), minus the control
    variate b (q_kJ / q_bar - 1) of the last width, whose mean is 0. With it Z_k has no error where
    p is the mixture. The standard error of Z_k / Z is that of a ratio, from the spread within the
    draws of each component.
    """
    num_modes = draws.log_parts.shape[1]
    rho = jax.nn.softmax(jax.nn.logsumexp(draws.log_parts + log_weights[None], axis=2), axis=1)
    high = draws.log_weights.max()
    values = jnp.exp(draws.log_weights - high)[:, None] * rho
    log_q = draws.log_p - draws.log_weights
    control = jnp.exp(draws.log_parts[:, :, -1] - log_q[:, None]) - 1
    slope = _within(control, values, num_modes) / _within(control, control, num_modes)
    values = values - control * jnp.where(jnp.isfinite(slope), slope, 0)[None]

    mean = values.mean(0)
    share = mean / mean.sum()
    residual = (values - share[None] * values.sum(1, keepdims=True)) / mean.sum()
    error = jnp.sqrt(_within(residual, residual, num_modes) / len(values))
    log_mass = high + jnp.log(mean)
    return Masses(jax.nn.logsumexp(log_mass), log_mass, Estimate(share, error))


def _within(
    left: Float[Array, "S K"], right: Float[Array, "S K"], num_strata: int
) -> Float[Array, " K"]:
    """The covariances of columns within the strata of equal size, averaged over strata."""
    left, right = (part.reshape(num_strata, -1, part.shape[1]) for part in (left, right))
    count = left.shape[1]
    away = (left - left.mean(1, keepdims=True)) * (right - right.mean(1, keepdims=True))
    return away.sum((0, 1)) / (num_strata * (count - 1))
