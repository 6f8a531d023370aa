"""The mixture experiment, once, small, from end to end; and its measures against the definition."""

import jax
import numpy as np
import pytest
from em_reference import log_joint
from experiment_cycle import check_whole, read
from scipy.special import logsumexp
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from experiments import gmm_em, gmm_em_evaluation, gmm_em_figures
from lvm_jax import data, em

SMALL = {"num_restarts": 2, "max_components": 2, "compare": ("full",), "num_folds": 2}


def run(out, **options):
    return gmm_em.main(gmm_em.Config(out=out, **{**SMALL, **options}))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run(tmp_path_factory.mktemp("gmm") / "run", data="old_faithful")


def test_the_run_directory_is_whole(result):
    names = ("clusters", "convergence", "criteria", "samples", "uncertainty")
    _, metrics = check_whole(result, *names)
    config = read(result, "config.json")
    assert (config["data"], config["num_components"], config["seed"]) == ("old_faithful", 2, 0)
    stages = [line["stage"] for line in metrics]
    assert stages.count("compare") == 2
    assert "fit" in stages


def test_the_same_rows_and_seed_give_the_same_numbers_and_names_are_text(result, tmp_path, capsys):
    """A second run, with TeX, terminal markup and HTML in the names of columns and file."""
    table = tmp_path / "[red] $x$ <i>.csv"
    rows = "\n".join(f"{a!r},{b!r}" for a, b in data.old_faithful().x.tolist())
    table.write_text(f"$\\frac$,<b>[/red] :smile: $a^$\n{rows}\n")
    found = run(tmp_path / "run", data=str(table), num_components=2)
    first, second = (read(one, "results.json") for one in (result, found))
    assert first.keys() == second.keys()
    assert second["expected"] == {}  # they belong to the name of the data
    for name in first.keys() - {"provenance", "expected"}:
        assert first[name] == second[name], name
    assert capsys.readouterr().out.startswith("[red] $x$ <i>: K = 2")
    page = (found.path / "report.html").read_text()
    assert "&lt;b&gt;[/red] :smile: $a^$" in page
    assert "<i>" not in page


def test_the_written_parameters_have_the_written_likelihood(result):
    found, x = read(result, "results.json"), data.old_faithful().x
    mixture = [np.array(found["mixture"][name]) for name in ("weights", "means", "covariances")]
    total = logsumexp(log_joint(x, *mixture), axis=1).sum()
    assert found["criteria"]["log_likelihood"] == pytest.approx(total, rel=1e-10)
    assert found["info"]["log_likelihood"] == pytest.approx(total / 272, rel=1e-10)
    assert found["criteria"]["bic"] == pytest.approx(-2 * total + 11 * np.log(272), rel=1e-10)
    assert found["provenance"]["seed"] == 0


def test_the_expected_numbers_are_scikit_learns(result):
    oracle = GaussianMixture(2, n_init=3, tol=1e-10, max_iter=1000, random_state=0)
    x = data.old_faithful().x
    total = oracle.fit(x).score(x) * len(x)
    known = gmm_em.EXPECTED["old_faithful", 2, "full"]
    assert known["log-likelihood"].value == pytest.approx(total, abs=1e-3)
    assert known["BIC"].value == pytest.approx(oracle.bic(x), abs=1e-3)
    assert known["smaller weight"].value == pytest.approx(oracle.weights_.min(), abs=1e-5)
    assert len(result.expected) == 4
    for name, expected, obtained in result.expected:
        assert obtained == pytest.approx(expected.value, abs=expected.within), name


def test_held_out_points_are_scored_by_fits_that_never_saw_them(result):
    x = data.old_faithful().x
    order = np.asarray(jax.random.permutation(jax.random.split(held_out_key())[0], len(x)))
    scores = []
    for fold in np.array_split(order, 2):
        oracle = GaussianMixture(2, n_init=5, tol=1e-9, max_iter=1000, random_state=0)
        scores.append(oracle.fit(np.delete(x, fold, axis=0)).score_samples(x[fold]))
    scores = np.concatenate(scores)
    assert len(scores) == result.held_out.num_points == 272
    assert result.held_out.mean == pytest.approx(scores.mean(), abs=1e-4)
    error = scores.std(ddof=1) / np.sqrt(272)
    assert result.held_out.standard_error == pytest.approx(error, abs=1e-4)


def held_out_key():
    return jax.random.split(jax.random.key(0), 4)[2]


def test_one_column_of_a_users_file(tmp_path, result):
    x = np.random.default_rng(0).normal(size=(80, 2)) + np.repeat([[0.0], [6.0]], 40, axis=0)
    np.savetxt(tmp_path / "t.csv", x, delimiter=",", header="a,b", comments="")
    found = run(tmp_path / "run", data=str(tmp_path / "t.csv"), columns=("b",), num_components=2)
    means = np.sort(np.asarray(found.fit.mixture.means)[:, 0])
    np.testing.assert_allclose(means, [x[:40, 1].mean(), x[40:, 1].mean()], atol=0.05)
    assert found.dataset.columns == ("b",)


def test_the_grid_begins_with_the_mixture_itself_and_repeats_nothing():
    config = gmm_em.Config(num_components=4, max_components=8, covariance="diag")
    grid = gmm_em.comparison_grid(config)
    assert grid[0] == ("diag", 4)
    assert len(grid) == len(set(grid))
    assert [k for c, k in grid[1:] if c == "diag"] == [1, 2, 5, 7, 8]
    assert {k for c, k in grid if c == "full"} == {2, 4, 5}


def test_smallest_spread_is_the_share_of_the_datas_variance():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 2)) @ np.array([[3.0, 1.0], [0.0, 0.5]])
    covariance = np.cov(x.T)
    found = gmm_em_evaluation.smallest_spread(np.stack([covariance, 0.01 * covariance]), x)
    assert found == pytest.approx(0.01, rel=1e-9)


def test_agreement_is_with_the_true_classes():
    lecture = data.lecture_clusters()
    truth = em.gaussian_mixture(*lecture.truth)
    scores = gmm_em_evaluation.agreement(truth, lecture)
    density = log_joint(lecture.x, *lecture.truth)
    best = adjusted_rand_score(lecture.labels, density.argmax(1))
    assert scores["adjusted Rand index"] == pytest.approx(best, abs=1e-12)
    assert scores["adjusted Rand index of the true mixture"] == pytest.approx(best, abs=1e-12)
    mean = logsumexp(density, axis=1).mean()
    assert scores["log-likelihood per point of the true mixture"] == pytest.approx(mean, rel=1e-5)
    assert gmm_em_evaluation.agreement(truth, data.old_faithful()) == {}


def test_a_fit_that_failed_has_no_spread_and_is_not_called_collapsed():
    x = np.random.default_rng(2).normal(size=(50, 3))  # LAPACK raises on NaN from D = 3
    failed = np.stack([np.eye(3), np.full((3, 3), np.nan)])
    assert np.isnan(gmm_em_evaluation.smallest_spread(failed, x))


@pytest.mark.parametrize(("distinct", "largest"), [(5, 5), (200, 6)])
def test_no_more_components_are_compared_than_there_are_distinct_rows(distinct, largest, tmp_path):
    path = tmp_path / "stars.npy"
    np.save(path, np.arange(400.0).reshape(-1, 1) % distinct)
    config, *_ = gmm_em.prepare(gmm_em.Config(data=str(path)))
    assert config.max_components == largest


def test_curves_and_crosses_of_a_covariance_type_share_their_colour(result):
    criteria = result.criteria
    candidates = [
        gmm_em_evaluation.Candidate(covariance, k, outcome, criteria._replace(bic=bic), spread)
        for covariance, k, outcome, bic, spread in (
            ("full", 1, "CONVERGED", 90.0, 1e-6),
            ("full", 2, "CONVERGED", 80.0, 1e-6),
            ("tied", 1, "CONVERGED", 70.0, 0.5),
            ("tied", 2, "CONVERGED", 65.0, 1e-6),
            ("diag", 1, "DEGENERATE", np.nan, np.nan),
        )
    ]
    _, right = gmm_em_figures.criteria(result._replace(candidates=candidates)).axes
    shown = {line.get_label(): line for line in right.get_lines() if line.get_label()[0] != "_"}
    assert list(shown) == ["tied", "full, collapsed", "tied, collapsed"]
    np.testing.assert_array_equal(shown["tied"].get_ydata(), [70, np.nan])
    np.testing.assert_array_equal(shown["full, collapsed"].get_xdata(), [1, 2])
    assert shown["tied"].get_color() == shown["tied, collapsed"].get_color()
    assert shown["tied"].get_color() != shown["full, collapsed"].get_color()
