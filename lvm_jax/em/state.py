"""The input, the state and the result of the EM loop."""

from typing import Any, NamedTuple

import numpy as np

from lvm_jax.em.families import ExponentialFamily, Settings
from lvm_jax.em.squarem import Cycle
from lvm_jax.em.statistics import Data, Evaluation, MixtureParameters
from lvm_jax.typing import Array, Float, Int, Key


class State(NamedTuple):
    """The loop's state; leaves have a leading restart axis R."""

    parameters: MixtureParameters
    objective: Any  # [R]
    outcome: Any  # [R], of Outcome
    num_steps: Any  # [R], M-steps accepted
    exact_steps: Any  # steps on the exact path
    step: Any
    cycle: Cycle | None = None  # with acceleration


class Conclusion(NamedTuple):
    """The best restart and the evaluation of its mixture on the data."""

    best: Int[Array, ""]
    parameters: MixtureParameters
    evaluation: Evaluation
    objective: Float[Array, ""]
    labels: Int[Array, " N"] | None  # the most probable component of each row, with `assign`


class Controls(NamedTuple):
    """Dynamic settings, whose values do not recompile the loop."""

    settings: Settings
    tolerance: Float[Array, ""]
    total_weight: Float[Array, ""]
    num_live: Int[Array, ""]  # number of components without padding


class Problem(NamedTuple):
    """The loop's input, validated, padded and on the device."""

    family: ExponentialFamily
    uniform: bool  # start from random responsibilities (True) or from nearest centres (False)
    rows: int  # per chunk
    accelerated: bool  # by SQUAREM
    key: Key[Array, ""]
    centres: Float[Array, "R K D"]
    parameters: MixtureParameters
    data: Data
    controls: Controls
    first_step: np.int32  # -1: begin with an M-step from the centres; 0: from `parameters`
