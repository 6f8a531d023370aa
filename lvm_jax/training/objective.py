"""Modified objectives of one data point (KL warm-up, free bits), with the true bound.

An objective is a function of log p(x | z), log p(z) and log q(z | x). Each step reports the true
bound too, from the same draws.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import bounds, distributions
from lvm_jax._core import checks
from lvm_jax._core.pairs import Point
from lvm_jax.distributions.base import independent_normals
from lvm_jax.gradients.base import Surrogate, find_estimate, make_q
from lvm_jax.typing import Array, Distribution, Float, Generative, Int, Key, Latent, Scalar
from lvm_jax.weights import check_log_prob, draw

BATCH = "batch"  # the axis that a step maps data points over, for jax.lax.pmean
Schedule = Callable[[Int[Array, ""]], Scalar]  # the step's number -> a number, as Optax has them


class Terms(NamedTuple):
    """Objective and bound of one data point, in nats, both to be maximised."""

    objective: Scalar  # the steps follow its gradient
    bound: Scalar  # a bound on log p(x), reported without a gradient


# (key, point, num_samples, step) -> Terms
Objective = Callable[[Key[Array, ""], Point, int, Int[Array, ""]], Terms]


class Parts(NamedTuple):
    """The parts of log w_s = log p(x | z_s) + log p(z_s) - log q(z_s | x), each [S], in nats."""

    log_likelihood: Float[Array, " S"]
    log_prior: Float[Array, " S"]
    log_q: Float[Array, " S"]

    def log_weights(self, kl_weight: Scalar | float = 1.0) -> Float[Array, " S"]:
        """log p(x | z_s) + kl_weight (log p(z_s) - log q(z_s | x))."""
        return self.log_likelihood + kl_weight * (self.log_prior - self.log_q)


def parts(p: Generative, q: Distribution, x: Any, z: Latent) -> Parts:
    """log p(x | z_s), log p(z_s) and log q(z_s | x) at draws z with a leading axis S.

    Raises ValueError if x is not one data point of the model, or log q(z) not one number.
    """
    p.log_joint(x)  # checks x
    check_log_prob(q)
    prior = p.prior(x)
    return Parts(
        jax.vmap(lambda one: p.log_likelihood(one, x))(z),
        jax.vmap(prior.log_prob)(z),
        jax.vmap(q.log_prob)(z),
    )


def kl_warmup(kl_weight: float | Schedule, bound: bounds.Reduction = bounds.elbo) -> Objective:
    """KL warm-up: the bound of log p(x | z) + beta (log p(z) - log q(z | x)), beta = kl_weight.

    For the ELBO the objective is E_q[log p(x | z)] - beta KL(q || p(z)); another bound is applied
    to the tempered weights. `kl_weight` is a number (beta-VAE) or an Optax schedule of the step,
    such as `optax.linear_schedule(0.0, 1.0, 10_000)`. Gradients are reparameterised. The reported
    bound is `bound` at beta = 1. For beta < 1 the objective lies above the ELBO and is no bound on
    log p(x).

    Raises ValueError for a negative weight and TypeError for a q that is not reparameterised.
    Source: Bowman et al. 2016, section 3.1; Sonderby et al. 2016, section 2.3; Higgins et al. 2017.
    """
    if not callable(kl_weight):
        checks.number(kl_weight, "kl_weight")

    def objective(
        key: Key[Array, ""], point: Point, num_samples: int, step: Int[Array, ""]
    ) -> Terms:
        _, found = sample_parts("kl_warmup", key, point, num_samples)
        weight = kl_weight(step) if callable(kl_weight) else kl_weight
        return Terms(bound(found.log_weights(weight)), bound(found.log_weights()))

    return objective


class BoundOf(NamedTuple):
    """The bound of an estimator as an objective; equal for equal estimators."""

    estimate: Surrogate

    def __call__(
        self, key: Key[Array, ""], point: Point, num_samples: int, step: Int[Array, ""]
    ) -> Terms:
        """The estimate of the bound, twice."""
        log_joint = point.p.log_joint(point.x)
        value = self.estimate(key, log_joint, point.make_q, point.phi, num_samples)
        return Terms(value, value)


def as_objective(value: Any) -> Objective:
    """The argument `estimate`: an objective, or the bound of an estimator as one.

    An objective is a function of four arguments, an estimator one of five. Raises ValueError or
    TypeError for any other value, such as the function that makes an objective.
    """
    is_estimator = checks.takes(value, "key", "log_joint", "guide", "phi", "num_samples")
    if checks.takes(value, "key", "point", "num_samples", "step") and not is_estimator:
        return value
    bound: Any = BoundOf(find_estimate(value))  # mypy does not call a NamedTuple
    return bound


def free_bits(minimum: float, group: Literal["dimension", "all"] = "dimension") -> Objective:
    """Free bits: E_q[log p(x | z)] - sum_j max(minimum, KL_j), KL_j averaged over the minibatch.

    `minimum` is in nats a group: a KL_j below it has no gradient. The groups are the dimensions of
    z, where q and the prior are products of Normals, so that KL_j has a closed form; or `all` of z
    as one group, for any reparameterised q and any prior. The KL of `all` is the closed form of
    `distributions.kl_divergence`, or else the average of log q(z_s) - log p(z_s). The reported
    bound is the ELBO, E_q[log p(x | z)] - KL, from the same draws. The objective lies below it.

    Raises ValueError for a negative minimum, and TypeError if q or the prior is not a product of
    Normals with group "dimension". Source: Kingma et al. 2016, equation 15.
    """
    minimum = checks.number(minimum, "minimum")
    checks.choice(group, "group", ("dimension", "all"))

    def objective(
        key: Key[Array, ""], point: Point, num_samples: int, step: Int[Array, ""]
    ) -> Terms:
        q, found = sample_parts("free_bits", key, point, num_samples)
        prior, likelihood = factors(point.p).prior(point.x), found.log_likelihood.mean()
        if group == "dimension":
            kl = kl_per_dimension(q, prior)
        else:
            closed = distributions.kl_divergence(q, prior)
            kl = (found.log_q - found.log_prior).mean() if closed is None else closed
        floored = jnp.maximum(minimum, jax.lax.pmean(kl, BATCH))
        return Terms(likelihood - floored.sum(), likelihood - kl.sum())

    return objective


def kl_per_dimension(q: Distribution, prior: Distribution) -> Float[Array, " K"]:
    """KL(q_k || p_k) of products of Normals, [K], in nats:

        log(t_k / s_k) + (s_k^2 + (m_k - n_k)^2) / (2 t_k^2) - 1/2,   q_k = N(m_k, s_k^2)

    with p_k = N(n_k, t_k^2). Raises TypeError for anything else.
    """
    pair = []
    for name, distribution in (("q", q), ("prior", prior)):
        normals = independent_normals(distribution)
        if normals is None:
            raise TypeError(
                f"{name}: expected a product of Normals, whose KL has one term a dimension, got "
                f'{type(distribution).__name__}; use free_bits(minimum, "all")'
            )
        pair.append((normals.loc, normals.scale))
    (m, s), (n, t) = pair
    return jnp.log(t / s) + 0.5 * ((s / t) ** 2 + ((m - n) / t) ** 2) - 0.5


def sample_parts(
    name: str, key: Key[Array, ""], point: Point, num_samples: int
) -> tuple[Distribution, Parts]:
    """q(z | x; phi), which must be reparameterised, and the parts of the log-weights of S draws."""
    p, x = factors(point.p), point.x
    q = make_q(name, "reparameterized", point.make_q, point.phi, num_samples)
    return q, parts(p, q, x, draw(key, q, num_samples))


def factors(p: Any) -> Generative:
    """p; TypeError if it has no prior and likelihood."""
    if not isinstance(p, Generative):
        raise TypeError(
            "p: expected one with prior() and likelihood(z), whose KL is weighted, got a "
            f"{type(p).__name__}; use an estimator, or one of lvm_jax.models"
        )
    return p
