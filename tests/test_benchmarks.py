"""The library's own contestants of the benchmarks still call it as it is, at a tiny size."""

import pkgutil
from importlib import import_module

import jax
import numpy as np
import pytest

import benchmarks
from benchmarks import evidence_contestants, evidence_models, training_contestants


def test_every_module_can_be_imported():
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    assert {"training", "coverage", "evidence"} <= set(names)
    for name in names:
        import_module(f"benchmarks.{name}")


def test_a_training_has_the_bound_of_the_scan_by_hand():
    x = np.random.default_rng(0).random((8, 784)).astype(np.float32)
    case = {"seed": 0, "epochs": 2, "samples": 2, "batch": 4}
    by_fit, by_hand = training_contestants.pair(case, x)
    with jax.numpy_rank_promotion("allow"):  # the loop by hand adds biases to rows
        assert by_fit() == pytest.approx(by_hand(), rel=1e-5)


def test_annealed_chains_are_near_the_exact_evidence():
    """The estimates of this budget spread by a third of a nat; 512 temperatures miss by 1.5."""
    case = {"model": "linear-Gaussian", "points": 4, "chains": 16, "temperatures": 2_048}
    case |= {"leapfrogs": 10, "seed": 0}
    problem = evidence_models.make(case)
    found = evidence_contestants.PROGRAMS["annealed, HMC"](case, problem)(jax.random.key(0))
    assert np.abs(np.asarray(found) - np.asarray(evidence_models.exact(problem))).max() < 1.0
