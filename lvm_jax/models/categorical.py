"""Discrete latent variables with any likelihood; exact results by streamed enumeration."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import distributions
from lvm_jax._core import checks
from lvm_jax.distributions import Table
from lvm_jax.models.base import Model
from lvm_jax.models.streaming import log_sum
from lvm_jax.typing import Array, Distribution, Float, Int, Key, Latent, Params, Scalar

CHUNK = 2**12  # terms in memory at once
MAX_TERMS = 2**30  # of log p(x), about a minute for one data point

Likelihood = Callable[[Params, Latent], Distribution]
Init = Callable[[Key[Array, ""]], Params]


class Discrete(NamedTuple):
    """theta: the logits of the prior, and the parameters of the likelihood."""

    logits: Float[Array, "K L"] | Float[Array, " K"]
    likelihood: Params


def categorical(
    num_variables: int, num_values: int, likelihood: Likelihood, init: Init, one_hot: bool = False
) -> Model:
    """The model z_k ~ Categorical(logits_k), k < K, x | z ~ likelihood(parameters, z).

    z is [K] integers in {0, ..., L - 1}, or with `one_hot` [K, L] floats, which can be relaxed if
    the likelihood is smooth in z. `init` draws the parameters of the likelihood. The prior starts
    uniform.

    log p(x) is a streamed sum of L^K terms and raises ValueError for more than MAX_TERMS. The
    posterior is a `Table` in memory and raises ValueError for more than
    `distributions.MAX_SUPPORT` values. Other methods have no limit.
    """
    num_variables = checks.integer(num_variables, "num_variables", 1)
    num_values = checks.integer(num_values, "num_values", 2)
    shape = (num_variables, num_values)
    if one_hot:
        return _discrete(shape, num_values, distributions.one_hot, _one_hot, likelihood, init)
    return _discrete(shape, num_values, distributions.categorical, _integers, likelihood, init)


def bernoulli(num_variables: int, likelihood: Likelihood, init: Init) -> Model:
    """The model z_k ~ Bernoulli(sigmoid(logits_k)), z in {0.0, 1.0}^K, k < K; see `categorical`.

    Raises ValueError for num_variables < 1, and as `categorical`.
    """
    shape = (checks.integer(num_variables, "num_variables", 1),)
    return _discrete(shape, 2, distributions.Bernoulli, _bits, likelihood, init)


def _integers(logits: Array, digits: Int[Array, " K"]) -> Latent:
    return digits


def _one_hot(logits: Array, digits: Int[Array, " K"]) -> Latent:
    return jax.nn.one_hot(digits, logits.shape[1], dtype=logits.dtype)


def _bits(logits: Array, digits: Int[Array, " K"]) -> Latent:
    return digits.astype(logits.dtype)


def _discrete(
    shape: tuple[int, ...],
    num_values: int,
    family: Callable[[Array], Distribution],
    encode: Callable[[Array, Array], Latent],
    likelihood: Likelihood,
    init: Init,
) -> Model:
    """The model with prior family(logits); `encode` converts digits to z."""
    model = Model(
        init=lambda key: Discrete(jnp.zeros(shape), init(key)),
        prior=lambda theta: family(theta.logits),
        likelihood=lambda theta, z: likelihood(theta.likelihood, z),
    )

    def log_evidence(theta: Discrete, x: Any) -> Scalar:
        joint = model(theta).log_joint(x)
        return _log_sum(lambda digits: joint(encode(theta.logits, digits)), shape[0], num_values)

    def posterior(theta: Discrete, x: Any) -> Table:
        values = distributions.support(model.prior(theta))
        joint = model(theta).log_joint(x)
        batch = min(CHUNK, num_values ** shape[0])
        return Table(jax.nn.log_softmax(jax.lax.map(joint, values, batch_size=batch)), values)

    return model._replace(posterior=posterior, log_evidence=log_evidence)


def _log_sum(joint: Callable[[Array], Scalar], num_variables: int, num_values: int) -> Scalar:
    """log sum of exp(joint(digits)) over all digits [K], streamed."""
    if num_values**num_variables > MAX_TERMS:
        raise ValueError(
            f"log_evidence: expected at most {MAX_TERMS:,} values of z to sum over, got "
            f"{num_values}^{num_variables}; use a bound or an estimate from samples"
        )
    # A chunk enumerates as many of the last digits as fit, so that all chunks have one size.
    num_fast = min(num_variables, max(1, int(math.log(CHUNK, num_values) + 1e-9)))
    num_slow = num_variables - num_fast
    fast = jnp.asarray(distributions.digits(num_values, num_fast), jnp.int32)
    powers = num_values ** jnp.arange(num_slow, dtype=jnp.int32)[::-1]

    def terms(chunk: Int[Array, ""]) -> Float[Array, " M"]:
        slow = jnp.broadcast_to(chunk // powers % num_values, (fast.shape[0], num_slow))
        return jax.vmap(joint)(jnp.concatenate([slow, fast], axis=1))

    return log_sum(terms, num_values**num_slow)
