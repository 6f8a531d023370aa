"""Learning-rate schedules that Optax does not have."""

import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax.training.objective import Schedule
from lvm_jax.typing import Array, Int, Scalar


def burda_stages(num_stages: int, steps_per_epoch: int, learning_rate: float = 1e-3) -> Schedule:
    """The staged schedule: for i = 0, 1, ..., 3^i epochs at learning_rate * 10^(-i / 7).

    Eight stages have 3,280 epochs (`burda_epochs`). The rate is constant after the last stage. Use:
    `optax.adam(burda_stages(8, 3_000), eps=1e-4 / 20)`. The paper's eps of 1e-4 is for gradients
    that its code sums over a batch of 20; those of `fit` are means.

    Raises ValueError for num_stages or steps_per_epoch < 1, or a negative rate.
    Source: Burda et al. 2016, section 5.
    """
    num_stages = checks.integer(num_stages, "num_stages", 1)
    steps_per_epoch = checks.integer(steps_per_epoch, "steps_per_epoch", 1)
    learning_rate = checks.number(learning_rate, "learning_rate")
    ends = [steps_per_epoch * burda_epochs(i) for i in range(1, num_stages)]
    rates = [learning_rate * 10 ** (-i / 7) for i in range(num_stages)]

    def schedule(step: int | Int[Array, ""]) -> Scalar:
        return jnp.array(rates)[(step >= jnp.array(ends, jnp.int32)).sum()]

    return schedule


def burda_epochs(num_stages: int) -> int:
    """1 + 3 + ... + 3^(num_stages - 1) epochs: the length of `burda_stages`.

    Raises ValueError for num_stages < 1.
    """
    return (3 ** checks.integer(num_stages, "num_stages", 1) - 1) // 2
