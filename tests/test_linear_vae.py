"""The linear VAE, trained once and small, against PPCA."""

import dataclasses

import jax
import numpy as np
import pytest
from experiment_cycle import check_whole
from model_cases import quick_jit

from experiments.linear_vae import exact, measure
from experiments.linear_vae.config import Config
from lvm_jax.problems import linear_averages, linear_vae
from lvm_jax.report import execute

EIGENVALUES = np.array([9.0, 4.0, 1.6, 0.3, 0.2, 0.1])  # of the table's covariance, exactly
LATENT, GIVEN = 3, 2.5  # a given s2 that two eigenvalues are above


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on 300 rows whose covariance (over N) has the eigenvalues above to rounding."""
    rng, folder = np.random.default_rng(4), tmp_path_factory.mktemp("linear")
    white = rng.normal(size=(300, 6))
    left, _, _ = np.linalg.svd(white - white.mean(0), full_matrices=False)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    rows = np.sqrt(300) * left * np.sqrt(EIGENVALUES) @ turn.T + rng.normal(size=6)
    np.save(folder / "table.npy", rows)
    config = Config(
        data=str(folder / "table.npy"), latent_dim=LATENT, noise_variances=(GIVEN,), num_epochs=250,
        batch_size=60, learning_rate=0.03, num_records=2, num_samples=2,
    )  # fmt: skip
    return execute("experiments.linear_vae", config, folder / "run")


def test_results_are_in_the_units_of_the_data(finished):
    figures = ("training", "rotation", "axes", "spectrum", "units", "saddles")
    found, lines = check_whole(finished, *figures)
    learned, given = found["runs"]
    np.testing.assert_allclose(found["eigenvalues"], EIGENVALUES, rtol=1e-5)
    assert learned["given_noise_variance"] is None
    assert given["given_noise_variance"] == pytest.approx(GIVEN)
    assert given["trained"]["noise_variance"] == given["optimum"]["noise_variance"]  # held
    assert [run["num_eigenvalues_above"] for run in found["runs"]] == [3, 2]
    for run, noise in ((learned, EIGENVALUES[LATENT:].mean()), (given, GIVEN)):
        values = np.append(np.maximum(EIGENVALUES[:LATENT], noise), [noise] * 3)
        log_p = -0.5 * (np.log(2 * np.pi * values) + EIGENVALUES / values).sum()
        assert run["optimum"]["log_evidence"] == pytest.approx(log_p, rel=1e-6)
        curve = run["trained"]["curve"]
        assert curve["elbo"][-1] == pytest.approx(run["trained"]["elbo"], abs=1e-4)
        assert curve["noise_variance"][-1] == pytest.approx(run["trained"]["noise_variance"])
    assert [line["step"] for line in lines] == 2 * [5, 1250]


def test_a_wrong_number_fails_its_check(finished):
    first, second = finished.result.trials
    point = first.optimum._replace(elbo=first.optimum.elbo - 1e-8)
    wrong = dataclasses.replace(finished.result, trials=[first._replace(optimum=point), second])
    (failed,) = [check.name for check in measure.checks(wrong) if not check.holds]
    assert failed == "log p - ELBO at the optimum"
    # The same lengths along the last eigenvectors: a lower likelihood, which training exceeds.
    problem = finished.result.problem
    spectrum = problem.spectrum._replace(vectors=problem.spectrum.vectors[:, ::-1])
    theta = spectrum.stationary(LATENT, linear_vae.noise_variance(problem.closed_form(None)))
    measured = linear_averages.at_optimum(theta, problem.moments, "mean_field")
    point = measure.point(theta, measured, problem, LATENT)
    wrong = dataclasses.replace(wrong, trials=[first._replace(optimum=point), second])
    names = [check.name.split(" ")[0] for check in measure.checks(wrong) if not check.holds]
    assert names == ["activity", "KL", "PPCA's"]


def test_training_and_ascent_reach_ppca(finished):
    for trial in finished.result.trials:
        optimum, found, end = trial.optimum, trial.trained, trial.ascended
        assert -1e-9 < optimum.log_evidence - found.log_evidence < 0.01
        assert found.log_evidence - found.elbo == pytest.approx(found.kl_posterior, abs=1e-10)
        assert 0 <= found.kl_posterior < 0.02
        assert found.num_active == found.num_directions == trial.num_eigenvalues_above
        np.testing.assert_allclose(found.active_variance, optimum.active_variance, atol=0.05)
        assert (found.cosines > 0.97).all()
        assert found.noise_variance == pytest.approx(optimum.noise_variance, rel=0.02)
        assert end[1:3] == pytest.approx([optimum.log_evidence] * 2, abs=1e-9)  # log p and ELBO
        assert end.noise_variance == pytest.approx(optimum.noise_variance)
        assert end.cosines == pytest.approx(1, abs=1e-6)
        assert end.subspace_angle_degrees < 0.01


def test_a_rotation_costs_the_elbo_what_hadamard_says(finished):
    same, permuted, *_ = finished.result.rotations
    assert max(abs(same.closed_form), abs(permuted.closed_form)) < 1e-12
    for found in finished.result.rotations:
        assert found.log_evidence == pytest.approx(same.log_evidence, abs=1e-10)
    for pair, turned in finished.result.turns.items():
        law = linear_vae.rotation_gap(
            *finished.result.problem.eigenvalues[list(pair)], exact.ANGLES
        )
        found = [each.log_evidence_less_elbo for each in turned]
        np.testing.assert_allclose(found, law, atol=1e-10)


def test_the_elbo_of_a_full_rank_q_does_not_depend_on_the_rotation(finished):
    problem, rng = finished.result.problem, np.random.default_rng(2)
    turn, _ = np.linalg.qr(rng.normal(size=(LATENT, LATENT)))
    theta = problem.closed_form(problem.noises[1])
    theta = theta._replace(loadings=theta.loadings @ turn)
    found = linear_averages.at_optimum(theta, problem.moments, "full_rank")
    assert abs(found.log_evidence - found.elbo) < 1e-10
    point = measure.point(theta, found, problem, 2)
    assert (point.num_active, point.num_directions) == (LATENT, 2)  # rotated units share two


def test_points_that_leave_an_eigenvalue_out_are_saddles(finished, x64):
    problem, hessian = finished.result.problem, quick_jit(jax.hessian(linear_averages.mean_log_p))
    noise = linear_vae.noise_variance(problem.closed_form(problem.noises[1]))
    assert [point.kept for point in finished.result.saddles] == [0, 1, 2]
    for point in finished.result.saddles:
        value = problem.spectrum.values[point.kept]
        assert point.slope < 1e-9
        assert point.residual < 1e-5
        assert point.curvature == pytest.approx((value - noise) / noise**2, rel=1e-9)
        root = np.hypot((1 / noise - value) / 2, value / noise) - (1 / noise + value) / 2
        assert point.elbo_curvature == pytest.approx(root, rel=1e-9)  # of the 2 x 2 block
        assert (point.curvature > 0) == (point.elbo_curvature > 0) == (point.kept < 2)
        at = problem.spectrum.stationary(LATENT, noise, point.kept)
        whole = np.asarray(hessian(at.loadings, at, problem.moments)).reshape(18, 18)
        steepest = np.linalg.eigvalsh(whole)[-1]
        assert steepest == pytest.approx(max(point.curvature_law, 0), abs=1e-8)  # 0: rotations
    assert finished.result.saddles[-1].below == pytest.approx(0, abs=1e-12)


def test_images_have_one_scale_and_noises_spread_over_their_spectrum():
    problem = measure.load(Config())
    assert problem.shape == (8, 8)
    assert np.square(problem.x, dtype=np.float64).mean() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(problem.x.mean(0), 0, atol=1e-6)
    back = problem.x * problem.scale + problem.dataset.x.mean(0)
    np.testing.assert_allclose(back, problem.dataset.x, atol=1e-6)
    assert problem.noises[0] is None
    assert [problem.spectrum.above(noise) for noise in problem.noises[1:]] == [0, 2, 5, 7, 10]
