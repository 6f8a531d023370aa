"""Pathwise gradients of a bound on annealed chains: they close a gap that the family of q leaves.

The log-weights are those of `annealing.unadjusted_log_weights`, whose every step is differentiable:
a few leapfrog steps from q towards the posterior, for the ELBO of the whole journey.
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
Travel = Callable[[Params], tuple[ArrayLike, ArrayLike | float]]


class Dynamics(NamedTuple):
    """Temperatures and step sizes of T steps; every field is free to move."""

    log_increments: Float[Array, " T"]  # of the temperatures, up to a constant
    log_step_sizes: Float[Array, " T"]

    @property
    def temperatures(self) -> Float[Array, " T1"]:
        """0 = beta_0 < ... < beta_T = 1, by a softmax of the increments."""
        rising = jnp.cumsum(jax.nn.softmax(self.log_increments)[:-1])
        return jnp.pad(jnp.pad(rising, (1, 0)), (0, 1), constant_values=1.0)

    @property
    def step_sizes(self) -> Float[Array, " T"]:
        """In z's own units."""
        return jnp.exp(self.log_step_sizes)


class Annealable(NamedTuple):
    """phi of `annealable`: that of a guide, and how chains travel from its q."""

    q: Params
    dynamics: Dynamics


def annealed(
    bound: bounds.Reduction = bounds.elbo,
    *,
    temperatures: ArrayLike | None = None,
    step_size: ArrayLike | float = 0.1,
    refreshment: float = 0.1,
) -> Surrogate:
    """The bound of S annealed chains from q, differentiated as it stands. Any bound.

        B(log w),    log w_s = log p(x, z_T) - log q(z_0) + sum_t log N(u_t) - log N(v_{t-1})

    with E[w] = p(x) for any step size: see `annealing.unadjusted_log_weights` for the chains,
    `temperatures` (4 equal steps unless given), `step_size` (a number or [T], in z's own units) and
    `refreshment`. A bound from below stays one. Steps of size 0 give the bound of q alone; longer
    ones usually raise it where T >= 2, until they are too long for the density, and it falls fast.
    Where chains end is nearer to the posterior than where they start, so q need not be it: it
    learns to start them.

    Unbiased in theta and in phi for the bound of the CHAINS' weights, wherever it is
    differentiable. Costs T gradients of log_joint forward, their derivatives back, and the memory
    of T steps. Needs a reparameterised q whose log_prob can be differentiated at any z, which an
    inverse-autoregressive flow's cannot; z may be a pytree. Temperatures and step size may be
    traced; `annealed_learned` learns them.

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

    def travel(phi: Params) -> tuple[ArrayLike, ArrayLike | float]:
        given = annealing.linear(num_temperatures) if temperatures is None else temperatures
        return given, step_size

    return _of_chains("annealed", bound, travel, refreshment)


def annealed_learned(
    bound: bounds.Reduction = bounds.elbo, *, refreshment: float = 0.1
) -> Surrogate:
    """`annealed` with temperatures and step sizes from phi, which learns them beside q's.

    phi is an `Annealable`, of a guide made by `annealable`. Unbiased in it, too. Raises TypeError
    for another phi, and ValueError as `annealed`.
    Source: Zhang et al. 2021; Geffner and Domke 2021.
    """

    def travel(phi: Params) -> tuple[ArrayLike, ArrayLike | float]:
        if not isinstance(phi, Annealable):
            raise TypeError(
                "phi: expected an Annealable, as gradients.annealable makes guides with it, got "
                f"{type(phi).__name__}"
            )
        return phi.dynamics.temperatures, phi.dynamics.step_sizes

    return _of_chains("annealed_learned", bound, travel, refreshment)


def annealable(
    guide: Guide, num_temperatures: int = NUM_TEMPERATURES, *, step_size: float = 0.1
) -> Guide:
    """The same q(z | x), of a phi that also says how chains travel from it: an `Annealable`.

    They start with equal steps of the temperature and one step size, the same for every x. What
    does not anneal, such as `evidence.evaluate`, sees q alone.

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


def _of_chains(name: str, bound: bounds.Reduction, travel: Travel, refreshment: float) -> Surrogate:
    check_refreshment(refreshment)

    def estimate(
        key: Key[Array, ""], log_joint: LogJoint, guide: MakeQ, phi: Params, num_samples: int
    ) -> Scalar:
        checks.key(key)
        temperatures, step_size = travel(phi)
        q = make_q(name, "reparameterized", guide, phi, num_samples)
        log_w = annealing.unadjusted_log_weights(
            key, log_joint, q, num_samples,
            temperatures=temperatures, step_size=step_size, refreshment=refreshment,
        )  # fmt: skip
        return bound(log_w)

    return estimate
