"""The mixture experiment, once, small, from end to end; and its measures against the definition."""

import dataclasses

import jax
import numpy as np
import pandas
import pytest
from em_reference import log_joint
from experiment_cycle import check_whole, read
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from experiments import __main__ as cli
from experiments.gmm_em import figures, measure
from experiments.gmm_em.config import Config
from lvm_jax import data, em
from lvm_jax.report import execute

SMALL = {
    "max_components": 2, "compare": ("full",), "num_folds": 2, "search": ("none",), "num_refits": 0,
}  # fmt: skip


def run(out, **options):
    with jax.enable_x64(True):
        return execute("experiments.gmm_em", Config(**{**SMALL, **options}), out)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    options = {"search": ("EEI", "VEV"), "num_refits": 100}
    return run(tmp_path_factory.mktemp("gmm") / "run", data="old_faithful", **options)


def test_the_run_is_whole_and_the_known_numbers_are_scikit_learns(finished):
    names = ("clusters", "convergence", "criteria", "search", "refits", "samples", "uncertainty")
    _, lines = check_whole(finished, *names)
    rows = read(finished, "results.json")["search"]
    assert [(row["model"], row["num_components"]) for row in rows] == [
        ("EEI", 1), ("EEI", 2), ("VEV", 1), ("VEV", 2)
    ]  # fmt: skip
    assert (
        rows[3]["bic"] == pytest.approx(2325.4, abs=0.1) == finished.result.search.criteria[2].bic
    )
    stages = [line["stage"] for line in lines]
    assert stages.count("compare") == 2
    assert "fit" in stages
    errors = read(finished, "results.json")["refits"]["standard_errors"]["means"]
    expected = [[0.028, 0.46], [0.032, 0.60]]  # em.standard_errors, each column sorted
    np.testing.assert_allclose(np.sort(errors, axis=0), expected, rtol=0.3)
    x = data.old_faithful().x
    oracle = GaussianMixture(2, tol=1e-10, max_iter=1000, random_state=0).fit(x)
    mean = oracle.score(x)
    expected = (272 * mean, mean, oracle.bic(x), oracle.weights_.min())
    assert measure.KNOWN["old_faithful"] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert [check.expected.split(", ")[-1] for check in finished.checks[2:]] == ["scikit-learn"] * 4


def test_a_file_of_more_rows_than_max_rows_streams(tmp_path):
    """The fit to all rows is that of em.fit, its labels are in a file, and the page has both."""
    clusters = data.three_clusters()
    frame = pandas.DataFrame(clusters.x.astype(np.float32), columns=["a", "b"])
    path = tmp_path / "rows.parquet"
    frame.to_parquet(path)
    options = {**SMALL, "num_restarts": 2, "max_components": 3, "tolerance": 1e-5}
    done = run(tmp_path / "run", data=str(path), max_rows=1_000, columns=("b", "a"), **options)
    whole = done.result.all_rows
    assert whole.num_rows == 1_500
    x = frame[["b", "a"]].to_numpy()
    with jax.enable_x64(True):
        mixture = em.gaussian_mixture(whole.weights, whole.means, whole.covariances)
        assert whole.log_likelihood == pytest.approx(float(mixture.log_prob(x).mean()), rel=1e-5)
        np.testing.assert_array_equal(np.load(tmp_path / "run/labels.npy"), mixture.assign(x))
    oracle = GaussianMixture(3, tol=1e-9, max_iter=1000, random_state=0).fit(x.astype(float))
    assert whole.criteria.bic == pytest.approx(oracle.bic(x.astype(float)), rel=1e-4)
    assert whole.points.sum() == 1_500
    assert read(done, "results.json")["all_rows"]["num_rows"] == 1_500
    assert "All rows" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="--standardize and --pca-dim need the data in memory"):
        measure.load(Config(data=str(path), max_rows=1_000, standardize=True))
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match="columns: expected Parquet files"):
        measure.load(Config(data=str(tmp_path / "x.npy"), max_rows=1_000, columns=("x1",)))
    assert measure.load(Config(data=str(path))).source is None
    folder = tmp_path / "parts"  # streams, whatever its number of rows
    folder.mkdir()
    np.save(folder / "a.npy", np.where(x > 4, np.nan, x))
    loaded = measure.load(Config(data=str(folder)))
    assert loaded.source.num_rows == 1_500
    assert np.isnan(loaded.dataset.x).sum() == (x > 4).sum() > 0


def test_a_moment_that_an_m_step_does_not_conserve_is_seen(result):
    fit = result.fit
    moved = em.gaussian_mixture(
        fit.mixture.weights, fit.mixture.means + 1e-3, 1.001 * fit.mixture.covariances
    )
    wrong = dataclasses.replace(result, fit=fit._replace(mixture=moved))
    assert [check.holds for check in measure.conserved(wrong)] == [False, False]


def test_the_written_parameters_have_the_written_likelihood(finished):
    found, x = read(finished, "results.json"), data.old_faithful().x
    mixture = [np.array(found["mixture"][name]) for name in ("weights", "means", "covariances")]
    total = logsumexp(log_joint(x, *mixture), axis=1).sum()
    assert found["criteria"]["log_likelihood"] == pytest.approx(total, rel=1e-10)
    assert found["info"]["log_likelihood"] == pytest.approx(total / 272, rel=1e-10)
    assert found["criteria"]["bic"] == pytest.approx(-2 * total + 11 * np.log(272), rel=1e-10)


def test_missing_values_are_reported_and_every_point_is_scored_by_what_it_has(tmp_path):
    x = data.old_faithful().x.copy()
    x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    empty = np.isnan(x).all(1)
    path = tmp_path / "holes.csv"
    np.savetxt(path, x, delimiter=",", header="eruptions,waiting", comments="")
    options = {"covariance": "diag", "compare": ("diag",), "num_components": 2}
    finished = run(tmp_path / "run", data=str(path), **options)
    page = (finished.path / "report.html").read_text(encoding="utf-8")
    holes = np.isnan(x[~empty])
    assert f"without {empty.sum()} empty rows" in page
    assert f"{holes.sum()} of {holes.size} values" in page
    found = read(finished, "results.json")
    weights, means, covariances = (
        np.array(found["mixture"][name]) for name in ("weights", "means", "covariances")
    )
    density = norm.logpdf(x[~empty][:, None], means, np.sqrt(covariances.diagonal(0, 1, 2)))
    total = logsumexp(np.nansum(density, -1) + np.log(weights), axis=1).sum()
    assert found["criteria"]["log_likelihood"] == pytest.approx(total, rel=1e-10)


def test_held_out_points_are_scored_by_fits_without_them(result):
    x = data.old_faithful().x
    key = jax.random.split(jax.random.split(jax.random.key(0), 4)[2])[0]
    scores = np.empty(272)
    for fold in np.array_split(np.asarray(jax.random.permutation(key, 272)), 2):
        oracle = GaussianMixture(2, tol=1e-9, max_iter=1000, random_state=0)
        scores[fold] = oracle.fit(np.delete(x, fold, axis=0)).score_samples(x[fold])
    np.testing.assert_allclose(result.points["log_evidence"], scores, atol=2e-3)
    assert result.held_out.mean == pytest.approx(scores.mean(), abs=1e-4)
    error = scores.std(ddof=1) / np.sqrt(272)
    assert result.held_out.standard_error == pytest.approx(error, abs=1e-4)


def test_the_grid_begins_with_the_mixture_itself_and_repeats_nothing():
    grid = measure.comparison_grid(Config(num_components=4, max_components=8, covariance="diag"))
    assert grid[0] == ("diag", 4)
    assert len(grid) == len(set(grid))
    assert [k for c, k in grid[1:] if c == "diag"] == [1, 2, 5, 7, 8]
    assert {k for c, k in grid if c == "full"} == {2, 4, 5}


def test_agreement_is_with_the_true_classes():
    clusters = data.three_clusters()
    scores = measure.agreement(em.gaussian_mixture(*clusters.truth), clusters)
    density = log_joint(clusters.x, *clusters.truth)
    best = adjusted_rand_score(clusters.labels, density.argmax(1))
    assert scores[measure.RAND] == scores[measure.TRUE_RAND] == pytest.approx(best, abs=1e-12)
    mean = logsumexp(density, axis=1).mean()
    assert scores[measure.TRUE_MEAN] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize(("distinct", "largest"), [(5, 5), (200, 6)])
def test_no_more_components_are_compared_than_there_are_distinct_rows(distinct, largest):
    x = np.arange(400.0).reshape(-1, 1) % distinct
    assert measure.filled(Config(data="stars.npy"), x).max_components == largest


def test_curves_and_crosses_of_a_covariance_type_share_their_colour(result):
    criteria = result.candidates[0].criteria
    cells = [("full", 1, 90.0, 1e-6), ("full", 2, 80.0, 1e-6), ("tied", 1, 70.0, 0.5),
             ("tied", 2, 65.0, 1e-6), ("diag", 1, np.nan, np.nan)]  # fmt: skip
    candidates = [
        measure.Candidate(covariance, k, "CONVERGED", criteria._replace(bic=bic), spread)
        for covariance, k, bic, spread in cells
    ]
    _, right = figures.criteria(dataclasses.replace(result, candidates=candidates)).axes
    shown = {line.get_label(): line for line in right.get_lines() if line.get_label()[0] != "_"}
    assert list(shown) == ["tied", "full, collapsed", "tied, collapsed"]
    np.testing.assert_array_equal(shown["tied"].get_ydata(), [70, np.nan])
    np.testing.assert_array_equal(shown["full, collapsed"].get_xdata(), [1, 2])
    assert shown["tied"].get_color() == shown["tied, collapsed"].get_color()
    assert shown["tied"].get_color() != shown["full, collapsed"].get_color()


def test_figures_of_data_on_a_line_are_histograms_and_a_curve_of_the_entropy(result):
    """Two equal components at -1 and 1: the entropy is ln 2 at 0."""
    x = np.linspace(-3, 3, 61)[:, None]
    line = result.dataset._replace(x=x, columns=("$a",), units=("",), truth=None)
    mixture = em.gaussian_mixture([0.5, 0.5], [[-1.0], [1.0]], np.full((2, 1, 1), 0.5))
    changed = dataclasses.replace(result, dataset=line, fit=result.fit._replace(mixture=mixture))
    (ax,) = figures.uncertainty(changed).axes
    assert ax.get_lines()[0].get_ydata().max() == pytest.approx(np.log(2), abs=1e-3)
    (ax,) = figures.clusters(changed).axes
    assert ax.get_lines()[-1].get_ydata().max() == pytest.approx(
        np.exp(mixture.log_prob(x)).max(), rel=1e-2
    )


ROWS = "0,1\n1,2\n2,4\n" * 10
REFUSED = {  # a table of one's own or none, options, part of the message
    "name": (None, ["--data", "old_faithfull"], "did you mean 'old_faithful'"),
    "column": (None, ["--data", "old_faithful", "--columns", "eruptoin"], "mean 'eruption'"),
    "comparison": (None, ["--max-components", "800"], "--data: expected at least 1600 rows"),
    "empty": ("", [], "--data: expected a table of numbers, got an empty file"),
    "few rows": ("a,b\n0,1\n1,2\n2,3\n3,5\n4,0\n", [], "at least 10 rows for 3 components, 5"),
    "constant": ("a\n" + "4\n" * 30, ["--standardize"], "got the constant 'a'"),
    "all equal": ("a,b\n" + "4,5\n" * 30, ["--num-components", "1"], "that differ, got 30"),
    "no variance": ("a,b\n" + "0,3\n1,3\n2,3\n" * 10, ["--regularization", "0"], "columns [1]"),
    "copies": ("a,b\n" + ROWS, ["--max-components", "4"], "4 distinct rows for 4 components, got 3"),
    "only copy in a fold": (
        "a,b\n" + ROWS + "9,9\n", ["--num-components", "4"],
        "data outside fold 1 of 5: expected at least 4 distinct rows for 4 components, got 3",
    ),
    "no value": ("a,b\n" + "1,\n2,\n3,\n" * 10, [], "every column, got none in 1 column ([1])"),
    "infinite": ("a,b\n" + ROWS + "inf,1\n", [], "finite numbers, got 1 missing or infinite"),
    "axes": ("a,b\n" + ROWS, ["--pca-dim", "3"], "--pca-dim: expected at most 2"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_input_is_one_line_and_leaves_no_folder(
    content, options, message, tmp_path, capsys
):
    table, out = tmp_path / "table.csv", tmp_path / "run"
    if content is not None:
        table.write_text(content)
        options = ["--data", str(table), *options]
    assert cli.main(["gmm_em", *options, "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not out.exists()
