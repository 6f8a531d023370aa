"""Groups of options of `fit`: validation, checkpoints, and the placement of data and steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from lvm_jax._core import checks

SEGMENT = 4096  # the most steps of one compiled call: the length of its trace


@dataclass(frozen=True)
class Validation:
    """Held-out data, whose bound chooses the parameters.

    The bound is measured every `every` epochs and after the last, always with the same noise.
    Several processes must pass the same `x`. The run stops after `patience` validations without a
    new best; None disables early stopping.
    """

    x: Any  # [M, ...], an array or a data frame
    every: int = 1
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.x is None:
            raise ValueError("validation: expected data in Validation(x), got None")
        checks.integer(self.every, "validation.every", 1)
        if self.patience is not None:
            checks.integer(self.patience, "validation.patience", 1)


@dataclass(frozen=True)
class Checkpoints:
    """The directory of a run that can be killed and resumed.

    A checkpoint is saved every `save_every` seconds (0: after every compiled call); the last `keep`
    are kept. `config` are further JSON values that a resumed run must share.
    """

    directory: str | Path
    save_every: float = 60.0
    keep: int = 3
    config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        checks.number(self.save_every, "checkpoints.save_every")
        checks.integer(self.keep, "checkpoints.keep", 1)


@dataclass(frozen=True)
class Placement:
    """The placement of the rows, and the length of the compiled calls.

    `mesh`, such as `parallel.data_mesh()`, spreads each batch over its devices. `on_device` puts
    all rows on the device; None does so up to 1 GiB, except for memory maps. `steps_per_call` is
    the maximum of steps in one compiled call; a call takes about a second.
    """

    mesh: Mesh | None = None
    on_device: bool | None = None
    steps_per_call: int = SEGMENT

    def __post_init__(self) -> None:
        checks.integer(self.steps_per_call, "placement.steps_per_call", 1)


def as_validation(value: Any) -> Validation | None:
    """The argument `validation`, options or data, as options."""
    return value if value is None or isinstance(value, Validation) else Validation(value)


def as_checkpoints(value: Any) -> Checkpoints | None:
    """The argument `checkpoints`, options or a directory, as options."""
    return Checkpoints(value) if isinstance(value, str | Path) else value
