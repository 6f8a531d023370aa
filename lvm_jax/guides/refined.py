"""Semi-amortised guides: from the amortised start, a few local steps on the ELBO of one point."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lvm_jax import checks, distributions
from lvm_jax.guides.base import Family, Guide
from lvm_jax.models.base import Model, log_joint
from lvm_jax.typing import Array, Distribution, Key, Params, Scalar
from lvm_jax.weights import LogJoint, log_weights

Objective = Callable[[LogJoint, Distribution], Scalar]  # of one data point, to be maximised


class Refined(NamedTuple):
    """phi: where the steps start, and the model whose ELBO they climb."""

    start: Params  # phi of the amortised guide
    theta: Params  # tied: put the model's own theta here, see `refined`


def sampled_elbo(key: Key[Array, ""], num_samples: int) -> Objective:
    """The ELBO from draws of ONE fixed key, the same in every step: smooth in eta, for any q.

    Keep the key for this alone. Draws of the refined q from another key then weigh without bias;
    the ELBO at this key's draws is the one that was climbed, and too high. Few draws are fitted
    themselves, and the refined q is then no better for others.

    Raises ValueError for num_samples < 1 and TypeError for a key that is not typed.
    """
    checks.key(key)
    checks.integer(num_samples, "num_samples", 1)
    return lambda log_joint, q: log_weights(key, log_joint, q, num_samples).mean()


def cubature_elbo(log_joint: LogJoint, q: Distribution) -> Scalar:
    """The ELBO of a Gaussian q without draws, E_q[log p(x, z)] by `distributions.cubature`.

    Exact for a log-joint that is quadratic in z; elsewhere an approximation, and no bound. Raises
    TypeError for other q.
    """
    energy = distributions.cubature(q, log_joint)  # refuses a q that is not Gaussian
    return energy + q.entropy()


def refine(
    log_joint: LogJoint,
    family: Family,
    eta: Params,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    num_steps: int,
) -> Params:
    """eta after `num_steps` steps up the objective of family(eta), of ONE data point.

        eta_{t+1} = eta_t + update(grad_eta objective(log_joint, family(eta_t)))

    `optax.sgd(rate)` is plain gradient ascent, eta_t + rate * gradient (the sign is turned here).
    The objective has to be differentiable in eta: with `sampled_elbo`, a reparameterised q. Nothing
    keeps a step that is too long from making q worse, and NaN stays NaN. Differentiable in eta and
    in what log_joint closes over, through all steps, at a memory of `num_steps` gradients;
    `optax.adam` then needs an `eps_root` > 0, for its square root has no slope at 0.

    As local optimisation of a per-point q, it measures the amortisation gap.
    Raises ValueError for num_steps < 0. Source: Kim et al. 2018, algorithm 2.
    """
    num_steps = checks.integer(num_steps, "num_steps", 0)

    def loss(eta: Params) -> Scalar:
        return -objective(log_joint, family.build(eta))

    def step(state: tuple[Params, optax.OptState], _: None) -> tuple[tuple, None]:
        eta, memory = state
        updates, memory = optimizer.update(jax.grad(loss)(eta), memory, eta)
        return (optax.apply_updates(eta, updates), memory), None

    return jax.lax.scan(step, (eta, optimizer.init(eta)), length=num_steps)[0][0]


def refined(
    model: Model,
    family: Family,
    place: Callable[[Family], Guide],
    objective: Objective,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    through: bool = True,
) -> Guide:
    """q(z | x) = family(eta_T), T steps of `refine` from eta_0 = what `place` gives for x.

    `place` takes a family to a guide, and says where eta_0 comes from:

        guide = refined(model, mean_field(2), lambda f: amortized(f, network.init, network.apply),
                        sampled_elbo(key, 10), optax.sgd(0.1), num_steps=5)

    phi is `Refined(start, theta)`: the steps climb the ELBO of the model at phi.theta. Tie it to
    the model's own by `phi._replace(theta=theta)`; `init` fills it with NaN, which `posterior`
    refuses where it can see it (`check_tied`). `training.refining` ties it in every training step.

    `through` says how phi learns. True: derivatives of all T steps, in start and in theta (Kim et
    al. 2018). False: the steps count as a constant shift of eta_0, so start gets the gradient at
    eta_T and theta none through q: first order, T times cheaper in memory.

    Raises ValueError for num_steps < 0, and in `posterior` for an untied phi. Source: Kim et al.
    2018; Marino et al. 2018 learn the update itself.
    """
    num_steps = checks.integer(num_steps, "num_steps", 0)
    place_of_eta = place(Family(family.init, build=lambda eta: eta))

    def init(key: Key[Array, ""]) -> Refined:
        theta = jax.eval_shape(model.init, key)
        untied = jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), theta)
        return Refined(place_of_eta.init(key), untied)

    def posterior(phi: Refined, x: Array) -> Distribution:
        check_tied(phi)
        start = place_of_eta.posterior(phi.start, x)
        joint = log_joint(model, phi.theta, x)
        if through:
            return family.build(refine(joint, family, start, objective, optimizer, num_steps))
        frozen, still = jax.lax.stop_gradient((start, phi.theta))
        moved = refine(log_joint(model, still, x), family, frozen, objective, optimizer, num_steps)
        shift = jax.tree.map(lambda new, old: new - old, moved, frozen)
        return family.build(jax.tree.map(jnp.add, start, shift))

    return Guide(init, posterior)


def check_tied(phi: Params) -> None:
    """Refuse a `Refined` phi whose theta is still the NaN of `init`; traced numbers pass unseen.

    Raises ValueError saying how to tie it, and how to train it.
    """
    if not isinstance(phi, Refined):
        return
    leaves = jax.tree.leaves(phi.theta)
    if any(isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct) for leaf in leaves):
        return
    if leaves and all(np.isnan(np.asarray(leaf)).all() for leaf in leaves):
        raise ValueError(
            "phi.theta: expected the theta of the model, whose ELBO the local steps climb, got the "
            "NaN of init; use guides.Refined(phi.start, theta), and train with "
            "objective=training.refining(guide, estimate=...) and the guide where the steps start"
        )
