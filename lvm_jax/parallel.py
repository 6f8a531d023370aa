"""Data parallelism: the rows of a batch are divided over a mesh of devices, parameters are copied.

The mesh has one axis, DATA. A program is written for one device; XLA divides the work on a divided
batch and sums the gradients over the devices. Random numbers do not depend on the mesh, so that
runs on eight devices and on one device are equal to rounding.

On several hosts, start one process on each with `jax.distributed.initialize()`, build
`data_mesh(jax.devices())`, and load in each process only its own rows. `rows_to_global` joins the
rows of the processes.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lvm_jax._core import checks
from lvm_jax.typing import Array

DATA = "data"  # the axis of the mesh


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of these devices, by default all devices of this process.

    Raises ValueError for no device or a repeated device.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    if not devices or len(set(devices)) != len(devices):
        raise ValueError(f"devices: expected different devices, at least one, got {devices}")
    return Mesh(np.array(devices), (DATA,))


def replicate(mesh: Mesh | None, tree: Any) -> Any:
    """A copy of every leaf on every device of the mesh; the tree unchanged without a mesh."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: _place(leaf, sharding), tree)


def constrain(mesh: Mesh | None, batch: Any) -> Any:
    """Inside jit: divide the rows of a batch, leaves [B, ...], over the mesh if it divides B."""
    if mesh is None or jax.tree.leaves(batch)[0].shape[0] % mesh.size:
        return batch
    return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(DATA)))


def rows_to_global(mesh: Mesh | None, rows: Any, axis: int = 0) -> Any:
    """For each leaf one array from the rows of all processes, divided over the mesh along `axis`.

    `rows` are the rows of this process; the array has them in the order of the processes. Without
    a mesh they are put on the default device.
    """
    if mesh is None:
        return jax.tree.map(jax.numpy.asarray, rows)
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, DATA))
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), rows)


def rows_per_process(mesh: Mesh | None, batch_size: int) -> int:
    """The number of rows of a batch in each process.

    Raises ValueError unless `batch_size` is a multiple of the number of devices.
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
    """The number of processes of the mesh's devices."""
    return 1 if mesh is None else len({device.process_index for device in mesh.devices.flat})


def from_every_process(mesh: Mesh | None, values: Any) -> Any:
    """Gather a NumPy array of equal shape from every process, as [processes, ...].

    It waits for all processes, so that all have to call it equally often.
    """
    values = np.asarray(values)
    if mesh is None or num_processes(mesh) == 1:
        return values[None]
    bits = np.frombuffer(values.tobytes(), np.uint8)  # bytes, because JAX may narrow other types
    copies = mesh.size // num_processes(mesh)  # one on each device
    spread = rows_to_global(mesh, np.tile(bits, (copies, 1)))
    gather = jax.jit(lambda rows: rows, out_shardings=NamedSharding(mesh, PartitionSpec()))
    found = np.asarray(jax.block_until_ready(gather(spread)))[::copies]
    rows = [np.frombuffer(row.tobytes(), values.dtype) for row in found]
    return np.stack(rows).reshape(-1, *values.shape)


def writes(mesh: Mesh | None) -> bool:
    """Whether this process writes the shared files: only process 0 does."""
    return num_processes(mesh) == 1 or jax.process_index() == 0


def _place(leaf: Any, sharding: NamedSharding) -> Array:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.device_put(leaf, sharding)
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
