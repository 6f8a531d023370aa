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

    The bound is measured every `every` epochs and after the last, always with the same noise; on
    several processes `x` are the same rows. The run stops after `patience` validations without a
    new best, or never where it is None.
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
    """The directory of a run that can be killed and goes on.

    A checkpoint is saved every `save_every` seconds, with 0 after every compiled call, and the last
    `keep` stay. `config` are JSON values that a resumed run must have too: what `fit` itself cannot
    see.
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
    """Where the rows and the steps are.

    `mesh`, such as `parallel.data_mesh()`, spreads each batch over its devices. `on_device` says
    whether the rows lie on the device; None decides by their size (1 GiB), and feeds memory maps
    from the host. `steps_per_call` are the most steps between two returns to the host, which calls
    make about every second anyway.
    """

    mesh: Mesh | None = None
    on_device: bool | None = None
    steps_per_call: int = SEGMENT

    def __post_init__(self) -> None:
        checks.integer(self.steps_per_call, "placement.steps_per_call", 1)


def as_validation(value: Any) -> Validation | None:
    """The options of `validation=`, which may be the data alone."""
    return value if value is None or isinstance(value, Validation) else Validation(value)


def as_checkpoints(value: Any) -> Checkpoints | None:
    """The options of `checkpoints=`, which may be the directory alone."""
    return Checkpoints(value) if isinstance(value, str | Path) else value
