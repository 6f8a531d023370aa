import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from parallel_worker import (
    NOT_OF_TWO,
    OF_TWO,
    mixtures,
    numbers,
    options_of_devices,
    rows_of_a_mixture,
)
from training_cases import ESTIMATE, GUIDE, KEY, MODEL, OPTIMIZER, data, epoch_order, fit

from lvm_jax import parallel, training
from lvm_jax.training.step import Keys

WORKER = Path(__file__).with_name("parallel_worker.py")


def start(num_devices, *arguments):
    # The worker imports training_cases from this folder, and the package from the one above.
    forced = f"--xla_force_host_platform_device_count={num_devices}"
    quick = "--xla_backend_optimization_level=0"  # most of the time goes into compiling
    flags = " ".join([os.environ.get("XLA_FLAGS", ""), forced, quick])
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(WORKER.parents[1])}
    command = [sys.executable, str(WORKER), *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def answer(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(next(line for line in out.splitlines() if line.startswith("{")))


def assert_close(one, other):
    for name in other:
        np.testing.assert_allclose(one[name], other[name], rtol=2e-5, atol=2e-6)


@pytest.fixture(scope="module")
def on_one_device():
    found = mixtures(rows_of_a_mixture(), None)[0]
    assert [case[-1] for case in found] == [0, 0, 5, 0, 5]  # steps on the exact path
    return found


@pytest.fixture(scope="module")
def folder_and_lost(tmp_path_factory):
    """Two processes of which one is killed: the other one waits for it for some 20 s."""
    folder = tmp_path_factory.mktemp("two")
    lost = start_both("lost", folder)
    yield folder, lost
    for one in lost:
        one.kill()  # if no test has waited for it
        with one:  # closes its pipes
            pass


def test_two_and_eight_devices_give_the_numbers_of_one(folder_and_lost, on_one_device):
    found = answer(start(8, "devices"))
    one = numbers(fit(**options_of_devices()))
    for name in ("eight", "two, fed"):
        assert_close(found[name], one)
    assert_mixtures_close(found["eight, mixtures"], on_one_device)
    some = [on_one_device[place] for place in NOT_OF_TWO]
    assert_mixtures_close(found["two, mixtures"], some)
    rows, batch, copy = found["shards"]
    assert rows == batch == [[2, 2]] * 8
    assert copy == [[3]] * 8


def assert_parts_close(one, other):
    *one, exact = one
    *other, other_exact = other
    assert exact == other_exact
    for got, want in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def assert_mixtures_close(one, other):
    for a, b in zip(one, other, strict=True):
        assert_parts_close(a, b)


def test_two_processes_that_each_hold_half_of_the_rows(folder_and_lost, on_one_device):
    """Against a loop by hand on the batches that the two bring together.

    Ctrl-C in one process stops both, and both resume from what the first one wrote. Where that one
    has no space left for a checkpoint, both end with an error. Two before them fitted a mixture until one
    was killed: these resume it after its last complete step.
    """
    folder, lost = folder_and_lost
    kept, killed = lost
    for one in lost:
        one.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert kept.returncode != 0  # it does not wait for ever
    found = [answer(one) for one in start_both("process", folder)]
    full = [one.pop("full") for one in found]
    assert re.search(r"step \d+ could not be written \(No space left on device\)", full[0])
    assert full[1].startswith("process 0 could not write a checkpoint")
    found_mixtures = [one.pop("mixtures") for one in found]
    assert found[0] == found[1]
    check_mixtures(*found_mixtures, on_one_device)
    assert found[0]["stopped"] == ["INTERRUPTED", 4]
    assert all(found[0]["resumed"][name] == found[0][name] for name in found[0]["resumed"])
    assert re.search(r"checkpoints: .* is of a run with other settings \(x: ", found[0]["refused"])
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    parameters, bounds = together(data(40), found[0]["steps"])
    np.testing.assert_allclose(found[0]["parameters"], parameters, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(found[0]["bound"], np.reshape(bounds, (2, -1)).mean(1), rtol=1e-5)


def start_both(way, folder):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [start(2, way, index, port, folder) for index in (0, 1)]


def check_mixtures(one, other, on_one_device):
    refused = [each.pop("refused") for each in (one, other)]
    assert one == other
    assert_mixtures_close(one["mesh"], [on_one_device[place] for place in OF_TWO])
    assert one["resumed"] == one["whole"]
    assert one["after a loss"] == one["whole"]
    assert_parts_close(one["on fewer devices"], one["whole"])
    assert one["seen"] == [4, 5, 3, 4, 5, 3, 4, 5]
    assert refused[0][0] == "x: process 1 refused its rows"
    assert re.search("x: expected finite numbers, .*, got 122 inf", refused[1][0])
    widths = "expected rows of one width in all processes, .* got widths .2, 1."
    for own in refused:
        assert re.search(widths, own[1])
        assert re.search("checkpoint: expected the rows of the fit that it is of, 101 rows", own[2])


def together(x, num_steps):
    keys = Keys(*jax.random.split(KEY, 5))
    parameters = training.Parameters(MODEL.init(keys.theta), GUIDE.init(keys.phi))
    state, bounds = OPTIMIZER.init(parameters), []

    @jax.jit
    def slope(parameters, noise, rows):
        def mean_bound(parameters):
            def one(key, row):
                joint = MODEL(parameters.theta).log_joint(row)
                return ESTIMATE(key, joint, lambda p: GUIDE.posterior(p, row), parameters.phi, 3)

            return jax.vmap(one)(noise, rows).mean()

        return jax.value_and_grad(mean_bound)(parameters)

    for step in range(num_steps):
        epoch, place = divmod(step, 5)
        order = np.asarray(epoch_order(keys.order, epoch, 20))[4 * place :][:4]
        rows = np.concatenate([x[0::2][order], x[1::2][order]])
        bound, gradient = slope(
            parameters, jax.random.split(jax.random.fold_in(keys.noise, step), 8), rows
        )
        updates, state = OPTIMIZER.update(jax.tree.map(lambda v: -v, gradient), state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        bounds.append(float(bound))
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(parameters)]), bounds


def test_a_mesh_of_one_device_changes_no_bit():
    mesh = parallel.data_mesh()
    assert mesh.size == 1
    one, other = fit(num_epochs=1), fit(num_epochs=1, placement=training.Placement(mesh))
    np.testing.assert_array_equal(one.p.theta.loadings, other.p.theta.loadings)


def test_without_a_mesh_everything_stays_where_it_is():
    tree = {"w": np.ones(3)}
    assert parallel.replicate(None, tree) is tree
    assert parallel.constrain(None, tree["w"]) is tree["w"]
    np.testing.assert_array_equal(parallel.rows_to_global(None, np.ones((2, 3))), np.ones((2, 3)))


def test_refusals():
    device = jax.devices()[0]
    for devices in ([], [device, device]):
        with pytest.raises(ValueError, match="devices: expected different devices, at least one"):
            parallel.data_mesh(devices)

    class Mesh:
        size = 8

    with pytest.raises(ValueError, match=re.escape("a multiple of the mesh's 8 devices, got 12")):
        parallel.rows_per_process(Mesh(), 12)
