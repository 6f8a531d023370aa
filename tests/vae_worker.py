"""`python -m experiments`, with a hand on its training, for test_vae.py.

python vae_worker.py killed ARGUMENTS    SIGKILL after the second epoch, with the first one saved
python vae_worker.py spread ARGUMENTS    over how many devices it spreads, and where the result lies
"""

import os
import signal
import sys
import time

import jax

from experiments import vae
from experiments.__main__ import main
from lvm_jax import training

FIT = training.fit


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
    print("then", *{len(leaf.devices()) for leaf in leaves})  # noqa: T201
    sys.exit(0)  # what follows has one device, as always


if __name__ == "__main__":
    if sys.argv[1] == "spread":
        training.fit, vae.evaluate = spread, stop
    else:
        training.fit = killed
    sys.exit(main(sys.argv[2:]))
