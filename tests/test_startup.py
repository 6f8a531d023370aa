"""`import lvm_jax` imports nothing else; a subpackage is imported at its first use."""

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import lvm_jax

# In a Python of its own: here jax is imported already.
ASKED = """
import sys
import lvm_jax

def imported():
    return {name.partition(".")[0] for name in sys.modules} & {"jax", "numpy", "flax"}

assert set(lvm_jax.__all__) < set(dir(lvm_jax))
assert not imported(), imported()
assert not [name for name in sys.modules if name.startswith("lvm_jax.")]
fit = lvm_jax.training.fit
assert imported() == {"jax", "numpy", "flax"}
assert fit is sys.modules["lvm_jax.training"].fit
assert "training" in vars(lvm_jax)  # so that nothing is looked up again
print("imported at its first use")

# distrax imports TensorFlow Probability: half a second and 50 MB.
from lvm_jax import decomposition, em, evidence, gradients, guides, models, priors, training, vi

found = {name.partition(".")[0] for name in sys.modules}
assert not found & {"distrax", "tensorflow_probability", "numpyro"}, found
assert "scipy.stats" not in sys.modules  # half a second
print("no distributions of another package")

import importlib

for name in lvm_jax.__all__:
    for loaded in [key for key in sys.modules if key.partition(".")[0] == "lvm_jax"]:
        del sys.modules[loaded]
    importlib.import_module("lvm_jax." + name)
print("each was the first")
"""


@pytest.fixture(scope="module")
def process():
    """What the process prints after each part, and its errors."""
    line = [sys.executable, "-c", ASKED]
    root = Path(__file__).parent.parent
    done = subprocess.run(line, cwd=root, capture_output=True, text=True, timeout=120)
    return done.stdout.splitlines(), done.stderr


def test_a_subpackage_is_imported_at_its_first_use(process):
    parts, errors = process
    assert "imported at its first use" in parts, errors


def test_no_room_imports_the_distributions_of_another_package(process):
    parts, errors = process
    assert "no distributions of another package" in parts, errors


def test_every_subpackage_can_be_the_first_to_be_imported(process):
    """In one Python, from which lvm_jax is removed each time."""
    parts, errors = process
    assert parts[-1:] == ["each was the first"], errors


def test_the_rooms_are_all_that_there_is():
    names = sorted(m.name for m in pkgutil.iter_modules(lvm_jax.__path__))
    assert lvm_jax.__all__ == [name for name in names if name[0] != "_"]
    assert sum(m.ispkg for m in pkgutil.iter_modules(lvm_jax.__path__)) <= 20


def test_an_unknown_name_is_refused_as_python_does():
    with pytest.raises(AttributeError, match=r"^module 'json' has no attribute 'trainings'$"):
        json.trainings  # noqa: B018
    with pytest.raises(AttributeError, match=r"^module 'lvm_jax' has no attribute 'trainings'$"):
        lvm_jax.trainings  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'trainings' from 'lvm_jax'"):
        exec("from lvm_jax import trainings")
