"""The settings of annealed chains: temperatures, transitions and tuning in one value."""

from dataclasses import dataclass
from functools import partial

import jax

from lvm_jax._core import checks
from lvm_jax.annealing.path import Path, check_temperatures
from lvm_jax.annealing.transitions import Transition, hmc
from lvm_jax.annealing.tuning import Schedule, schedule, tune
from lvm_jax.typing import Array, ArrayLike, Distribution, Float, Key, Latent

PILOT = 4  # default number of pilot chains


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("temperatures", "schedule"),
    meta_fields=("transition", "num_pilot", "adaptive"),
)
@dataclass(frozen=True)
class Plan:
    """Temperatures, moves, and the source of the step sizes; made by `plan` or `fixed`.

    A pytree of arrays: new values do not recompile.
    """

    temperatures: Float[Array, "*N T1"]
    transition: Transition
    num_pilot: int
    adaptive: bool
    schedule: Schedule | None = None

    def prepare(self, key: Key[Array, ""], path: Path, q: Distribution, z: Latent) -> Schedule:
        """The schedule for ONE data point, in the dtype of its log-weights; z are draws from q."""
        found = self._tuned(key, path, q, z) if self.schedule is None else self.schedule
        dtype = path.dtype(z)
        return jax.tree.map(lambda leaf: leaf.astype(dtype), found)

    def _tuned(self, key: Key[Array, ""], path: Path, q: Distribution, z: Latent) -> Schedule:
        """The schedule from pilot chains, or without them from the transition's step size."""
        if self.num_pilot == 0:
            one = jax.tree.map(lambda leaf: leaf[0], z)
            return schedule(self.temperatures, self.transition, one)
        found = tune(
            key, path.log_joint, q, self.temperatures, self.transition, self.num_pilot,
            adaptive=self.adaptive,
        )  # fmt: skip
        return found.schedule


def plan(
    temperatures: ArrayLike,
    transition: Transition | None = None,
    *,
    num_pilot: int | None = None,
    adaptive: bool = False,
) -> Plan:
    """A plan with T temperatures, [T + 1] from 0 to 1, and moves (default `hmc()`).

    A pilot run of `num_pilot` other chains (default 4) over at most 50 temperatures tunes the step
    sizes of moves with a target acceptance; with `adaptive` it also chooses the temperatures. With
    num_pilot = 0 all moves use the step size of the transition, in the units of z. This is the
    default for moves without a target, such as those of a discrete z.

    Raises ValueError for temperatures that do not rise from 0 to 1, num_pilot of 1 or below 0, or
    `adaptive` without a pilot.
    """
    transition = hmc() if transition is None else transition
    if num_pilot is None:
        num_pilot = 0 if transition.target is None and not adaptive else PILOT
    if checks.integer(num_pilot, "num_pilot", 0) < (2 if adaptive else 0) or num_pilot == 1:
        least = "at least 2 with adaptive=True" if adaptive else "0 or at least 2"
        raise ValueError(f"num_pilot: expected {least}, got {num_pilot}")
    return Plan(check_temperatures(temperatures), transition, num_pilot, adaptive)


def fixed(schedule: Schedule, transition: Transition | None = None) -> Plan:
    """A plan with a given schedule, such as one from `tune`, and moves (default `hmc()`)."""
    check_temperatures(schedule.temperatures)
    return Plan(
        schedule.temperatures, hmc() if transition is None else transition, 0, False, schedule
    )
