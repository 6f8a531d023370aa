"""The search over families and numbers of components: one table, shared starts and programs."""

import jax
import numpy as np
import pytest

from lvm_jax import em
from lvm_jax.compiling import STORE
from lvm_jax.em import loop, search, starts

KEY = jax.random.key(3)
RNG = np.random.default_rng(1)
X = np.concatenate([RNG.normal(size=(40, 2)), RNG.normal(size=(40, 2)) * [0.3, 2.0] + [6.0, 0.0]])
FAMILIES = ("EII", "diag", "VEI")


def test_the_table_has_the_fits_of_every_family_and_the_best_is_the_lowest(x64, monkeypatch):
    calls, centres = [], starts.centres
    monkeypatch.setattr(starts, "centres", lambda *args: calls.append(args) or centres(*args))
    options = {"tolerance": 1e-6, "max_steps": 500, "num_restarts": 1}
    before = {key for key in STORE._entries if key[0] is loop.segment}
    found = em.select(KEY, X, (1, 2, 9), families=FAMILIES, **options)
    assert len(calls) == 3  # one for each K
    programs = {key for key in STORE._entries if key[0] is loop.segment} - before
    assert len(programs) == len(FAMILIES)  # for K = 1, 2 and 9
    cells = [(family, k) for family in FAMILIES for k in (1, 2, 9)]
    assert [(one.family, one.num_components) for one in found.table] == cells
    for one in found.table:
        value = em.criteria(one.fit.mixture, X)
        np.testing.assert_allclose(one.criteria, value, rtol=1e-9)
    best = min(found.table, key=lambda one: one.criteria.bic)
    assert (found.family, found.num_components) == (best.family, best.num_components) == ("diag", 2)
    assert found.mixture is best.fit.mixture
    assert found.fits == {one.num_components: one.fit for one in found.table[3:6]}
    alone = em.fit(KEY, X, 2, "VEI", **options)  # of another bucket of K
    np.testing.assert_allclose(found.table[7].fit.mixture.means, alone.mixture.means, rtol=1e-8)


def test_a_singular_fit_is_marked_and_not_the_best(x64):
    """Ten equal rows: their likelihood has no bound without regularization."""
    x = np.concatenate([X, np.tile([[3.0, 9.0]], (10, 1))])
    found = em.select(KEY, x, (1, 3), families=("EII", "diag"))
    marks = {(one.family, one.num_components): one.is_singular for one in found.table}
    assert [cell for cell, mark in marks.items() if mark] == [("diag", 3)]
    assert all(one.fit.info.restart_objectives.size == 5 for one in found.table)  # by default
    lowest = min(found.table, key=lambda one: one.criteria.bic)
    assert lowest.is_singular
    assert found.family == "EII"
    assert em.select(KEY, x, (3,), "diag").num_components == 3  # of singular fits alone


def test_failed_fits_are_marked_and_an_error_if_there_are_no_others(x64):
    x = np.concatenate([X, np.tile([[3.0, 9.0]], (10, 1))])
    found = em.select(KEY, x, (1, 3), "diag", regularization=0.0)
    assert found.num_components == 1
    assert found.table[1].fit.info.outcome >= em.Outcome.DEGENERATE
    with pytest.raises(FloatingPointError, match="EM of 3 components: every restart failed"):
        em.select(KEY, x, (3,), "diag", regularization=0.0)


def test_data_that_stream_and_other_families_have_the_same_table(x64, tmp_path):
    counts = np.round(np.abs(X)) + 1
    np.save(tmp_path / "rows.npy", counts)
    options = {"families": (em.Poisson(), "EII"), "tolerance": 1e-9, "max_steps": 2000}
    found, streamed = (em.select(KEY, x, (1,), **options) for x in (counts, tmp_path / "rows.npy"))
    assert [one.name for one in found.table] == ["Poisson of 1", "EII of 1"]
    for one, other in zip(found.table, streamed.table, strict=True):
        np.testing.assert_allclose(one.criteria, other.criteria, rtol=1e-8, atol=1e-8)


def test_a_tight_cluster_is_not_singular(x64):
    """A variance of 10^-4 of the data's, which is not that of the regularization."""
    tight = np.concatenate([X, 0.05 * RNG.normal(size=(30, 2)) + 20])
    assert not search.is_singular(em.fit(KEY, tight, 3, "diag", num_restarts=5).mixture, 1e-6)


@pytest.mark.parametrize(
    ("families", "words"),
    [
        (("VVI", "EEE", "diag"), "families: expected different ones, got diag and VVI"),
        ((), "families: expected at least one, got none"),
        (("EEX",), "family: expected one of full"),
    ],
)
def test_families_are_refused_by_name(families, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        em.select(KEY, X, (1, 2), families=families)


def test_other_refusals():
    with pytest.raises(TypeError, match="^families: expected a sequence of families, got 'VVI'"):
        em.select(KEY, X, (1, 2), families="VVI")
    with pytest.raises(ValueError, match="num_components = 81"):
        em.select(KEY, X, (1, 81), families=FAMILIES)
