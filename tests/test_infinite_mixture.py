"""The infinite-mixture experiment, once and small; its known densities against integration."""

import dataclasses

import jax
import numpy as np
import pytest
from experiment_cycle import check_whole
from model_cases import quick_jit
from scipy.special import logsumexp
from scipy.stats import norm

from experiments import infinite_mixture as experiment
from experiments import infinite_mixture_data as curved
from experiments import infinite_mixture_evaluation as evaluation
from experiments import infinite_mixture_figures as figures
from experiments import infinite_mixture_report as report
from experiments import infinite_mixture_training as training
from experiments.infinite_mixture_evaluation import mean_and_error, paired
from lvm_jax import models

# One model: every other costs as many seconds of compilation again.
SMALL = {
    "data": "banana", "num_points": 400, "hidden": 0, "num_steps": 200, "num_records": 2,
    "num_starts": 2, "num_restarts": 2, "num_nodes": 80, "evidence_samples": 400,
}  # fmt: skip
WINDOWS = {  # where almost all of the mass is
    "banana": ((-6.0, -2.0), (6.0, 30.0)),
    "moons": ((-1.7, -1.2), (2.7, 1.7)),
    "pinwheel": ((-3.5, -3.5), (3.5, 3.5)),
}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("infinite") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "GRID", 60)  # a coarser picture
        return experiment.main(experiment.Config(out=out, **SMALL))


@pytest.mark.parametrize("name", curved.CURVED)
def test_known_densities_integrate_to_one_and_are_their_samplers(name):
    made, num = curved.CURVED[name], 180
    low, high = (np.array(corner) for corner in WINDOWS[name])
    axes = [low[i] + (np.arange(num) + 0.5) / num * (high - low)[i] for i in (0, 1)]
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes)], axis=1)
    mass = np.exp(made.log_density(points)) * np.prod((high - low) / num)
    assert mass.sum() == pytest.approx(1, abs=2e-3)
    x = made.sample(np.random.default_rng(0), 20_000)
    for power in (1, 2):  # two moments of the draws are those of the density
        want = mass @ points**power
        error = (x**power).std(0) / np.sqrt(len(x))
        assert (np.abs((x**power).mean(0) - want) < 5 * error + 2e-3 * np.abs(want)).all()


def test_the_hidden_models_density_is_its_equations_integrated():
    model = training.hidden_model(2, 2, 5)
    theta = model.init(jax.random.key(3))
    x = np.array([[0.3, -0.2], [1.1, 0.4], [-0.6, 0.9]], np.float32)
    nodes = np.linspace(-8, 8, 321)  # another rule than the library's, over another square
    z = np.stack([axis.ravel() for axis in np.meshgrid(nodes, nodes)], axis=1)
    weight, bias, (a, b, c, d) = jax.tree.map(np.asarray, theta)
    u = np.tanh(z @ weight.T + bias)
    mean, logs = u @ a.T + b, 6 * np.tanh((u @ c.T + d) / 6)
    log_prior = norm.logpdf(z).sum(1)
    want = [
        logsumexp(log_prior + norm.logpdf(one, mean, np.exp(logs / 2)).sum(1)) for one in x
    ] + 2 * np.log(nodes[1] - nodes[0])
    density = jax.vmap(lambda one: models.log_evidence_quadrature(model, theta, one, 240))
    found = quick_jit(density)(x)
    np.testing.assert_allclose(found, want, atol=1e-4)


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


def test_held_out_log_p_is_recomputed_from_the_parameters(result):
    (deep,), frame = result.deep, result.frame
    (a, b, c, d) = jax.tree.map(np.asarray, deep.theta)
    z = np.random.default_rng(0).normal(size=(20_000, 2))
    mean = (z @ a.T + b) * frame.sd + frame.mean  # in the data's units
    sd = np.exp(3 * np.tanh((z @ c.T + d) / 6)) * frame.sd
    for n in range(5):
        w = np.exp(norm.logpdf(result.test[n], mean, sd).sum(1))  # naive Monte Carlo
        error = w.std(ddof=1) / np.sqrt(len(w)) / w.mean()
        assert abs(np.log(w.mean()) - deep.density.log_p[n]) < 5 * error


def test_differences_are_paired_and_no_density_beats_the_truth(result):
    one, other = result.deep[0].density, result.mixtures[0]
    mean, error = paired(one, other)
    assert mean == pytest.approx(one.log_p.mean() - other.log_p.mean(), abs=1e-9)
    assert error == pytest.approx(mean_and_error(one.log_p - other.log_p)[1])
    for density in (one, other):
        mean, error = paired(density, result.truth)
        assert mean < 5 * error  # a mean of -KL, with the noise of 133 points


def test_parameters_are_counted(result):
    assert result.deep[0].density.num_parameters == 2 * (2 * 2 + 2)  # A, b, C, d
    assert result.mixtures[0].num_parameters == 6 * 2 - 1
    hidden = jax.eval_shape(training.hidden_model(2, 2, 6).init, jax.random.key(0))
    assert evaluation.count(hidden) == 6 * 2 + 6 + 2 * (2 * 6 + 2)


def test_the_start_kept_is_the_one_whose_bound_ends_highest(result):
    curve = result.deep[0].curve
    assert curve.bound[-1] == pytest.approx(curve.starts.max(), abs=1e-6)
    assert len(curve.starts) == 2


def test_the_same_seed_gives_the_same_numbers(result):
    dataset, _ = curved.load("banana", None, 400, 0)
    train, test = experiment.split(dataset.x, result.config)
    np.testing.assert_array_equal(train, result.train)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 3)
    again = evaluation.fit_mixture(keys[2], 12, train, test, result.frame, result.config)
    np.testing.assert_array_equal(again.log_p, result.mixtures[0].log_p)
    (deep,) = result.deep
    drawn = evaluation.draw(jax.random.split(keys[1], 3)[0], deep.model, deep.theta, len(train))
    np.testing.assert_array_equal(result.frame.restore(drawn), deep.density.samples)


def test_the_report_of_two_models_shows_both_and_warns_of_a_guide_that_misses(result):
    (deep,), (mixture,) = result.deep, result.mixtures
    missing = deep.importance._replace(log_evidence=deep.density.log_p.mean() - 0.1)
    second = deep._replace(density=deep.density._replace(name="second"), importance=missing)
    two = result._replace(
        config=dataclasses.replace(result.config, hidden=6),
        deep=[deep, second],
        mixtures=[mixture, mixture],
        truth=None,
    )
    _, _, facts, sections = report.page(two, figures.draw(two))
    assert [fact.name.split(", ")[1].split(" (")[0] for fact in facts] == [
        "one layer", "mixture of 2", "second", "mixture of 2"
    ]  # fmt: skip
    notes = [b.text for s in sections for b in s.blocks if b.kind == "note"]
    assert len(notes) == 2  # beyond the lecture, and the missed modes
    assert "Second: importance sampling ends 0.1000 nats per point below log p" in notes[1]
    (note,) = report.trust_blocks(result._replace(deep=[deep._replace(quadrature_change=1.25)]))
    assert "change a point by 1.25 nats" in note.text


def test_the_run_directory_is_whole(result):
    found, _ = check_whole(result, "densities", "samples", "maps", "training")
    assert found["num_train"] + found["num_held_out"] == 400
