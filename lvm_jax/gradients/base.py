"""The type of an estimator, the table of estimators, and the validation of q."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core import checks
from lvm_jax.distributions.kinds import LatentKind, latent_kinds, type_name
from lvm_jax.typing import Array, Float, Key, Params, Scalar
from lvm_jax.weights import LogJoint, check_log_prob

MakeQ = Callable[[Params], Any]  # phi -> q of one data point
# (key, log_joint, guide, phi, num_samples) -> a scalar whose jax.grad is the estimate
Surrogate = Callable[[Key[Array, ""], LogJoint, MakeQ, Params, int], Scalar]


class Estimator(NamedTuple):
    """An estimator with its bound, whether it is unbiased for the bound's gradient, and its q."""

    estimate: Surrogate
    bound: str  # a name in bounds.BOUNDS; with the prefix "annealed_" for weights of chains
    unbiased_theta: bool
    unbiased_phi: bool
    latent: LatentKind  # the required kind of q


ESTIMATORS: dict[str, Estimator] = {}  # filled in gradients/__init__.py

NEEDS: dict[LatentKind, str] = {
    "any": "any q",
    "reparameterized": "a reparameterised q, whose draws carry gradients to its parameters",
    "finite": "a q with finitely many values (Bernoulli, categorical, one_hot or Table)",
    "relaxable": "distributions.Bernoulli or distributions.one_hot",
    "bernoulli": "distributions.Bernoulli",
}


def find_estimate(value: Any, name: str = "estimate") -> Surrogate:
    """The estimator given as a function, or as a row or a name of ESTIMATORS.

    Raises ValueError for an unknown name, and TypeError for other values, such as a function that
    returns an estimator.
    """
    if isinstance(value, str):
        return ESTIMATORS[checks.choice(value, name, tuple(ESTIMATORS))].estimate
    if isinstance(value, Estimator):
        return value.estimate
    if checks.takes(value, "key", "log_joint", "guide", "phi", "num_samples"):
        return value
    expected = f"{name}: expected a function of (key, log_joint, guide, phi, num_samples), got "
    if not callable(value):
        raise TypeError(
            f"{expected}a {type(value).__name__}; use a name in gradients.ESTIMATORS or what one "
            "of the functions of lvm_jax.gradients returns"
        )
    called = checks.signature(value)
    cure = "only training.fit and fit_many take an objective"
    if not checks.takes(value, "key", "point", "num_samples", "step"):
        cure = f"call {value.__name__}(...), which makes the estimator"
    raise TypeError(f"{expected}{called}; {cure}")


def make_q(
    estimator: str,
    latent: LatentKind,
    guide: MakeQ,
    phi: Params,
    num_samples: int,
    minimum: int = 1,
) -> Any:
    """q = guide(phi), validated for the named estimator.

    Raises ValueError for num_samples < `minimum` or a q of several data points, and TypeError for a
    q that is not of the kind `latent`, naming the estimators that support it.
    """
    checks.integer(num_samples, "num_samples", minimum)
    q = checks.distribution(guide(phi))
    kinds = latent_kinds(q)
    if latent not in kinds:
        works = ", ".join(sorted(n for n, row in ESTIMATORS.items() if row.latent in kinds))
        raise TypeError(
            f"{estimator}: expected {NEEDS[latent]}, got {type_name(q)}; estimators for this q: "
            f"{works}"
        )
    check_log_prob(q)
    return q


@jax.custom_jvp
def through(coefficients: Float[Array, "..."], carrier: Float[Array, "..."]) -> Scalar:
    """A scalar with value 0 and gradient sum coefficients * grad carrier.

    Every surrogate uses it to add a gradient term. The coefficients are treated as constants. The
    value is 0 even for infinite coefficients, which occur for draws of weight 0.
    """
    return jnp.zeros((), jnp.result_type(coefficients, carrier))


@through.defjvp
def _through_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Array]) -> tuple[Array, Array]:
    return through(*primals), (primals[0] * tangents[1]).sum()


def positive(value: object, name: str) -> None:
    """Raise ValueError for a number that is not positive and finite; arrays are not checked."""
    if isinstance(value, Real | np.number) and not (float(value) > 0 and math.isfinite(value)):
        raise ValueError(f"{name}: expected a finite number > 0, got {value}")
