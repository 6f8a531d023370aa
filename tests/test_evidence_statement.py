"""What a search states: modes, Good and Turing's estimate, the basin that starts may miss."""

import numpy as np

from lvm_jax import evidence


def search(**changes):
    parts = {
        "starts": np.array([544, 544]),
        "scouts": np.array([512, 512]),
        "reached": np.array([[500, 43, 1], [544, 0, 0]]),
        "masses": np.array([[0.7, 0.1, 0.2], [1.0, 0.0, 0.0]]),
        "is_mode": np.array([[True, True, True], [True, False, False]]),
    }
    return evidence.Search(**(parts | changes))


def test_unseen_modes_and_basins():
    found = search()
    assert found.num_modes.tolist() == [3, 1]
    np.testing.assert_allclose(found.unseen, [1 / 544, 0])
    np.testing.assert_allclose(found.late, [0.2, 0])
    # 512 draws all miss a set of mass 0.58% with probability 5%.
    np.testing.assert_allclose((1 - found.basin) ** 512, 0.05)
    np.testing.assert_allclose(found.basin, 0.00583, atol=1e-5)


def test_statements_name_the_condition():
    found = search()
    words = found.statement(0, 0.05)
    assert words.startswith(
        "holds if no unvisited basin of more than 0.58% of the prior's mass carries more than "
        "0.049 of the evidence; 3 modes (0.7, 0.2, 0.1) from 544 ascents, 0.18% unseen"
    )
    assert "1 mode (1) from" in found.statement(1, 0.05)
    none = np.zeros((2, 0))
    discrete = search(reached=none, masses=none, is_mode=none.astype(bool))
    assert discrete.statement(0, 0.05) == (
        "holds if no unvisited set of more than 0.58% of the prior's mass carries more than 0.049 "
        "of the evidence; 512 draws of the prior, without ascents"
    )
    assert repr(found) == (
        "Search(544 starts or more, 1 to 3 modes; a basin of 0.58% of the prior may be unvisited)"
    )
    assert repr(discrete) == (
        "Search(544 starts or more; a set of 0.58% of the prior may be unvisited)"
    )


def test_a_certificate_prints_and_states():
    parts = {name: np.zeros(2) for name in ("log_evidence", "low", "k_hat", "cost")}
    found = evidence.Certificate(
        **parts, high=np.array([0.1, np.inf]), within=np.array([True, False]),
        failed=np.array([0, int(evidence.Check.UNSEEN)]), method=np.array(["importance"] * 2),
        contradicted=np.zeros(2, bool), tolerance=0.1, level=0.95, rounds=(), proposal=None, search=search(),
    )  # fmt: skip
    assert found.statement(0) == found.search.statement(0, 0.05)
    reason = "modes that one start alone reached: others are likely unseen"
    assert found.statement(1) == f"not reliable: {reason}"
    assert repr(found).startswith(
        f"Certificate(1 of 2 points within 0.1 nats; 1 of 2 not reliable: {reason} (1); Search("
    )
    assert found._replace(search=None).statement(0) == (
        "holds if q and the prior cover p(z | x): there was no search"
    )
