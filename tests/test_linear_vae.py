"""The linear VAE, trained once and small, and its closed forms against SciPy and NumPy."""

from functools import partial

import jax
import numpy as np
import pytest
from experiment_cycle import check_whole
from model_cases import quick_jit
from scipy.stats import multivariate_normal

from experiments import linear_vae as experiment
from experiments import linear_vae_exact as exact
from experiments import linear_vae_landscape as landscape
from experiments import linear_vae_verdicts as verdicts
from experiments.linear_vae_results import count_active, count_directions
from lvm_jax import plotting

EIGENVALUES = np.array([9.0, 4.0, 1.6, 0.3, 0.2, 0.1])  # of the table's covariance, exactly
LATENT, GIVEN = 3, 2.5  # a given s2 that two eigenvalues are above
SMALL = {
    "latent_dim": LATENT, "noise_variances": (GIVEN,), "num_epochs": 400, "batch_size": 60,
    "learning_rate": 0.03, "num_records": 3, "num_samples": 2,
}  # fmt: skip


def table():
    """300 rows whose covariance (over N) has the eigenvalues above to rounding."""
    rng = np.random.default_rng(4)
    white = rng.normal(size=(300, 6))
    left, _, _ = np.linalg.svd(white - white.mean(0), full_matrices=False)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    return np.sqrt(300) * left * np.sqrt(EIGENVALUES) @ turn.T + rng.normal(size=6)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("linear")
    np.save(folder / "table.npy", table())
    config = experiment.Config(data=str(folder / "table.npy"), out=folder / "run", **SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plotting, "png", partial(plotting.png, dpi=30))  # coarser pictures
        return experiment.main(config)


@pytest.fixture(scope="module")
def rows(result):
    """Every row, scaled, in float64."""
    return np.asarray(result.data.x, np.float64)


def test_the_spectrum_is_that_of_the_data(result):
    np.testing.assert_allclose(
        result.spectrum.values * result.data.scale**2, EIGENVALUES, rtol=1e-5
    )
    assert [run.num_above for run in result.runs] == [3, 2]


def test_log_p_is_the_marginal_gaussians(result, rows):
    for run in result.runs:
        loadings, noise = run.best.loadings, run.noise_variance
        marginal = multivariate_normal(run.best.offset, loadings @ loadings.T + noise * np.eye(6))
        assert float(run.exact.log_evidence) == pytest.approx(
            marginal.logpdf(rows).mean(), abs=1e-9
        )


def test_at_the_optimum_the_elbo_is_log_p_and_every_unit_has_its_law(result):
    for run in result.runs:
        assert abs(run.exact.log_evidence - run.exact.elbo) < 1e-10
        assert abs(run.exact.kl_posterior) < 1e-10
        values, noise = result.spectrum.values[:LATENT], run.noise_variance
        assert np.diagonal(run.exact.means) == pytest.approx(
            np.maximum(1 - noise / values, 0), abs=1e-8
        )
        assert run.exact.kl_units == pytest.approx(
            np.maximum(0.5 * np.log(values / noise), 0), abs=1e-8
        )


def test_the_learned_noise_is_the_mean_of_the_discarded_eigenvalues(result):
    square = result.data.scale**2
    learned, given = result.runs
    assert learned.noise_variance * square == pytest.approx(EIGENVALUES[LATENT:].mean(), rel=1e-5)
    assert given.noise_variance * square == pytest.approx(GIVEN, rel=1e-6)
    assert learned.ascent.theta.log_noise == pytest.approx(0.5 * np.log(learned.noise_variance))
    again = exact.optimum(result.spectrum, learned.best.offset, LATENT, learned.noise_variance)
    np.testing.assert_allclose(again.loadings, learned.best.loadings, atol=1e-6)


def test_no_other_loadings_or_noise_are_more_likely(result):
    best, top = result.runs[0].best, float(result.runs[0].exact.log_evidence)
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1e-2, 1e-1):
        loadings = best.loadings + scale * rng.normal(size=best.loadings.shape)
        for log_noise in (best.log_noise, best.log_noise + scale, best.log_noise - scale):
            moved = best._replace(loadings=loadings, log_noise=log_noise)
            assert exact.measure_optimum(moved, moments(result)).log_evidence < top


def moments(result):
    return exact.moment_points(result.spectrum, result.runs[0].best.offset)


def test_a_few_points_average_like_all_rows(result, rows):
    rng = np.random.default_rng(1)
    theta = result.runs[0].best
    theta = theta._replace(loadings=theta.loadings + rng.normal(size=theta.loadings.shape))
    phi = exact.best_guide(theta)
    phi = phi._replace(network=phi.network + rng.normal(size=phi.network.shape))
    model, guide = exact.model_and_guide(6, LATENT)
    few, every = (
        exact.measure_double(model, guide, theta, phi, points) for points in (moments(result), rows)
    )
    for one, other in zip(few, every, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
    assert every.log_evidence - every.elbo == pytest.approx(every.kl_posterior, rel=1e-12)
    assert every.kl_posterior > 1  # far from the posterior, where nothing cancels


def test_a_rotation_costs_the_elbo_what_hadamard_says(result):
    same, permuted, *turned = result.rotations
    assert abs(same.gap) < 1e-12
    assert abs(permuted.gap) < 1e-12
    for found in result.rotations:
        assert found.log_evidence == pytest.approx(same.log_evidence, abs=1e-10)
        assert found.log_evidence - found.elbo == pytest.approx(found.gap, abs=1e-10)
    assert min(found.gap for found in turned) > 0.05  # 1 and 2 by 45 degrees: log(13^2 / 144) / 2
    values = result.spectrum.values[:LATENT]
    assert turned[0].gap == pytest.approx(0.5 * np.log(13**2 / (4 * 9 * 4)), rel=1e-4)
    assert landscape.turn_price(values)[0] == pytest.approx(turned[0].gap, rel=1e-9)
    for turn in result.turns:
        at = np.searchsorted(turn.angle, turn.measured_angle)
        np.testing.assert_allclose(turn.gap[at], turn.measured_gap, atol=1e-10)


def test_a_full_rank_q_does_not_mind_a_rotation(result):
    best, points = result.runs[1].best, moments(result)
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(LATENT, LATENT)))
    found = exact.measure_optimum(landscape.turned(best, turn), points, "full_rank")
    assert abs(found.log_evidence - found.elbo) < 1e-10
    assert count_active(found) == LATENT  # turned units share what two directions carry
    assert count_directions(found) == result.runs[1].num_above


def test_points_that_leave_an_eigenvalue_out_are_saddles(result):
    noise = result.middle.noise_variance
    assert [point.kept for point in result.saddles] == [0, 1, 2]
    for point in result.saddles:
        value = result.spectrum.values[point.kept]
        assert point.slope < 1e-9
        assert point.residual < 1e-5
        assert point.curvature == pytest.approx((value - noise) / noise**2, rel=1e-9)
        mean, half = -(1 / noise + value) / 2, (1 / noise - value) / 2
        root = mean + np.hypot(half, value / noise)  # of the 2 x 2 block
        assert point.elbo_curvature == pytest.approx(root, rel=1e-9)
        assert (point.curvature > 0) == (point.elbo_curvature > 0) == (point.kept < 2)
    assert result.saddles[-1].below == pytest.approx(0, abs=1e-12)


def test_the_way_up_is_the_steepest_of_the_whole_hessian(result, x64):
    found, noise, points = result.spectrum, result.middle.noise_variance, moments(result)
    mean = result.runs[0].best.offset
    hessian = quick_jit(jax.hessian(landscape.mean_log_p))
    for kept, point in enumerate(result.saddles):
        theta = exact.stationary(found, mean, LATENT, noise, kept)
        whole = np.asarray(hessian(theta.loadings, theta, points)).reshape(18, 18)
        steepest = np.linalg.eigvalsh(whole)[-1]
        assert steepest == pytest.approx(max(point.curvature_law, 0), abs=1e-8)  # 0: rotations


def test_a_full_set_of_wrong_eigenvectors_turns_upwards(result):
    """log p along a turn from u_j to u_k has the second derivative (1/s2 - 1/l_j)(l_k - l_j)."""
    found, points = result.spectrum, moments(result)
    noise = 0.5 * found.values[3]  # both are above it
    best = exact.optimum(found, result.runs[0].best.offset, LATENT, noise)
    for kept, way in ((3, 2), (2, 3)):  # from the fourth eigenvector to the third, and back
        value, toward = found.values[kept], found.values[way]
        length, step = np.sqrt(value - noise), 1e-3
        heights = []
        for angle in (-step, 0.0, step):
            column = np.cos(angle) * found.vectors[:, kept] + np.sin(angle) * found.vectors[:, way]
            loadings = np.array(best.loadings)
            loadings[:, 2] = length * column
            moved = best._replace(loadings=loadings)
            heights.append(float(exact.measure_optimum(moved, points).log_evidence))
        curvature = (heights[0] - 2 * heights[1] + heights[2]) / step**2
        law = (1 / noise - 1 / value) * (toward - value)
        assert curvature == pytest.approx(law, rel=1e-4)


def test_the_training_reaches_ppca(result):
    for run in result.runs:
        found = run.trained.measured
        assert -1e-9 < run.exact.log_evidence - found.log_evidence < 0.01
        assert found.log_evidence - found.elbo == pytest.approx(found.kl_posterior, abs=1e-10)
        assert 0 <= found.kl_posterior < 0.02
        assert run.trained.num_active == count_active(found) == run.num_above
        curve = run.trained.curve
        assert curve.log_evidence[-1] == pytest.approx(found.log_evidence, abs=1e-4)
        assert curve.elbo[0] < curve.elbo[-1]
    assert np.exp(2 * result.runs[0].trained.theta.log_noise) == pytest.approx(
        result.runs[0].noise_variance, rel=0.02
    )


def test_the_report_says_so_where_an_ascent_has_not_ended(result):
    assert "gap is closed" in verdicts.ending(result)
    first = result.runs[0]
    short = first._replace(ascended=first.trained.measured)
    assert "have not all ended" in verdicts.ending(result._replace(runs=[short]))
    assert "stays collapsed" in verdicts.collapsed_for_good(result)
    assert verdicts.collapsed_for_good(result._replace(saddles=result.saddles[:1])) == ""


def test_the_report_names_a_unit_on_the_wrong_side_of_the_threshold(result):
    assert verdicts.differing(result) == []
    given = result.runs[1]
    means = given.trained.measured.means.copy()
    means[2, 2] = 0.0123
    wrong = given.trained._replace(
        num_active=3, measured=given.trained.measured._replace(means=means)
    )
    (note,) = verdicts.differing(result._replace(runs=[given._replace(trained=wrong)]))
    assert "unit 3 with A = 0.0123 (exact: 0.0000)" in note.text


def test_units_come_in_the_order_of_their_eigenvalues(result):
    for run in result.runs:
        active = np.diagonal(run.trained.measured.means)
        law = exact.active_variance(result.spectrum.values[:LATENT], run.noise_variance)
        np.testing.assert_allclose(active, law, atol=0.05)
        assert (run.trained_axes.cosines > 0.97).all()


def test_an_ascent_without_noise_ends_at_the_closed_form(result):
    for run in result.runs:
        assert abs(run.exact.log_evidence - run.ascended.elbo) < 1e-9
        assert abs(run.ascended.log_evidence - run.ascended.elbo) < 1e-9
        assert run.ascended_axes.cosines == pytest.approx(1, abs=1e-6)
        assert run.ascended_axes.subspace_angle < 0.01


def test_the_prior_and_a_given_noise_stay_as_they_are(result):
    for run in result.runs:
        np.testing.assert_array_equal(run.trained.theta.prior_mean, 0)
    given = result.runs[1].trained
    assert float(np.exp(2 * given.theta.log_noise)) == result.runs[1].noise_variance


def test_the_run_directory_is_whole(result):
    figures = ("training", "rotation", "axes", "spectrum", "units", "saddles")
    found, lines = check_whole(result, *figures)
    learned, given = found["runs"]
    assert learned["given_noise_variance"] is None
    assert given["given_noise_variance"] == pytest.approx(GIVEN)
    # in the data's units: the density of the rows as they came
    marginal = np.linalg.slogdet(2 * np.pi * np.e * np.diag([9, 4, 1.6, 0.2, 0.2, 0.2]))[1]
    assert learned["optimum"]["log_evidence"] == pytest.approx(-0.5 * marginal, rel=1e-6)
    curve = learned["trained"]["curve"]
    assert curve["elbo"][-1] == pytest.approx(learned["trained"]["elbo"], abs=1e-4)
    assert curve["noise_variance"][-1] == pytest.approx(learned["trained"]["noise_variance"])
    assert len(lines) == sum(len(run.trained.curve.step) for run in result.runs)
