"""REBAR and RELAX: score-function estimators with a reparameterised control variate."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax.gradients.base import MakeQ, Surrogate, make_q, positive, through
from lvm_jax.gradients.relaxed import Relaxation, relaxation
from lvm_jax.typing import Array, Distribution, Float, Key, Params, Scalar
from lvm_jax.weights import LogJoint, check_log_joint

LogWeight = Callable[[Array], Scalar]  # (soft or hard) b -> log p(x, b) - log q(b)
# (log_weight, soften, z) -> nats, at noisy logits z; soften is sigmoid or softmax
Control = Callable[[LogWeight, Callable[[Array], Array], Array], Scalar]


def rebar_control(temperature: float | Scalar = 0.5, scale: float | Scalar = 1.0) -> Control:
    """c(z) = scale * log_weight(soften(z / temperature)); both numbers may be traced."""
    positive(temperature, "temperature")
    return lambda log_weight, soften, z: scale * log_weight(soften(z / temperature))


def relax(control: Control) -> Surrogate:
    """RELAX: with z = logits + noise, b = H(z), and z' drawn from z given b,

        logits:  (f(b) - c(z')) grad log q(b) + grad c(z) - grad c(z'),   f(b) = log p - log q
        theta:   mean of dlog p(x, b)/dtheta

    averaged over num_samples = S. Unbiased in theta and phi for the ELBO, for any control
    c(log_weight, soften, z). The control may close over traced parameters; optimise them with
    `variance_objective`. log_joint must accept soft values only if the control uses them. Needs
    Bernoulli or one-hot rows. Source: Grathwohl et al. 2018, section 3.2.
    """
    return _controlled("relax", control)


def rebar(temperature: float | Scalar = 0.5, scale: float | Scalar = 1.0) -> Surrogate:
    """REBAR: `relax` with the relaxed f as the control, c(z) = scale * f(soften(z / temperature)).

    Unbiased in theta and phi for the ELBO at every temperature and scale, which may be traced.
    scale = 0 is REINFORCE. log_joint must accept soft values. Needs Bernoulli or one-hot rows.
    Source: Tucker et al. 2017, section 3.
    """
    return _controlled("rebar", rebar_control(temperature, scale))


def variance_objective(control: Control) -> Surrogate:
    """|phi-gradient of `relax(control)`|^2, to be minimised in the parameters of the control.

    The expected phi-gradient does not depend on the control, so the gradient of this square is an
    unbiased estimate of the gradient of the total variance (Tucker et al. 2017, section 3.2;
    Grathwohl et al. 2018, section 3.1). Needs Bernoulli or one-hot rows. It has the signature of an
    estimator, but it is no bound: do not use its gradient in theta or phi.
    """

    def objective(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        q = make_q("variance_objective", "relaxable", guide, phi, num_samples)
        _, slopes = _relax_slopes(key, log_joint, q, num_samples, control)
        _, pull = jax.vjp(lambda phi: relaxation(guide(phi))[0], phi)
        squares = jax.tree.map(lambda leaf: (leaf**2).sum(), pull(slopes.mean(0))[0])
        return sum(jax.tree.leaves(squares), jnp.zeros((), slopes.dtype))

    return objective


def _controlled(name: str, control: Control) -> Surrogate:
    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        q = make_q(name, "relaxable", guide, phi, num_samples)
        values, slopes = _relax_slopes(key, log_joint, q, num_samples, control)
        return values.mean() + through(slopes.mean(0), relaxation(q)[0])

    return estimate


def _relax_slopes(
    key: Key[Array, ""], log_joint: LogJoint, q: Distribution, num_samples: int, control: Control
) -> tuple[Float[Array, " S"], Float[Array, "S ..."]]:
    """For each draw: log w, which carries theta, and the gradient for the logits."""
    logits, family = relaxation(q)
    logits = jax.lax.stop_gradient(logits)
    noise = family.noise(key, (num_samples, 2, *logits.shape), logits.dtype)
    check_log_joint(log_joint, noise[:, 0])

    def log_weight(b: Array) -> Scalar:
        return log_joint(b) - family.log_prob(logits, b)

    def one(noise: Array) -> tuple[Scalar, Array]:
        value = log_weight(family.harden(logits + noise[0]))
        return value, _relax_slope(value, log_weight, logits, noise, family, control)

    return jax.vmap(one)(noise)


def _relax_slope(
    value: Scalar,
    log_weight: LogWeight,
    logits: Array,
    noise: Array,
    family: Relaxation,
    control: Control,
) -> Array:
    """The gradient for the logits from one draw."""
    b = family.harden(logits + noise[0])

    def controls(logits: Array) -> tuple[Scalar, Scalar]:
        given = family.condition(logits, noise[1], b)
        free, tied = (control(log_weight, family.soften, z) for z in (logits + noise[0], given))
        return free - tied, tied

    path, tied = jax.grad(controls, has_aux=True)(logits)
    rest = jnp.where(value == tied, 0.0, value - tied)  # both are -inf for density 0
    return rest * jax.grad(family.log_prob)(logits, b) + path
