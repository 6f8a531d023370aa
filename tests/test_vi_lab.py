"""The vi_lab experiment, once, small, from end to end; and the mass of modes on exact draws."""

import jax
import numpy as np
import pytest
from experiment_cycle import check_whole, run_once

from experiments.vi_lab import measure
from experiments.vi_lab.config import METHODS, TARGETS, Config

SMALL = Config(
    targets=("eight_schools",), methods=("mean_field", "full_rank"), budgets=(1_000, 50_000),
    num_draws=4_000,
)  # fmt: skip
finished = run_once("vi_lab", SMALL)


def test_the_run_is_whole(finished):
    found, lines = check_whole(finished, "divergence", "evidence")
    assert len(lines) == 2 * 2
    assert {line["method"] for line in lines} == set(SMALL.methods)
    assert found["eight_schools"]["full_rank"][-1]["evaluations"] <= 50_000


def test_natural_gradients_come_to_the_best_normal(finished):
    """The best ELBOs are -31.5973 and -31.5340, log Z -31.3113; all are quadratures."""
    rows = finished.result.found["eight_schools"]
    for method, best in (("mean_field", -31.5973), ("full_rank", -31.5340)):
        one = rows[method][-1]
        assert one.elbo == pytest.approx(best, abs=5 * one.elbo_error + 0.01)
        assert one.to_best == pytest.approx(best - one.elbo, abs=1e-3)
        assert one.to_log_evidence == pytest.approx(-31.3113 - one.elbo, abs=1e-3)
        assert one.reason == "CONVERGED"
        assert abs(one.error) < 0.1
        assert one.low < one.error < one.high


@pytest.mark.parametrize("name", ["wells", "gaussians_40"])
def test_the_mass_of_modes(name):
    target = measure.MAKE[name]()
    count = target.facts["num_modes"]
    z = np.asarray(target.sample(jax.random.key(0), 40_000))
    # The expected total variation of multinomial shares is sqrt(K / (2 pi S)).
    spread = (count / (2 * np.pi * len(z))) ** 0.5
    assert measure.overlap(target, z) == pytest.approx(1 - spread, abs=spread / 2)
    one = (
        np.abs(z)
        if name == "wells"
        else z[:1] + 0.1 * np.random.default_rng(0).normal(size=z.shape)
    )
    assert measure.overlap(target, one) == pytest.approx(1 / count)


def test_the_names_are_those_of_the_tables():
    assert set(measure.MAKE) == set(TARGETS) == set(Config(targets=("all",)).chosen)
    assert set(measure.HOW) == set(METHODS)
