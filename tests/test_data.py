import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA

from lvm_jax import data
from lvm_jax.data import Dataset, Truth

IRIS = load_iris().data


def test_old_faithful_has_the_published_summary():
    faithful = data.old_faithful()
    assert faithful.x.shape == (272, 2)
    assert faithful.axis_labels == ("eruption [min]", "waiting [min]")
    # R 4, summary(faithful), to the four digits that it prints
    quartiles = np.percentile(faithful.x, [0, 25, 50, 75, 100], axis=0)
    published = [[1.6, 43], [2.163, 58], [4.0, 76], [4.454, 82], [5.1, 96]]
    np.testing.assert_allclose(quartiles, published, rtol=0, atol=6e-4)
    np.testing.assert_allclose(faithful.x.mean(0), [3.4878, 70.8971], rtol=0, atol=5e-5)
    # and lm(eruptions ~ waiting)
    line = stats.linregress(faithful.x[:, 1], faithful.x[:, 0])
    np.testing.assert_allclose([line.intercept, line.slope], [-1.874016, 0.075628], atol=5e-7)


def test_digits_are_the_published_test_part_with_pixels_named_by_place():
    digits, published = data.digits(), load_digits()
    # optdigits.names, "Class Distribution ... Testing"
    counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    np.testing.assert_array_equal(np.bincount(digits.labels), counts)
    for got, want in ((digits.x, published.data), (digits.labels, published.target)):
        np.testing.assert_array_equal(got, want)
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
    assert set(digits.units) == {"grey level"}
    for row, column in [(0, 0), (2, 5), (7, 3)]:
        pixel = digits.select([f"pixel {row},{column}"])
        np.testing.assert_array_equal(pixel.x[:, 0], published.images[:, row, column])


def test_digits_need_no_other_package():
    code = """
import sys
sys.modules["sklearn"] = None  # as if it were not installed
from lvm_jax import data
assert data.load("digits").x.shape == (1797, 64)
assert data.load_images("digits").train.shape == (1297, 64)
"""
    line = [sys.executable, "-c", code]
    root = Path(__file__).parent.parent
    done = subprocess.run(line, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def drawn_clusters():
    """The draws of np.random.seed(0), written out."""
    random, n_samples = np.random.RandomState(0), 500
    C1 = np.array([[0.0, -0.1], [1.7, 0.4]])
    C2 = np.array([[0.0, 1.0], [2.0, 0.1]])
    return np.vstack(
        [
            np.dot(random.randn(n_samples, 2), C1),
            np.dot(random.randn(n_samples, 2), C2) + np.array([-2.5, 1]),
            0.7 * random.randn(n_samples, 2) + np.array([-6, 3]),
        ]
    )


def test_three_clusters_are_the_draws_bit_for_bit():
    clusters = data.three_clusters()
    np.testing.assert_array_equal(clusters.x, drawn_clusters())
    assert clusters.axis_labels == ("x1 [arbitrary units]", "x2 [arbitrary units]")


def test_the_truth_is_what_the_clusters_were_drawn_from():
    clusters = data.three_clusters()
    weights, means, covariances = clusters.truth
    np.testing.assert_allclose(weights, np.bincount(clusters.labels) / 1500, rtol=1e-15)
    # C^T C by hand
    by_hand = [[[2.89, 0.68], [0.68, 0.17]], [[4.0, 0.2], [0.2, 1.01]], [[0.49, 0], [0, 0.49]]]
    np.testing.assert_allclose(covariances, by_hand, rtol=1e-14)
    for k, sigma in enumerate(covariances):
        x = clusters.x[clusters.labels == k]
        variance = np.diag(sigma)
        assert (np.abs(x.mean(0) - means[k]) < 5 * np.sqrt(variance / 500)).all()
        # Var(S_ij) = (sigma_ij^2 + sigma_ii sigma_jj) / n
        error = np.sqrt((sigma**2 + np.outer(variance, variance)) / 500)
        assert (np.abs(np.cov(x, rowvar=False) - sigma) < 5 * error).all()


def made_up():
    factors = np.random.default_rng(0).normal(size=(2, 3, 3))
    truth = Truth(np.array([0.3, 0.7]), np.arange(6.0).reshape(2, 3), factors @ factors.mT)
    x = np.arange(15.0).reshape(5, 3) ** 2
    names, units = ("height", "mass", "count"), ("m", "kg", "")
    return Dataset("made_up", "nowhere", x, names, units, np.array([0, 1, 0, 1, 1]), truth)


def test_select_takes_the_marginal_of_the_truth():
    whole, part = made_up(), made_up().select(["count", "height"])
    np.testing.assert_array_equal(part.x, whole.x[:, [2, 0]])
    np.testing.assert_array_equal(part.labels, whole.labels)
    assert part.axis_labels == ("count", "height [m]")
    take = np.array([[0.0, 0, 1], [1, 0, 0]])  # y = A x has mean A mu and covariance A Sigma A^T
    np.testing.assert_array_equal(part.truth.weights, whole.truth.weights)
    np.testing.assert_array_equal(part.truth.means, whole.truth.means @ take.T)
    np.testing.assert_allclose(
        part.truth.covariances, take @ whole.truth.covariances @ take.T, rtol=1e-15
    )
    with pytest.raises(ValueError, match="the data set made_up has no column 'heigth'; .*'height'"):
        whole.select(["heigth"])
    with pytest.raises(ValueError, match="at least one name, got none; None takes all .* count"):
        whole.select([])


def test_standardized_columns_are_z_scores():
    standard = made_up().standardized()
    np.testing.assert_allclose(standard.x, stats.zscore(made_up().x), rtol=1e-14)
    assert standard.axis_labels[2] == "count [standard deviations]"
    assert standard.truth is None


@pytest.mark.parametrize("constant", [4.0, 0.1, 1e-3])  # the last two have a rounded mean
def test_standardized_refuses_a_constant_column(constant):
    x = np.stack([np.arange(272.0), np.full(272, constant)], axis=1)
    dataset = made_up()._replace(x=x, columns=("height", "mass"), units=("m", "kg"))
    with pytest.raises(ValueError, match="expected columns that vary, got the constant 'mass'"):
        dataset.standardized()


def test_pca_is_the_eigendecomposition_of_the_covariance():
    main = data.pca(IRIS, 3)
    values, vectors = np.linalg.eigh(np.cov(IRIS, rowvar=False))
    values, vectors = values[::-1], vectors[:, ::-1].T
    np.testing.assert_allclose(main.shares, values[:3] / values.sum(), rtol=1e-12)
    np.testing.assert_allclose(np.abs(main.axes), np.abs(vectors[:3]), atol=1e-12)
    scores = main.transform(IRIS)
    np.testing.assert_allclose(scores.mean(0), 0, atol=1e-13)
    np.testing.assert_allclose(np.cov(scores, rowvar=False), np.diag(values[:3]), atol=1e-13)
    # what the way back loses is the discarded eigenvalues
    lost = np.sum((main.inverse(scores) - IRIS) ** 2) / (len(IRIS) - 1)
    np.testing.assert_allclose(lost, values[3:].sum(), rtol=1e-11)
    np.testing.assert_allclose(main.share, 1 - values[3] / values.sum(), rtol=1e-12)


def test_pca_is_sklearns_but_signed_by_the_largest_entry():
    oracle = PCA(4, svd_solver="full").fit(IRIS)
    main, mirrored = data.pca(IRIS, 4), data.pca(-IRIS, 4)
    np.testing.assert_allclose(main.shares, oracle.explained_variance_ratio_, rtol=1e-11)
    signs = np.sign([row[np.abs(row).argmax()] for row in oracle.components_])
    np.testing.assert_allclose(main.axes, signs[:, None] * oracle.components_, atol=1e-12)
    np.testing.assert_allclose(mirrored.axes, main.axes, atol=1e-12)
    np.testing.assert_allclose(main.inverse(main.transform(IRIS)), IRIS, rtol=1e-13)


@pytest.mark.parametrize("dim", [-1, 0, 5])
def test_pca_refuses_a_number_of_axes_that_cannot_be(dim):
    with pytest.raises(ValueError, match=rf"dim: expected 1 to 4 for .*\(150, 4\), got {dim}"):
        data.pca(IRIS, dim)


@pytest.mark.parametrize("constant", [4.0, 0.1])  # 0.1 has a rounded mean
def test_pca_refuses_rows_that_are_all_equal(constant):
    with pytest.raises(ValueError, match="expected data that vary, got all rows equal"):
        data.pca(np.full((272, 2), constant), 1)


def test_reduce_names_the_components_with_their_shares():
    digits = data.digits()
    reduced, main = data.reduce(digits, 2)
    np.testing.assert_array_equal(reduced.x, main.transform(digits.x))
    values = np.linalg.eigvalsh(np.cov(digits.x, rowvar=False))[::-1]
    shares = np.round(100 * values / values.sum()).astype(int)
    assert reduced.axis_labels == tuple(
        f"principal axis {i + 1} ({shares[i]}% of the variance) [grey level]" for i in range(2)
    )
    np.testing.assert_array_equal(reduced.labels, digits.labels)
    assert data.reduce(made_up(), 2)[0].units == ("", "")  # metres and kilograms mixed
    assert data.reduce(made_up(), 2)[0].truth is None


@pytest.mark.parametrize("name", data.NAMED)
def test_load_knows_the_names(name):
    loaded = data.load(name)
    assert loaded.name == name
    last = loaded.columns[-1]
    np.testing.assert_array_equal(data.load(name, [last]).x, loaded.x[:, -1:])
    assert len(loaded.columns) == len(loaded.units) == loaded.x.shape[1]


def test_load_reads_paths_and_hints_at_names(tmp_path, monkeypatch):
    (tmp_path / "heights.csv").write_text("a,b\n1,2\n")
    np.testing.assert_array_equal(data.load(str(tmp_path / "heights.csv"), ["b"]).x, [[2.0]])
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(data.load("heights.csv").x, [[1.0, 2.0]])
    with pytest.raises(FileNotFoundError, match=r"height\.csv; did you mean heights\.csv\?"):
        data.load("height.csv")
    with pytest.raises(ValueError, match="got 'old_faithfull'; did you mean 'old_faithful'"):
        data.load("old_faithfull")
    with pytest.raises(
        ValueError, match=r"expected three_clusters, old_faithful, digits, .*got 'zzz'$"
    ):
        data.load("zzz")
