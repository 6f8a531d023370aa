"""The source archive and the wheel: what they hold, and a wheel that runs without the extras."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import distributions, packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import lvm_jax

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BUILD = "import sys; from setuptools import build_meta as b; b.build_{kind}(sys.argv[1])"
# In the order of need: a name that is not blocked belongs to a dependency of the core.
PROGRAM = """
import sys

for name in sys.argv[2:]:
    sys.modules[name] = None  # as if it were not installed

import jax
import numpy as np
import optax

import lvm_jax
from lvm_jax import em, training, vae

assert lvm_jax.__file__.startswith(sys.argv[1]), lvm_jax.__file__
key, rng = jax.random.key(0), np.random.default_rng(0)
x = np.concatenate([rng.normal(m, 1.0, (100, 2)) for m in (-4.0, 4.0)])
mixture = em.fit(key, x, 2).mixture
print(*sorted(np.asarray(mixture.means)[:, 0].round()))

architecture = vae.Architecture(shape=(6,), latent_dims=(2,), hidden=((4,),))
bits = (rng.random((64, 6)) < 0.2).astype(float)
fit = training.fit(
    key, vae.build(architecture), vae.start(key, architecture, bits), bits,
    estimate="sticking_the_landing", num_samples=1, optimizer=optax.adam(0.1),
    batch_size=64, num_epochs=20,
)
print(bool(fit.history.bound[-5:].mean() > fit.history.bound[:5].mean()))
"""


def source_files():
    """What a commit of this tree would hold; the test is skipped outside of a checkout."""
    line = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    if done.returncode or not (ROOT / ".git").exists():
        pytest.skip("not a checkout: the files of the source archive are not known")
    return sorted(name for name in done.stdout.split("\0") if (ROOT / name).is_file())


def build(kind, source, out):
    """The archive that setuptools builds of a source tree; the network is not used."""
    out.mkdir()
    line = [sys.executable, "-W", "ignore", "-c", BUILD.format(kind=kind), str(out)]
    done = subprocess.run(line, cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (archive,) = out.iterdir()
    return archive


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Names in this tree and in its source archive; and the wheel, built from the archive."""
    folder, names = tmp_path_factory.mktemp("archives"), source_files()
    for name in names:
        target = folder / "tree" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    sdist = build("sdist", folder / "tree", folder / "sdist")
    with tarfile.open(sdist) as tar:
        tar.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    held = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    return names, held, build("wheel", unpacked, folder / "wheel")


def test_the_source_archive_holds_every_file(archives):
    """So that the tests run from it: they read the docs, the experiments and the Makefile."""
    names, held, _ = archives
    assert sorted(set(names) - held) == [], "MANIFEST.in does not name them"
    made = {name for name in held - set(names) if ".egg-info/" not in name}
    assert made == {"PKG-INFO", "setup.cfg"}


def requirements(distribution, extras):
    """What a distribution needs with these extras: names as an index compares them, and extras."""
    for line in distribution.requires or []:
        needed = Requirement(line)
        marker = needed.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield normalized(needed.name), frozenset(needed.extras)


def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def core(wheel):
    """Names of all distributions that `pip install lvm_jax` installs, without extras."""
    installed = {normalized(found.metadata["Name"]): found for found in distributions()}
    (own,) = distributions(path=[str(wheel)])
    found, waiting = set(), set(requirements(own, ()))
    while waiting:
        name, extras = waiting.pop()
        if name in installed and (name, extras) not in found:
            found.add((name, extras))
            waiting |= set(requirements(installed[name], extras))
    return {name for name, _ in found}


def test_the_wheel_runs_a_mixture_and_a_vae_without_extras(archives, tmp_path):
    """Every package is blocked that `pip install lvm_jax` would not install."""
    wheel, target = archives[2], tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--no-compile", "--target", str(target), str(wheel)], check=True)
    assert (target / "lvm_jax" / "py.typed").is_file()
    allowed = core(target)
    assert {"jax", "optax"} <= allowed
    blocked = [
        module
        for module, owners in packages_distributions().items()
        if module != "lvm_jax" and allowed.isdisjoint(map(normalized, owners))
    ]
    assert {"sklearn", "matplotlib", "jinja2", "pandas", "tyro", "pytest"} <= set(blocked)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(target), *blocked], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(target)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["-4.0 4.0", "True"]


def test_the_version_is_that_of_the_project():
    """One number: pyproject.toml; a stale installation is updated by `make lint`."""
    assert lvm_jax.__version__ == version("lvm_jax") == PROJECT["version"]
    assert "__version__" in dir(lvm_jax)


def test_citation_and_changelog_are_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.M) == [PROJECT["version"]]
    assert re.findall(r"^license: (.*)$", citation, re.M) == [PROJECT["license"]]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.*)$", changelog, re.M)
    assert heads[0] == "[Unreleased]"
    assert heads[1].startswith(f"[{PROJECT['version']}] - ")
