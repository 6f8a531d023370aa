"""Data parallelism: the rows of a batch are spread over a mesh of devices, parameters are copied.

One axis, DATA. A program is written as if there were one device; XLA divides the work where the
batch is divided, and sums the gradients over the devices. Random numbers do not depend on
the mesh, so that a run on eight devices equals the run on one to rounding.

Several hosts: start one process on each with `jax.distributed.initialize()`, build
`data_mesh(jax.devices())`, and let every process hold ITS rows alone. `rows_to_global` joins the
rows of the processes; no process ever needs the others'.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lvm_jax._core import checks
from lvm_jax.typing import Array

DATA = "data"  # the mesh's one axis


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of these devices, by default all that this process has.

    Raises ValueError for no device, or the same one twice.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    if not devices or len(set(devices)) != len(devices):
        raise ValueError(f"devices: expected different devices, at least one, got {devices}")
    return Mesh(np.array(devices), (DATA,))


def replicate(mesh: Mesh | None, tree: Any) -> Any:
    """A copy of every leaf on every device of the mesh; the tree itself without one."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: _place(leaf, sharding), tree)


def constrain(mesh: Mesh | None, batch: Any) -> Any:
    """Inside jit: divide the rows of a batch, leaves [B, ...], over the mesh, if it divides B."""
    if mesh is None or jax.tree.leaves(batch)[0].shape[0] % mesh.size:
        return batch
    return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(DATA)))


def rows_to_global(mesh: Mesh | None, rows: Any, axis: int = 0) -> Any:
    """One array from the rows of every process, divided over the mesh along `axis`, leaf by leaf.

    `rows` are this process's own; they follow each other in the order of the processes. Without
    a mesh, or where they do not divide evenly, all of them go to one device.
    """
    if mesh is None:
        return jax.tree.map(jax.numpy.asarray, rows)
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, DATA))
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), rows)


def rows_per_process(mesh: Mesh | None, batch_size: int) -> int:
    """How many of a batch's rows each process brings.

    Raises ValueError unless the batch divides evenly over the devices.
    """
    batch_size = checks.integer(batch_size, "batch_size", 1)
    if mesh is None:
        return batch_size
    if batch_size % mesh.size:
        raise ValueError(
            f"batch_size: expected a multiple of the mesh's {mesh.size} devices, got {batch_size}"
        )
    return batch_size // num_processes(mesh)


def num_processes(mesh: Mesh | None) -> int:
    """How many processes the mesh's devices belong to."""
    return 1 if mesh is None else len({device.process_index for device in mesh.devices.flat})


def from_every_process(mesh: Mesh | None, values: Any) -> Any:
    """A NumPy array, the same shape in each process, as [processes, ...], the same in each.

    Every process has to call this as often as the others do: it waits for them.
    """
    values = np.asarray(values)
    if mesh is None or num_processes(mesh) == 1:
        return values[None]
    bits = np.frombuffer(values.tobytes(), np.uint8)  # no type is narrowed on the way
    copies = mesh.size // num_processes(mesh)  # one on each device
    spread = rows_to_global(mesh, np.tile(bits, (copies, 1)))
    gather = jax.jit(lambda rows: rows, out_shardings=NamedSharding(mesh, PartitionSpec()))
    found = np.asarray(jax.block_until_ready(gather(spread)))[::copies]  # of every device: in order
    rows = [np.frombuffer(row.tobytes(), values.dtype) for row in found]
    return np.stack(rows).reshape(-1, *values.shape)


def writes(mesh: Mesh | None) -> bool:
    """Whether this process writes what the mesh's processes share: the first of them does."""
    return num_processes(mesh) == 1 or jax.process_index() == 0


def _place(leaf: Any, sharding: NamedSharding) -> Array:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.device_put(leaf, sharding)
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
