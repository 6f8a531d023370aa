"""The ELBO of a model with global latents, from minibatches."""

from typing import Any

import jax

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax._core.pairs import Point
from lvm_jax.distributions.kinds import has_parts
from lvm_jax.gradients.base import Estimator, Surrogate, find_estimate, make_q
from lvm_jax.gradients.pathwise import log_prob
from lvm_jax.training.objective import Objective, Terms, factors
from lvm_jax.typing import (
    Array,
    Distribution,
    Float,
    Generative,
    Int,
    Key,
    Latent,
    Params,
    Scalar,
)
from lvm_jax.weights import sample_and_log_prob


def global_latents(
    num_points: int, local: Surrogate | Estimator | str = "sticking_the_landing"
) -> Objective:
    """The ELBO of p(beta) prod_n p(z_n, x_n | beta), divided by N = num_points.

        (1 / N) E_q(beta)[log p(beta) - log q(beta)] + E_q(beta)[L_x(beta)]        for a row x
        L_x(beta) <= log p(x | beta),   estimated by `local` from S draws of z ~ q(z | x, beta)

    Its mean over the rows of a minibatch estimates 1 / N times a bound on log p(X): the local terms
    have weight N / B, B the batch size. Prior and q are `Successive`s of beta and z under the same
    names. If neither is, all of z is beta: then L_x = log p(x | beta), and the S draws are of beta.
    q(beta) is reparameterised and must not depend on x. Each row draws its own beta, so the noise
    of beta falls with the batch size, as that of z does. The gradient omits the score of q(beta),
    whose mean is zero. It is unbiased in theta and phi for the bound if `local` is unbiased for
    L_x. The reported bound is the objective; N times its mean bounds log p(X).

    Raises ValueError for num_points < 1, and TypeError for a q(beta) that is not reparameterised
    or latents of p and q that differ. Source: Hoffman et al. 2013, section 2.2; Kingma and Welling
    2014, appendix F; Roeder et al. 2017.
    """
    num_points = checks.integer(num_points, "num_points", 1)
    inner = find_estimate(local, "local")

    def objective(
        key: Key[Array, ""], point: Point, num_samples: int, step: Int[Array, ""]
    ) -> Terms:
        p, x = factors(point.p), point.x
        p.log_joint(x)  # checks x
        prior: Any = p.prior(x)
        parted = are_parted(prior, point.make_q(point.phi))
        draws = 1 if parted else num_samples
        key_global, key_local = jax.random.split(key)
        beta, terms = global_terms(key_global, prior, point, draws, parted)

        def local_terms(key: Key[Array, ""], beta: Latent) -> Scalar:
            if parted:
                return local_bound(key, inner, p, prior, point, beta, num_samples)
            return p.log_likelihood(beta, x)

        found = jax.vmap(local_terms)(jax.random.split(key_local, draws), beta)
        value = (terms / num_points + found).mean()
        return Terms(value, value)

    return objective


def global_terms(
    key: Key[Array, ""], prior: Any, point: Point, num_samples: int, parted: bool
) -> tuple[Latent, Float[Array, " S"]]:
    """Draws of beta, leaves [S, ...], and log p(beta) - log q(beta) without the score of q, [S]."""

    def q_of(phi: Params) -> Distribution:
        q: Any = point.make_q(phi)
        return q.first if parted else q

    q = make_q("global_latents", "reparameterized", q_of, point.phi, num_samples)
    beta, log_q = sample_and_log_prob(key, q, num_samples)
    still, log_p = q_of(jax.lax.stop_gradient(point.phi)), (prior.first if parted else prior)

    def one(beta: Latent, log_q: Scalar | None) -> Scalar:
        return log_p.log_prob(beta) - log_prob(still, beta, log_q)

    return beta, jax.vmap(one)(beta, log_q)


def local_bound(
    key: Key[Array, ""],
    estimate: Surrogate,
    p: Generative,
    prior: Any,
    point: Point,
    beta: Latent,
    num_samples: int,
) -> Scalar:
    """An estimate of a bound on log p(x | beta)."""

    def log_joint(z: Latent) -> Scalar:
        likelihood = p.log_likelihood(prior.join(beta, z), point.x)
        return prior.second(beta).log_prob(z) + likelihood

    # beta is a parameter of q(z | x, beta) too, so the estimator computes its gradient.
    def q_of(both: tuple[Params, Latent]) -> Distribution:
        q: Any = point.make_q(both[0])
        return q.second(both[1])

    log_joint = precision.full_by_default(log_joint)
    return estimate(key, log_joint, q_of, (point.phi, beta), num_samples)


def are_parted(prior: Any, q: Any) -> bool:
    """Whether prior and q split z in two parts; TypeError if their parts differ."""
    names = [v.names if has_parts(v) else None for v in (prior, q)]
    if names[0] != names[1]:
        kinds = [
            f"one of parts {list(name)}" if name else "one without parts (no Successive)"
            for name in names
        ]
        raise TypeError(
            f"q: expected a distribution split as the prior is, {kinds[0]}, got {kinds[1]}; "
            "build both by distributions.Successive(first, second, names)"
        )
    return names[1] is not None
