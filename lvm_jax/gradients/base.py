"""What an estimator is, the table of them, and the refusal of a q that an estimator cannot take."""

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

MakeQ = Callable[[Params], Any]  # phi -> q of one data point, whose kind `make_q` asks for
# (key, log_joint, guide, phi, num_samples) -> a scalar whose jax.grad is the estimate.
Surrogate = Callable[[Key[Array, ""], LogJoint, MakeQ, Params, int], Scalar]


class Estimator(NamedTuple):
    """An estimator with what it promises; unbiased means: for the gradient of `bound`."""

    estimate: Surrogate
    bound: str  # its name in bounds.BOUNDS; after "annealed_", of the log-weights of chains
    unbiased_theta: bool
    unbiased_phi: bool
    latent: LatentKind  # the q that it takes


ESTIMATORS: dict[str, Estimator] = {}  # the rows stand in gradients/__init__.py

NEEDS: dict[LatentKind, str] = {
    "any": "any q",
    "reparameterized": "a reparameterised q, whose draws carry gradients to its parameters",
    "finite": "a q with finitely many values (Bernoulli, categorical, one_hot or Table)",
    "relaxable": "distributions.Bernoulli or distributions.one_hot",
    "bernoulli": "distributions.Bernoulli",
}


def find_estimate(value: Any, name: str = "estimate") -> Surrogate | None:
    """An estimator, its row or its name in ESTIMATORS, as the estimator; None stays None.

    Raises ValueError for another name, and TypeError for what is not an estimator, such as a
    function that makes one.
    """
    if value is None:
        return None
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
    cure = "an objective goes into objective="
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
    """q = guide(phi), after refusing what the named estimator cannot take.

    Raises ValueError for num_samples < `minimum` or a q of several data points, and TypeError for
    another kind of q than `latent`, naming the estimators that would work.
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
    """A scalar of value 0 whose gradient is sum coefficients * grad carrier.

    The one trick of every surrogate: coefficients that are numbers times something that carries
    parameters. The value is 0 also where a coefficient is infinite, as of a draw of weight 0.
    """
    return jnp.zeros((), jnp.result_type(coefficients, carrier))


@through.defjvp
def _through_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Array]) -> tuple[Array, Array]:
    return through(*primals), (primals[0] * tangents[1]).sum()


def positive(value: object, name: str) -> None:
    """Refuse a Python number that is not positive and finite; traced numbers pass unseen."""
    if isinstance(value, Real | np.number) and not (float(value) > 0 and math.isfinite(value)):
        raise ValueError(f"{name}: expected a finite number > 0, got {value}")
