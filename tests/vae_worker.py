"""`python -m experiments`, with a hand on its training, for test_vae.py.

python vae_worker.py SPREAD KILLED    the arguments of two runs, each a list in JSON

SPREAD prints over how many devices it is spread, and where the result lies; nothing is measured.
KILLED ends this process by SIGKILL after its second epoch, with the first one saved.
"""

import json
import os
import signal
import sys
import time

import jax

from experiments import vae
from experiments.__main__ import main
from lvm_jax import training

FIT = training.fit


class Trained(Exception):
    """What follows the training has one device, as always."""


def killed(*args, directory, **options):
    def stop(now):
        if now.epoch < 2:
            return
        while not list(directory.glob("checkpoints/step-*")):  # written beside the loop
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    options |= {"save_every": 0.0, "on_progress": stop}
    return FIT(*args, directory=directory, **options)


def spread(*args, mesh, **options):
    print("over", mesh.size)  # noqa: T201
    return FIT(*args, mesh=mesh, **options)


def stop(prepared, fit, path):
    leaves = jax.tree.leaves((fit.theta, fit.phi))
    print("then", *{len(leaf.devices()) for leaf in leaves}, flush=True)  # noqa: T201
    raise Trained


if __name__ == "__main__":
    first, second = map(json.loads, sys.argv[1:])
    training.fit, vae.evaluate = spread, stop
    try:
        main(first)
    except Trained:
        training.fit = killed
        main(second)
