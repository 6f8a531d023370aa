"""Gradient estimators: one signature, `(key, log_joint, guide, phi, num_samples) -> surrogate`.

For ONE data point, with guide: phi -> q. The surrogate's VALUE is an estimate of the bound, in
nats, to be maximised. Its `jax.grad` is the gradient estimate, for phi and for the theta that
log_joint closes over:

    estimate = gradients.doubly_reparameterized(bounds.iwae)
    value, (grad_theta, grad_phi) = jax.value_and_grad(
        lambda theta, phi: estimate(key, model(theta).log_joint(x), guide, phi, 10), argnums=(0, 1)
    )(theta, phi)

Map over data points and their keys with jax.vmap. A surrogate gives first derivatives only. The
functions below take options and return estimators; `ESTIMATORS` lists estimators with their bounds
and biases.

Every estimator raises ValueError for too few num_samples or a log-joint that does not map q's z to
one number, and TypeError for an unsupported q, naming the estimators that support it.
"""

from lvm_jax import bounds
from lvm_jax.gradients.accuracy import Accuracy, accuracy
from lvm_jax.gradients.annealed import (
    Annealable,
    Dynamics,
    annealable,
    annealed,
    annealed_learned,
)
from lvm_jax.gradients.base import ESTIMATORS, Estimator, Surrogate
from lvm_jax.gradients.comparison import compare
from lvm_jax.gradients.control import rebar, rebar_control, relax, variance_objective
from lvm_jax.gradients.discrete import arm, disarm
from lvm_jax.gradients.enumeration import enumerated
from lvm_jax.gradients.pathwise import (
    doubly_reparameterized,
    piwae,
    reparameterized,
    sticking_the_landing,
)
from lvm_jax.gradients.relaxed import concrete, straight_through
from lvm_jax.gradients.score import leave_one_out, score_function, vimco
from lvm_jax.gradients.table import EstimatorRow, EstimatorTable
from lvm_jax.gradients.wake_sleep import (
    doubly_reparameterized_wake_sleep,
    reweighted_wake_sleep,
    sleep,
)

# name: estimator, bound, unbiased in theta, unbiased in phi, required kind of q
ESTIMATORS.update(
    reparameterized=Estimator(reparameterized(), "elbo", True, True, "reparameterized"),
    reparameterized_iwae=Estimator(
        reparameterized(bounds.iwae), "iwae", True, True, "reparameterized"
    ),
    sticking_the_landing=Estimator(sticking_the_landing(), "elbo", True, True, "reparameterized"),
    doubly_reparameterized=Estimator(
        doubly_reparameterized(), "iwae", True, True, "reparameterized"
    ),
    piwae=Estimator(piwae(), "iwae", True, False, "reparameterized"),
    annealed=Estimator(annealed(), "annealed_elbo", True, True, "reparameterized"),
    score_function=Estimator(score_function(), "elbo", True, True, "any"),
    score_function_iwae=Estimator(score_function(bounds.iwae), "iwae", True, True, "any"),
    leave_one_out=Estimator(leave_one_out(), "elbo", True, True, "any"),
    vimco=Estimator(vimco(), "iwae", True, True, "any"),
    enumerated=Estimator(enumerated(), "elbo", True, True, "finite"),
    concrete=Estimator(concrete(), "elbo", False, False, "relaxable"),
    straight_through=Estimator(straight_through(), "elbo", True, False, "relaxable"),
    arm=Estimator(arm(), "elbo", True, True, "bernoulli"),
    disarm=Estimator(disarm(), "elbo", True, True, "bernoulli"),
    rebar=Estimator(rebar(), "elbo", True, True, "relaxable"),
    relax=Estimator(relax(rebar_control(1.0)), "elbo", True, True, "relaxable"),
    reweighted_wake_sleep=Estimator(reweighted_wake_sleep(), "iwae", True, False, "any"),
    doubly_reparameterized_wake_sleep=Estimator(
        doubly_reparameterized_wake_sleep(), "iwae", True, False, "reparameterized"
    ),
)

__all__ = [
    "ESTIMATORS",
    "Accuracy",
    "Annealable",
    "Dynamics",
    "Estimator",
    "EstimatorRow",
    "EstimatorTable",
    "Surrogate",
    "accuracy",
    "annealable",
    "annealed",
    "annealed_learned",
    "arm",
    "compare",
    "concrete",
    "disarm",
    "doubly_reparameterized",
    "doubly_reparameterized_wake_sleep",
    "enumerated",
    "leave_one_out",
    "piwae",
    "rebar",
    "rebar_control",
    "relax",
    "reparameterized",
    "reweighted_wake_sleep",
    "score_function",
    "sleep",
    "sticking_the_landing",
    "straight_through",
    "variance_objective",
    "vimco",
]
