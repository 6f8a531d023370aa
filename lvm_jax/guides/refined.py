"""Semi-amortised guides: an amortised q, then a few gradient steps on the ELBO of one x."""

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

    init: Callable[[Key[Array, ""]], Params]  # phi, the parameters of the initial q
    posterior: Callable[[JointDensity, Params, Any], Distribution]  # q(z | x) of p and phi

    def __call__(self, p: JointDensity, phi: Params) -> "RefinedConditional":
        """q(z | x), refined on the ELBO of this p."""
        return RefinedConditional(bindable(self), p, phi)


@partial(jax.tree_util.register_dataclass, data_fields=["p", "phi"], meta_fields=["guide"])
@dataclass(frozen=True, eq=False)
class RefinedConditional:
    """q(z | x) of a `Refined`, a pytree."""

    guide: Refined = field(repr=False)
    p: JointDensity
    phi: Params

    def __call__(self, x: Any) -> Distribution:
        """q(z | x) of one data point; this call runs the local steps."""
        return self.guide.posterior(self.p, self.phi, x)


def sampled_elbo(key: Key[Array, ""], num_samples: int) -> PointObjective:
    """The ELBO from `num_samples` draws of a fixed key: a deterministic function of eta, for any q.

    Use the key for nothing else. The ELBO at its draws is biased upwards after refinement, while
    draws from another key give unbiased weights. With few samples the steps overfit the draws.

    Raises ValueError for num_samples < 1 and TypeError for a key that is not typed.
    """
    checks.key(key)
    checks.integer(num_samples, "num_samples", 1)
    return lambda log_joint, q: log_weights(key, log_joint, q, num_samples).mean()


def cubature_elbo(log_joint: LogJoint, q: Any) -> Scalar:
    """The ELBO of a Gaussian q without draws, with E_q[log p(x, z)] by `distributions.cubature`.

    Exact for a log-joint that is quadratic in z; otherwise an approximation, not a bound. Raises
    TypeError for other q.
    """
    return distributions.cubature(q, log_joint) + q.entropy()


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

    `optax.sgd(rate)` is gradient ascent, eta_t + rate * gradient. The objective must be
    differentiable in eta: `sampled_elbo` needs a reparameterised q. There is no line search, so
    long steps can make q worse; NaN is propagated. The result is differentiable in eta and in
    values that log_joint closes over, with the memory of `num_steps` gradients. `optax.adam` then
    needs `eps_root` > 0, because its square root has no derivative at 0.

    The improvement of the ELBO of one data point measures its amortisation gap.
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
    make_guide: Callable[[Family], Guide],
    objective: PointObjective,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    through: bool = True,
) -> Refined:
    """q(z | x) = family(eta_T), after T steps of `refine` from eta_0.

    `make_guide` maps a family to a guide, which computes eta_0 from x. The steps increase the ELBO
    of p, so q depends on the parameters of p. Train both as a pair:

        semi = refined(mean_field(2), lambda f: amortized(f, network.init, network.apply),
                       sampled_elbo(key, 10), optax.sgd(0.1), num_steps=5)

        def pair(params):
            p = model(params.theta)
            return p, semi(p, params.phi)

    `through=True` differentiates all T steps in phi and theta (Kim et al. 2018). `through=False`
    treats the steps as a constant shift of eta_0: phi receives the gradient at eta_T, theta none
    through q, and memory use is T times smaller. `sticking_the_landing` and
    `doubly_reparameterized` run the steps twice, for q and for q at stopped parameters.

    Raises ValueError for num_steps < 0. Source: Kim et al. 2018, algorithm 2; Marino et al. 2018
    learn the update itself.
    """
    num_steps = checks.integer(num_steps, "num_steps", 0)
    start_guide = make_guide(Family(family.init, build=lambda eta: eta))

    def posterior(p: JointDensity, phi: Params, x: Any) -> Distribution:
        start = start_guide.posterior(phi, x)
        if through:
            moved = refine(p.log_joint(x), family, start, objective, optimizer, num_steps)
            return family.build(moved)
        stopped_start, stopped_p = jax.lax.stop_gradient((start, p))
        log_joint = stopped_p.log_joint(x)
        moved = refine(log_joint, family, stopped_start, objective, optimizer, num_steps)
        shift = jax.tree.map(lambda new, old: new - old, moved, stopped_start)
        return family.build(jax.tree.map(jnp.add, start, shift))

    return Refined(start_guide.init, posterior)
