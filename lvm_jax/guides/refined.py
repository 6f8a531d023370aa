"""Semi-amortised guides: from the amortised start, a few local steps on the ELBO of one point."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lvm_jax import distributions
from lvm_jax._core import checks
from lvm_jax._core.recognition import bindable
from lvm_jax.guides.base import Family, Guide
from lvm_jax.typing import Array, Distribution, JointDensity, Key, Params, Scalar
from lvm_jax.weights import LogJoint, log_weights

PointObjective = Callable[[LogJoint, Distribution], Scalar]  # of one data point, to be maximised


class Refined(NamedTuple):
    """A guide whose q depends on p too; `refined(p, phi)` is q(z | x) with its parameters."""

    init: Callable[[Key[Array, ""]], Params]  # phi, of where the steps start
    posterior: Callable[[JointDensity, Params, Any], Distribution]  # q(z | x) of p and phi

    def __call__(self, p: JointDensity, phi: Params) -> "RefinedConditional":
        """q(z | x), whose steps climb the ELBO of this p."""
        return RefinedConditional(bindable(self), p, phi)


@partial(jax.tree_util.register_dataclass, data_fields=["p", "phi"], meta_fields=["guide"])
@dataclass(frozen=True, eq=False)
class RefinedConditional:
    """q(z | x) of a `Refined`, a pytree."""

    guide: Refined = field(repr=False)
    p: JointDensity
    phi: Params

    def __call__(self, x: Any) -> Distribution:
        """q(z | x) of one data point: the local steps are made here."""
        return self.guide.posterior(self.p, self.phi, x)


def sampled_elbo(key: Key[Array, ""], num_samples: int) -> PointObjective:
    """The ELBO from draws of ONE fixed key, the same in every step: smooth in eta, for any q.

    Keep the key for this alone. Draws of the refined q from another key then weigh without bias;
    the ELBO at this key's draws is the one that was climbed, and too high. Few draws are fitted
    themselves, and the refined q is then no better for others.

    Raises ValueError for num_samples < 1 and TypeError for a key that is not typed.
    """
    checks.key(key)
    checks.integer(num_samples, "num_samples", 1)
    return lambda log_joint, q: log_weights(key, log_joint, q, num_samples).mean()


def cubature_elbo(log_joint: LogJoint, q: Any) -> Scalar:
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
    objective: PointObjective,
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
    family: Family,
    place: Callable[[Family], Guide],
    objective: PointObjective,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    through: bool = True,
) -> Refined:
    """q(z | x) = family(eta_T), T steps of `refine` from eta_0 = what `place` gives for x.

    `place` takes a family to a guide, and says where eta_0 comes from. The steps climb the ELBO of
    p, so that q shares p's parameters, and both are trained as a pair:

        semi = refined(mean_field(2), lambda f: amortized(f, network.init, network.apply),
                       sampled_elbo(key, 10), optax.sgd(0.1), num_steps=5)

        def pair(params):
            p = model(params.theta)
            return p, semi(p, params.phi)

    `through` says how the parameters learn. True: derivatives of all T steps, in phi and in theta
    (Kim et al. 2018). False: the steps count as a constant shift of eta_0, so phi gets the gradient
    at eta_T and theta none through q: first order, T times cheaper in memory. In training every
    step makes the local steps of each data point; `sticking_the_landing` and
    `doubly_reparameterized` make them twice, for q and for q at frozen parameters.

    Raises ValueError for num_steps < 0. Source: Kim et al. 2018, algorithm 2; Marino et al. 2018
    learn the update itself.
    """
    num_steps = checks.integer(num_steps, "num_steps", 0)
    place_of_eta = place(Family(family.init, build=lambda eta: eta))

    def posterior(p: JointDensity, phi: Params, x: Any) -> Distribution:
        start = place_of_eta.posterior(phi, x)
        if through:
            moved = refine(p.log_joint(x), family, start, objective, optimizer, num_steps)
            return family.build(moved)
        frozen, still = jax.lax.stop_gradient((start, p))
        moved = refine(still.log_joint(x), family, frozen, objective, optimizer, num_steps)
        shift = jax.tree.map(lambda new, old: new - old, moved, frozen)
        return family.build(jax.tree.map(jnp.add, start, shift))

    return Refined(place_of_eta.init, posterior)
