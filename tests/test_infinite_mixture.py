"""The infinite-mixture experiment, once and small; its known densities against integration."""

import json

import numpy as np
import pytest

from experiments import infinite_mixture as experiment
from experiments import infinite_mixture_data as curved
from experiments.infinite_mixture_evaluation import mean_and_error, paired

SMALL = {
    "data": "banana", "num_points": 400, "hidden": 6, "num_steps": 200, "num_records": 2,
    "num_starts": 1, "num_restarts": 2, "num_nodes": 80, "evidence_samples": 400,
}  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("infinite") / "run"
    return experiment.main(experiment.Config(out=out, **SMALL))


@pytest.mark.parametrize("name", curved.CURVED)
def test_known_densities_integrate_to_one_and_are_their_samplers(name):
    made, num = curved.CURVED[name], 400
    low, high = np.array([-7.0, -7.0]), np.array([7.0, 18.0])
    axes = [low[i] + (np.arange(num) + 0.5) / num * (high - low)[i] for i in (0, 1)]
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes)], axis=1)
    mass = np.exp(made.log_density(points)) * np.prod((high - low) / num)
    assert mass.sum() == pytest.approx(1, abs=2e-3)
    x = made.sample(np.random.default_rng(0), 20_000)
    for power in (1, 2):  # two moments of the draws are those of the density
        want = mass @ points**power
        error = (x**power).std(0) / np.sqrt(len(x))
        assert (np.abs((x**power).mean(0) - want) < 5 * error + 2e-3 * np.abs(want)).all()


def test_quadrature_importance_sampling_and_the_bound_agree(result):
    for deep in result.deep:
        mean = deep.density.log_p.mean()
        found = deep.importance
        assert abs(found.log_evidence - mean) < 5 * found.monte_carlo_error + 1e-3
        assert deep.elbo < mean + 1e-3
        assert deep.quadrature_change < 1e-2


def test_densities_have_mass_one_in_the_datas_units(result):
    low, high = result.frame.low, result.frame.high
    for density in [result.truth, *(d.density for d in result.deep), *result.mixtures]:
        num = density.grid.shape[0]
        cell = np.prod((high - low) / (num - 1))
        assert 0.8 < np.exp(density.grid).sum() * cell < 1.01  # the window cuts the tails


def test_differences_are_paired(result):
    one, other = result.deep[1].density, result.mixtures[1]
    mean, error = paired(one, other)
    assert mean == pytest.approx(one.log_p.mean() - other.log_p.mean(), abs=1e-9)
    assert error == pytest.approx(mean_and_error(one.log_p - other.log_p)[1])
    # no density beats the truth on average; 133 points leave some noise
    for density in (one, other):
        mean, error = paired(density, result.truth)
        assert mean < 5 * error


def test_parameters_are_counted(result):
    one, hidden = (deep.density.num_parameters for deep in result.deep)
    assert one == 2 * (2 * 2 + 2)  # A, b, C, d
    assert hidden == 6 * 2 + 6 + 2 * (2 * 6 + 2)
    assert [m.num_parameters for m in result.mixtures] == [11, 6 * 8 - 1]  # 6 K - 1


def test_the_run_directory_is_whole(result):
    found = json.loads((result.path / "results.json").read_text())
    assert found["num_train"] + found["num_held_out"] == 400
    assert (result.path / "report.html").read_text().count("data:image/png;base64,") == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "pinwhel"}, "did you mean 'pinwheel'"),
        ({"held_out": 1.0}, "held_out: expected a share between 0 and 1"),
        ({"num_steps": 7}, "num_steps: expected a multiple of num_records"),
        ({"data": "digits"}, "data: expected two columns, got 64"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        experiment.main(experiment.Config(out=tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()
