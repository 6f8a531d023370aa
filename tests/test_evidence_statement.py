"""What a search states: modes, Good and Turing's estimate, the basin that starts may miss."""

import numpy as np
import pytest

from lvm_jax import evidence, plotting, report
from lvm_jax.estimate import Estimate
from lvm_jax.evidence.scoring import share


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
        "holds if unvisited basins carry at most 0.049 of the evidence (a basin of 0.58% of the "
        "prior's mass is visited at 95%); 3 modes (0.7, 0.2, 0.1) from 544 ascents, 0.18% unseen"
    )
    assert "1 mode (1) from" in found.statement(1, 0.05)
    none = np.zeros((2, 0))
    discrete = search(reached=none, masses=none, is_mode=none.astype(bool))
    assert discrete.statement(0, 0.05) == (
        "holds if unvisited sets carry at most 0.049 of the evidence (a set of 0.58% of the "
        "prior's mass is visited at 95%); 512 draws of the prior, without ascents"
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


@pytest.fixture
def certified():
    """Four points: within, open by ESS, reliable but wider, within; 3, 1, 1 and 2 modes."""
    low = np.array([-1.05, -np.inf, -3.4, -4.02])
    masses = np.array([[0.1, 0.7, 0.2], [1.0, 0, 0], [0.8, 0, 0], [0.3, 0.65, 0]])
    return evidence.Certificate(
        log_evidence=np.array([-1.0, -2.0, -3.0, -4.0]), low=low,
        high=np.array([-0.95, np.inf, -2.6, -3.98]),
        within=np.array([True, False, False, True]),
        failed=np.array([0, int(evidence.Check.ESS), 0, 0]), method=np.array(["importance"] * 4),
        contradicted=np.zeros(4, bool), k_hat=np.zeros(4), cost=np.full(4, 2_544.0), tolerance=0.1,
        level=0.9, rounds=(), proposal=None,
        search=search(
            starts=np.full(4, 544), scouts=np.full(4, 512), reached=np.full((4, 3), 9),
            masses=masses, is_mode=masses > 0,
        ),
    )  # fmt: skip


def test_a_figure_of_a_certificate_is_in_the_order_of_widths(certified):
    widths, modes, verdicts = plotting.certificate(certified).axes
    within, wider, without = widths.lines[:3]
    np.testing.assert_allclose(within.get_xydata(), [[1, 0.02], [2, 0.05]], atol=1e-12)
    np.testing.assert_allclose(wider.get_xydata(), [[3, 0.4]], atol=1e-12)
    assert without.get_xdata().tolist() == [4]
    heights = np.reshape([bar.get_height() for bar in modes.patches], (-1, 4))
    # The largest mode first, and the points by it.
    want = [[1, 0.8, 0.7, 0.65], [0, 0, 0.2, 0.3], [0, 0, 0.1, 0]]
    np.testing.assert_allclose(heights[:3], want)
    named = {text.get_text(): bar.get_width() for text, bar in zip(
        verdicts.get_yticklabels(), verdicts.patches, strict=True)}  # fmt: skip
    assert named == {"within": 2, "wider": 1, "ESS": 1}
    assert len(plotting.certificate(certified._replace(search=None)).axes) == 2


def test_the_page_of_a_certificate_has_its_condition_and_its_coverage(certified):
    held = share(np.arange(40) < 38)
    simulated = evidence.Simulated(
        None, certified, None, held, share(np.arange(50) < 40), Estimate(0.987, 0.004)
    )
    page = report.certificate(certified, simulated, most=3)
    for words in (
        "2 of 4", "points within 0.1 nats", certified.statement(1), "The 3 widest of 4",
        "prior mass 0.58%", "0.987 ± 0.004", "95.0%", f"{held.low:.1%} to {held.high:.1%}", ">38<",
        ">40<", ">50<", "0.7, 0.2, 0.1", "2,544", "reliable, wider than the tolerance",
    ):  # fmt: skip
        assert (words in page) == (words != ">38<"), words
    assert "−4.000" not in page  # the narrowest is left out
    assert "Coverage on data" not in report.certificate(certified)
    with pytest.raises(ValueError, match="most: expected an integer >= 1"):
        report.certificate(certified, most=0)
