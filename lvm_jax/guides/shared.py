"""Guides without amortisation (shared, per-point, fixed), and the exact posterior."""

import jax

from lvm_jax._core import checks
from lvm_jax.guides.base import Conditional, Family, Guide
from lvm_jax.models.base import Joint, require
from lvm_jax.typing import Array, Distribution, Key, Params


def shared(family: Family) -> Guide:
    """The same q for every x: phi is eta."""
    return Guide(init=family.init, posterior=lambda phi, x: family.build(phi))


def per_point(family: Family, num_points: int) -> Guide:
    """One q for each of N data points, without amortisation: phi is eta with a leading axis N.

    Map over phi and x together:

        phi = guide.init(key)                                      # leaves [N, ...]

        def elbo(key, phi, x):
            return bounds.elbo(log_weights(key, p.log_joint(x), guide(phi)(x), num_samples))

        jax.vmap(elbo)(jax.random.split(key, N), phi, x)           # [N]

    `evidence.evaluate(key, p, guide(phi), x, num_samples, q_per_point=True)` does the same. For a
    minibatch use the rows `jax.tree.map(lambda leaf: leaf[index], phi)`.

    Raises ValueError for num_points < 1.
    """
    num_points = checks.integer(num_points, "num_points", 1)

    def init(key: Key[Array, ""]) -> Params:
        checks.key(key)
        return jax.vmap(family.init)(jax.random.split(key, num_points))

    return Guide(init, posterior=lambda phi, x: family.build(phi))


def fixed(distribution: Distribution) -> Guide:
    """A constant q, such as a prior or a uniform: phi is ().

    Raises ValueError for traced parameters: they carry gradients that estimators cannot stop,
    because they are not part of phi.
    """
    checks.distribution(distribution, "distribution")
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(distribution)):
        raise ValueError(
            "distribution: expected concrete parameters, got traced ones; build it outside jit, "
            "grad and vmap, or make them part of phi with guides.shared"
        )
    return Guide(init=lambda key: (), posterior=lambda phi, x: distribution)


def exact(p: Joint) -> Conditional:
    """q(z | x) = p(z | x), the closed-form posterior of a model; phi is the model's theta.

    The ELBO equals log p(x). Gradients in theta flow through q and through the joint density.

    Raises ValueError if the model has no exact posterior.
    """
    return Guide(p.model.init, require(p.model.posterior, "posterior"))(p.theta)
