"""The bounds experiment, once and small; its exact curves against counting by brute force."""

import itertools
import json

import numpy as np
import pytest

from experiments import importance_bounds as experiment


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("bounds") / "run"
    config = experiment.Config(out=out, num_weights=2**17, largest=16, num_telescopes=500)
    return experiment.main(config)


def test_the_toys_gaps_are_those_of_theory(result):
    gaussian = result.found[0]
    elbo, iwae = gaussian.curves["ELBO"], gaussian.curves["IWAE"]
    # 10 (1/3 - log 4/3), and Var(w) / p^2 = (16/15)^10 - 1
    assert abs(elbo.gap[0] + 0.456514) < 5 * elbo.standard_error[0] < 0.01
    assert gaussian.relative_variance == pytest.approx(0.90672, rel=0.05)
    expected = 0.90672 / 2 / 16 * (1 + 0.034 * 2 / 0.90672 / 16)
    assert abs(iwae.gap[-1] + expected) < 5 * iwae.standard_error[-1] < 0.1 * expected
    assert gaussian.slopes["IWAE"].value == pytest.approx(-1, abs=0.03)
    assert gaussian.second_order == pytest.approx(-0.034, abs=0.2)


def test_draws_agree_with_the_exact_expectations(result):
    mixture = result.found[1]
    for name, exact in mixture.exact.items():
        drawn = mixture.curves[name]
        for size, gap in zip(exact.num_samples, exact.gap, strict=True):
            (at,) = np.flatnonzero(drawn.num_samples == size)
            assert abs(drawn.gap[at] - gap) < 5 * drawn.standard_error[at] + 1e-6, (name, size)


def test_expected_iwae_is_the_mean_over_all_tuples():
    q, weight = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.5, 1.5, 0.7, 2.1])
    tuples = np.array(list(itertools.product(range(4), repeat=5)))
    mass, value = q[tuples].prod(1), np.log(weight[tuples].mean(1))
    assert experiment.expected_iwae(5, q, weight) == pytest.approx(mass @ value, rel=1e-12)


def test_exact_exponents_are_the_laws():
    slopes = experiment.exact_slopes(experiment.exact_curves(experiment.mixture_bed(), 128))
    for name, law in experiment.THEORY.items():  # what is left at S = 128 is the next order
        assert slopes[name].value == pytest.approx(law, abs=0.25)
        assert abs(slopes[name].value) > abs(law) - 0.01


def test_lower_bounds_are_below_and_upper_limits_above(result):
    for found in result.found:
        for name in ("ELBO", "IWAE", "Rényi α = 1/2", "Rényi α = 2", "thermodynamic, 4 steps"):
            assert (found.curves[name].gap < 0).all()
        for name in ("EUBO", "Rényi α = −1 (CUBO₂)"):
            assert found.curves[name].gap[-1] > 10 * found.curves[name].standard_error[-1]


def test_the_run_directory_is_whole(result):
    found = json.loads((result.path / "results.json").read_text())
    assert {bed.bed.name for bed in result.found} | {"provenance"} == set(found)
    for name in ("bounds", "laws"):
        assert (result.path / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (result.path / "report.html").read_text().count("data:image/png;base64,") == 2
