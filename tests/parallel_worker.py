"""Runs in processes whose number of devices is forced, for test_parallel.py; prints JSON.

python parallel_worker.py devices            eight devices, one process
python parallel_worker.py meshes             two devices, meshes of several kinds
python parallel_worker.py process I PORT     process I of two, each with two devices and half the rows
"""

import json
import sys

import jax
import numpy as np

OPTIONS = {"batch_size": 8, "num_epochs": 2, "num_samples": 3}


def numbers(found):
    leaves = jax.tree.leaves((found.theta, found.phi, found.ema))
    return {
        "parameters": np.concatenate([np.asarray(leaf).ravel() for leaf in leaves]).tolist(),
        "bound": found.history.bound.tolist(),
        "validation_bound": found.history.validation_bound.tolist(),
    }


def devices():
    from training_cases import data, fit

    from lvm_jax import parallel

    options = OPTIONS | {"ema": 0.9, "validation": data(21, seed=2)}
    eight, two = parallel.data_mesh(), parallel.data_mesh(jax.devices()[:2])
    found = {
        "eight": numbers(fit(**options, mesh=eight)),
        "two, fed": numbers(fit(**options, mesh=two, on_device=False)),
        "one": numbers(fit(**options)),
    }
    rows = parallel.rows_to_global(eight, np.arange(32.0).reshape(16, 2))
    batch = jax.jit(lambda x: parallel.constrain(eight, 1 * x))(np.zeros((16, 2)))
    copy = parallel.replicate(eight, {"w": np.ones(3)})["w"]
    found["shards"] = [
        [list(shard.data.shape) for shard in array.addressable_shards]
        for array in (rows, batch, copy)
    ]
    return found


def meshes():
    """The same fit on meshes with axes of other kinds and names, given and set."""
    from training_cases import GUIDE, KEY, MODEL, data, fit

    from lvm_jax import evidence

    options, found, kinds = OPTIONS | {"ema": 0.9, "validation": data(21, seed=2)}, {}, {}
    explicit = jax.make_mesh((2,), ("data",))
    given = {
        "explicit": (explicit, {}),
        "explicit, fed": (explicit, {"on_device": False}),
        "another name": (jax.make_mesh((2,), ("rows",)), {}),
        "two axes": (jax.make_mesh((2, 1), ("a", "b")), {}),
    }
    for name, (mesh, more) in given.items():
        result = fit(**options, mesh=mesh, **more)
        found[name] = numbers(result)
        kinds[name] = str(result.theta.loadings.sharding.mesh) == str(mesh)
    with jax.set_mesh(given["another name"][0]):
        result = fit(**options)
        found["set"] = numbers(result)
        start = result.theta, result.phi  # which lie on that mesh, as the rows do
        rows = jax.device_put(data(), jax.P("rows") if len(data()) % 2 == 0 else jax.P())
        found["set, on it"] = numbers(fit(rows, **options, initial=start))
        evidences = evidence.evaluate(KEY, MODEL, GUIDE, *start, rows, 7).log_evidence
    found["one"] = numbers(fit(**options))
    alone = fit(**options)
    found["one, on it"] = numbers(fit(**options, initial=(alone.theta, alone.phi)))
    again = evidence.evaluate(KEY, MODEL, GUIDE, alone.theta, alone.phi, data(), 7).log_evidence
    return found | {"kept": kinds, "evidence": [np.asarray(v).tolist() for v in (evidences, again)]}


def process(index, port):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, index)
    from training_cases import data, fit  # these make arrays, which only now may be made

    from lvm_jax import parallel

    mesh = parallel.data_mesh(jax.devices())
    assert (mesh.size, parallel.num_processes(mesh)) == (4, 2)
    own = data(40)[index::2]
    found = numbers(fit(own, **OPTIONS, mesh=mesh, validation=data(21, seed=2)))
    found["steps"] = 2 * (len(own) // 4)
    return found


if __name__ == "__main__":
    way, *rest = sys.argv[1:]
    run = {"devices": devices, "meshes": meshes, "process": process}[way]
    print(json.dumps(run(*map(int, rest))))  # noqa: T201
