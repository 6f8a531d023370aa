"""Pathwise gradients of bounds of annealed chains, which reduce the gap of a restricted q.

The log-weights come from `annealing.unadjusted_log_weights`: a few differentiable leapfrog steps
from q towards the posterior.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lvm_jax import annealing, bounds
from lvm_jax._core import checks
from lvm_jax.annealing.path import check_temperatures
from lvm_jax.annealing.unadjusted import check_refreshment, check_step_size
from lvm_jax.gradients.base import MakeQ, Surrogate, make_q, positive
from lvm_jax.guides.base import Guide
from lvm_jax.typing import Array, ArrayLike, Distribution, Float, Key, Params, Scalar
from lvm_jax.weights import LogJoint

NUM_TEMPERATURES = 4

# phi -> temperatures [T + 1] and step size, a number or [T]
MakeSchedule = Callable[[Params], tuple[ArrayLike, ArrayLike | float]]


class Dynamics(NamedTuple):
    """Temperatures and step sizes of T steps, in unconstrained parameters."""

    log_increments: Float[Array, " T"]  # of the temperatures, up to a constant
    log_step_sizes: Float[Array, " T"]

    @property
    def temperatures(self) -> Float[Array, " T1"]:
        """0 = beta_0 < ... < beta_T = 1, by a softmax of the increments."""
        rising = jnp.cumsum(jax.nn.softmax(self.log_increments)[:-1])
        return jnp.pad(jnp.pad(rising, (1, 0)), (0, 1), constant_values=1.0)

    @property
    def step_sizes(self) -> Float[Array, " T"]:
        """Step sizes in the units of z."""
        return jnp.exp(self.log_step_sizes)


class Annealable(NamedTuple):
    """phi of `annealable`: the phi of a guide, and the dynamics of chains from its q."""

    q: Params
    dynamics: Dynamics


def annealed(
    bound: bounds.Reduction = bounds.elbo,
    *,
    temperatures: ArrayLike | None = None,
    step_size: ArrayLike | float = 0.1,
    refreshment: float = 0.1,
) -> Surrogate:
    """The bound of S annealed chains from q, by automatic differentiation. Any bound.

        B(log w),    log w_s = log p(x, z_T) - log q(z_0) + sum_t log N(u_t) - log N(v_{t-1})

    E[w] = p(x) for any step size, so lower bounds remain lower bounds. See
    `annealing.unadjusted_log_weights` for the chains and `refreshment`. `temperatures` are 4 equal
    steps by default; `step_size` is a number or [T], in the units of z. Step size 0 gives the bound
    of q. Larger steps usually raise the bound if T >= 2; too large steps make it much lower. q is
    trained as the start of the chains and need not approximate the posterior.

    Unbiased in theta and phi for the bound of the CHAINS' weights, where it is differentiable.
    Costs T gradients of log_joint, their derivatives, and the memory of T steps. Needs a
    reparameterised q whose log_prob is differentiable at any z, unlike inverse autoregressive
    flows; z may be a pytree. Temperatures and step size may be traced; `annealed_learned` learns
    them.

    Raises ValueError for temperatures that do not rise from 0 to 1, a step size that is not
    positive or of another shape, or a refreshment outside (0, 1].
    Source: Zhang et al. 2021; Geffner and Domke 2021.
    """
    num_temperatures = NUM_TEMPERATURES
    if temperatures is not None:
        temperatures = check_temperatures(temperatures)
        num_temperatures = temperatures.shape[0] - 1
    positive(step_size, "step_size")
    check_step_size(step_size, num_temperatures)

    def make_schedule(phi: Params) -> tuple[ArrayLike, ArrayLike | float]:
        given = annealing.linear(num_temperatures) if temperatures is None else temperatures
        return given, step_size

    return _of_chains("annealed", bound, make_schedule, refreshment)


def annealed_learned(
    bound: bounds.Reduction = bounds.elbo, *, refreshment: float = 0.1
) -> Surrogate:
    """`annealed` with learned temperatures and step sizes, which are part of phi.

    phi is an `Annealable`, of a guide made by `annealable`. Unbiased in all its fields. Raises
    TypeError for another phi, and ValueError as `annealed`.
    Source: Zhang et al. 2021; Geffner and Domke 2021.
    """

    def make_schedule(phi: Params) -> tuple[ArrayLike, ArrayLike | float]:
        if not isinstance(phi, Annealable):
            raise TypeError(
                "phi: expected an Annealable, as gradients.annealable makes guides with it, got "
                f"{type(phi).__name__}"
            )
        return phi.dynamics.temperatures, phi.dynamics.step_sizes

    return _of_chains("annealed_learned", bound, make_schedule, refreshment)


def annealable(
    guide: Guide, num_temperatures: int = NUM_TEMPERATURES, *, step_size: float = 0.1
) -> Guide:
    """The same q(z | x), with the dynamics of annealed chains in phi, an `Annealable`.

    Initial temperatures are equidistant and step sizes equal; all x share them. Functions without
    annealing, such as `evidence.evaluate`, use only q.

    Raises ValueError for num_temperatures < 1 or a step size that is not positive.
    """
    num_temperatures = checks.integer(num_temperatures, "num_temperatures", 1)
    positive(step_size, "step_size")

    def init(key: Key[Array, ""]) -> Annealable:
        even = jnp.zeros(num_temperatures)
        return Annealable(guide.init(key), Dynamics(even, jnp.full_like(even, jnp.log(step_size))))

    def posterior(phi: Annealable, x: Any) -> Distribution:
        return guide.posterior(phi.q, x)

    return Guide(init, posterior)


def _of_chains(
    name: str, bound: bounds.Reduction, make_schedule: MakeSchedule, refreshment: float
) -> Surrogate:
    check_refreshment(refreshment)

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        temperatures, step_size = make_schedule(phi)
        q = make_q(name, "reparameterized", guide, phi, num_samples)
        log_w = annealing.unadjusted_log_weights(
            key, log_joint, q, num_samples,
            temperatures=temperatures, step_size=step_size, refreshment=refreshment,
        )  # fmt: skip
        return bound(log_w)

    return estimate
