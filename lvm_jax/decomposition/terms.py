"""The terms of the ELBO and its gap for one data point, in nats: log p(x) = ELBO + KL(q || post.).

    ELBO = E_q[log p(x, z)] + H(q)                       energy and entropy
         = E_q[log p(x | z)] - KL(q || prior)            reconstruction and KL to the prior

`decompose` estimates every term from draws, each with its standard error; `decompose_exactly`
computes them without draws, if q and the log-joint allow it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import bounds, distributions, weights
from lvm_jax._core import checks
from lvm_jax.estimate import Estimate
from lvm_jax.evidence import Evidence
from lvm_jax.typing import Array, Distribution, Float, Key, Latent, Scalar
from lvm_jax.weights import LogJoint


class Decomposition(NamedTuple):
    """The terms of log p(x) = ELBO + KL(q || posterior) in nats; None where unknown."""

    elbo: Estimate
    energy: Estimate  # E_q[log p(x, z)]
    entropy: Estimate  # H(q)
    reconstruction: Estimate | None  # E_q[log p(x | z)]; needs the prior
    kl_prior: Estimate | None  # KL(q || prior); needs the prior
    kl_posterior: Estimate | None  # KL(q || p(z | x))
    log_evidence: Estimate | None  # log p(x)


def decompose(
    key: Key[Array, ""],
    log_joint: LogJoint,
    q: Distribution,
    num_samples: int,
    *,
    prior: Distribution | None = None,
    posterior: Distribution | None = None,
    log_evidence: Scalar | Evidence | None = None,
) -> Decomposition:
    """The terms from S draws of q, with the closed forms of entropy and KL to the prior if known.

    All terms share the draws. With a `posterior`, log p(x) is the same for every draw, to rounding;
    a larger standard error shows a wrong posterior. Without it, KL = log p(x) - ELBO. Then log p(x)
    is `log_evidence` (a known number, or an Evidence with its error), or importance sampling from
    these draws, and the error of the KL includes the correlation of the two.

    The ELBO is mean(log w). energy + entropy and reconstruction - KL(q || prior) equal it in
    expectation, and exactly if no closed form is used.

    Raises ValueError for num_samples < 1, a log-joint that does not fit q, or a q, prior,
    posterior or log_evidence of several data points.
    """
    checks.key(key)
    _check_one_point(q, prior, posterior)
    z = weights.draw(key, q, num_samples)
    weights.check_log_joint(log_joint, z)
    log_p, log_q = jax.vmap(log_joint)(z), jax.vmap(q.log_prob)(z)
    log_posterior = None if posterior is None else jax.vmap(posterior.log_prob)(z)
    kl_posterior, evidence = _gap(log_p, log_q, log_posterior, _given(log_evidence))
    reconstruction = kl_prior = None
    if prior is not None:
        log_prior = jax.vmap(prior.log_prob)(z)
        reconstruction = Estimate.of_draws(log_p - log_prior)
        kl_prior = _closed(distributions.kl_divergence(q, prior), log_q - log_prior)
    return Decomposition(
        elbo=Estimate.of_draws(log_p - log_q),
        energy=Estimate.of_draws(log_p),
        entropy=_closed(distributions.entropy(q), -log_q),
        reconstruction=reconstruction,
        kl_prior=kl_prior,
        kl_posterior=kl_posterior,
        log_evidence=evidence,
    )


def _gap(
    log_p: Float[Array, " S"],
    log_q: Float[Array, " S"],
    log_posterior: Float[Array, " S"] | None,
    known: Estimate | None,
) -> tuple[Estimate, Estimate]:
    """KL(q || posterior) and log p(x), from the draws."""
    if log_posterior is not None:
        kl = Estimate.of_draws(log_q - log_posterior)
        return kl, known or Estimate.of_draws(log_p - log_posterior)
    log_w = log_p - log_q
    elbo = Estimate.of_draws(log_w)
    if known is not None:
        error = jnp.hypot(known.standard_error, elbo.standard_error)
        return Estimate(known.value - elbo.value, error), known
    value = bounds.iwae(log_w)
    # Delta method: the influence of draw s is w_s / p(x) - 1 on log p, and log w_s on the ELBO.
    relative = jnp.exp(log_w - value)
    gap = Estimate.of_draws(relative - log_w)._replace(value=value - elbo.value)
    return gap, Estimate.of_draws(relative)._replace(value=value)


def decompose_exactly(
    log_joint: LogJoint,
    q: Distribution,
    *,
    prior: Distribution | None = None,
    posterior: Distribution | None = None,
    log_evidence: Scalar | Evidence | None = None,
) -> Decomposition:
    """The terms without sampling: expectations under q by enumeration or cubature.

    A finite q is enumerated. A Gaussian q is integrated over 2 D points, which is exact ONLY if
    log p(x, z) is quadratic in z, as in a linear-Gaussian model; this is not checked.
    KL(q || posterior) is its closed form, independent of the other terms. Without a posterior it is
    log p(x) - ELBO, and without `log_evidence` too both are None.

    Raises TypeError for any other q, ValueError for a z that cannot be enumerated or a log-joint
    or a posterior that does not fit q.
    """
    _check_one_point(q, prior, posterior)
    weights.check_log_joint(
        log_joint, jax.eval_shape(lambda: weights.draw(jax.random.key(0), q, 1))
    )
    energy = _expect(q, log_joint)
    entropy = _need(distributions.entropy(q), "q: expected a closed form of its entropy")
    reconstruction = kl_prior = kl_posterior = None
    if prior is not None:
        reconstruction = _expect(q, lambda z: log_joint(z) - prior.log_prob(z))
        kl_prior = _need(distributions.kl_divergence(q, prior), "prior: expected q's family")
    evidence = _given(log_evidence)
    elbo = Estimate.exact(energy.value + entropy.value)
    if posterior is not None:
        kl = distributions.kl_divergence(q, posterior)
        kl_posterior = _need(kl, "posterior: expected q's family")
        evidence = evidence or Estimate.exact(elbo.value + kl_posterior.value)
    elif evidence is not None:
        kl_posterior = evidence._replace(value=evidence.value - elbo.value)
    return Decomposition(elbo, energy, entropy, reconstruction, kl_prior, kl_posterior, evidence)


def elbo_energy_entropy(
    key: Key[Array, ""], log_joint: LogJoint, q: Distribution, num_samples: int
) -> Scalar:
    """The ELBO as mean_s log p(x, z_s) + H(q), with the closed form of the entropy.

    Unbiased; differentiable through the draws if q is reparameterised. Raises TypeError for a q
    without a closed form of its entropy, ValueError as `weights.log_weights`.
    """
    checks.key(key)
    _check_one_point(q)
    entropy = _need(distributions.entropy(q), "q: expected a closed form of its entropy")
    return _energy(key, log_joint, q, num_samples) + entropy.value


def elbo_reconstruction_kl(
    key: Key[Array, ""],
    log_joint: LogJoint,
    q: Distribution,
    num_samples: int,
    *,
    prior: Distribution,
) -> Scalar:
    """The ELBO as mean_s log p(x | z_s) - KL(q || prior), with the closed form of the KL.

    log p(x | z) is log p(x, z) - log p(z). Unbiased; differentiable as `elbo_energy_entropy`.
    Raises TypeError for a q and a prior without a closed form, ValueError as `log_weights`.
    """
    checks.key(key)
    _check_one_point(q, prior)
    kl = _need(distributions.kl_divergence(q, prior), "prior: expected q's family")
    log_likelihood: LogJoint = lambda z: log_joint(z) - prior.log_prob(z)  # noqa: E731
    return _energy(key, log_likelihood, q, num_samples) - kl.value


def _energy(
    key: Key[Array, ""], log_density: LogJoint, q: Distribution, num_samples: int
) -> Scalar:
    z = weights.draw(key, q, num_samples)
    weights.check_log_joint(log_density, z)
    return jax.vmap(log_density)(z).mean()


def _expect(q: Distribution, function: Callable[[Latent], Scalar]) -> Estimate:
    value = distributions.expectation(q, function)
    return Estimate.exact(distributions.cubature(q, function) if value is None else value)


def _closed(value: Scalar | None, draws: Float[Array, " S"]) -> Estimate:
    """The closed form if there is one, else the mean of the draws."""
    return Estimate.of_draws(draws) if value is None else Estimate.exact(value)


def _need(value: Scalar | None, expected: str) -> Estimate:
    if value is None:
        raise TypeError(f"{expected}, got none; use decompose, which samples")
    return Estimate.exact(value)


def _given(log_evidence: Scalar | Evidence | None) -> Estimate | None:
    if log_evidence is None:
        return None
    if isinstance(log_evidence, Evidence):
        term = Estimate(log_evidence.log_evidence, log_evidence.standard_error)
    else:
        term = Estimate.exact(log_evidence)
    if jnp.shape(term.value) != ():
        raise ValueError(
            "log_evidence: expected the number of one data point, got shape "
            f"{jnp.shape(term.value)}; map over data points with jax.vmap"
        )
    return term


def _check_one_point(
    q: Distribution, prior: Distribution | None = None, posterior: Distribution | None = None
) -> None:
    """Refuse distributions with a batch of parameters."""
    for name, one in {"q": q, "prior": prior, "posterior": posterior}.items():
        if one is not None:
            weights.check_log_prob(one, name)
