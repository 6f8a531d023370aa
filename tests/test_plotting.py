import struct
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from em_reference import e_step, log_joint
from matplotlib.colors import to_hex, to_rgba_array
from matplotlib.path import Path
from scipy import stats
from scipy.special import logsumexp

from lvm_jax import em, plotting
from lvm_jax.data import Dataset, old_faithful, pca
from lvm_jax.plotting import mixtures

MEAN = np.array([1.0, -2.0])
SIGMA = np.array([[2.0, 0.9], [0.9, 0.6]])
PI = np.array([0.7, 0.3])
MU = np.array([[0.0, 0.0], [2.0, 1.0]])
SIGMAS = np.stack([SIGMA, np.eye(2)])
PROBABILITIES = [0.1, 0.5, 0.9, 0.99]


@pytest.fixture
def ax():
    _, (ax,) = plotting.new_figure()
    ax.set(xlim=(-5, 6), ylim=(-4, 5))
    return ax


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def squared_radius(points, mean, covariance):
    centred = points - mean
    return np.sum(centred @ np.linalg.inv(covariance) * centred, axis=1)


@pytest.mark.parametrize("p", PROBABILITIES)
def test_ellipses_hold_the_probability_that_they_state(p):
    curve = plotting.ellipse(MEAN, SIGMA, p, num_points=1000)
    np.testing.assert_allclose(squared_radius(curve, MEAN, SIGMA), -2 * np.log(1 - p), rtol=1e-11)
    np.testing.assert_allclose(mixtures.confidence_radius(p) ** 2, stats.chi2.ppf(p, df=2))
    np.testing.assert_allclose(curve[0], curve[-1], rtol=1e-12)  # closed
    num = 40_000
    samples = np.random.default_rng(0).multivariate_normal(MEAN, SIGMA, num)
    share = Path(curve).contains_points(samples).mean()
    assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / num)


@pytest.mark.parametrize("p", [0.0, 1.0, -0.5, 90, np.nan])
def test_probabilities_outside_0_and_1_are_refused(p):
    with pytest.raises(
        ValueError, match=f"probability: expected a number between 0 and 1, got {p}"
    ):
        plotting.ellipse(MEAN, SIGMA, p)


@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_density_level_bounds_the_region_of_highest_density(p, dim):
    num = 40_000
    z = np.random.default_rng(1).normal(size=(num, dim))
    level = mixtures.density_level(stats.multivariate_normal.logpdf(z, np.zeros(dim)), p)
    # log p = -(D log 2 pi + q) / 2 with q ~ chi2_D, so the level is that at q's quantile ...
    quantile = stats.chi2.ppf(p, dim)
    # ... with the standard error of a sample quantile, sqrt(p (1-p) / n) / f, f = 2 chi2_D(q)
    error = np.sqrt(p * (1 - p) / num) / (2 * stats.chi2.pdf(quantile, dim))
    assert abs(level + 0.5 * (dim * np.log(2 * np.pi) + quantile)) < 5 * error


def test_assignment_entropy_is_scipys():
    resp = np.random.default_rng(2).dirichlet(np.full(4, 0.3), size=50)
    resp[:2] = np.eye(4)[:2]
    resp[2] = 0.25
    entropy = plotting.assignment_entropy(jnp.asarray(resp, jnp.float32))
    np.testing.assert_allclose(entropy, stats.entropy(resp, axis=1), atol=1e-6)
    np.testing.assert_allclose(entropy[:3], [0, 0, np.log(4)], rtol=1e-7)


def flowers():
    """Points in three dimensions, two of them in centimetres."""
    x = np.random.default_rng(3).normal(size=(80, 3)) * [1.0, 3.0, 2.0] + 5.0
    return Dataset("flowers", "made up", x, ("petal", "sepal", "count"), ("cm", "cm", ""))


@pytest.mark.parametrize("columns", [(0, 1), (2, 0)])
def test_the_plane_of_two_columns_shows_them(columns):
    dataset = flowers()
    plane = plotting.coordinate_plane(dataset, columns)
    np.testing.assert_array_equal(plane.points(dataset.x), dataset.x[:, columns])
    assert plane.labels == tuple(dataset.axis_labels[j] for j in columns)


def test_the_principal_plane_shows_the_main_scores():
    dataset = flowers()
    main, plane = pca(dataset.x, 2), plotting.principal_plane(dataset)
    np.testing.assert_array_equal(plane.points(dataset.x), main.transform(dataset.x))
    shares = [f"{share:.0%}" for share in main.shares]
    assert plane.labels[0] == f"principal axis 1, {shares[0]} of the variance"  # units are mixed
    in_cm = plotting.principal_plane(dataset.select(["sepal", "petal"]))
    assert in_cm.labels[1].startswith("principal axis 2 [cm], ")


def test_data_of_one_column_have_no_plane():
    line = flowers().select(["petal"])
    with pytest.raises(ValueError, match="dataset: expected at least 2 columns .*, got 1"):
        plotting.coordinate_plane(line)
    with pytest.raises(ValueError, match="dim: expected 1 to 1"):
        plotting.principal_plane(line)


def test_a_mixture_in_the_plane_is_its_marginal(x64):
    dataset, rng = flowers(), np.random.default_rng(4)
    factors = rng.normal(size=(2, 3, 3))
    means, sigmas = rng.normal(size=(2, 3)) + 5, factors @ factors.mT + np.eye(3)
    mixture = em.gaussian_mixture(PI, means, sigmas)
    plane = plotting.principal_plane(dataset)
    shown = plane.mixture(mixture)
    np.testing.assert_allclose(shown.weights, PI, rtol=1e-14)
    for k in range(2):  # y = A (x - o)
        np.testing.assert_allclose(shown.means[k], plane.axes @ (means[k] - plane.origin))
        np.testing.assert_allclose(shown.covariances[k], plane.axes @ sigmas[k] @ plane.axes.T)
    columns = plotting.coordinate_plane(dataset, (2, 0)).mixture(mixture)
    np.testing.assert_allclose(columns.covariances, sigmas[:, [2, 0]][:, :, [2, 0]], rtol=1e-12)


def test_drawn_ellipses_are_around_the_components_in_their_colours(ax):
    plotting.ellipses(ax, em.gaussian_mixture(PI, MU, SIGMAS), levels=(0.5, 0.9))
    curves = [line for line in ax.get_lines() if len(line.get_xdata()) > 2]
    expected = [(k, p) for k in range(2) for p in (0.5, 0.9)]
    for line, (k, p) in zip(curves, expected, strict=True):
        radius = squared_radius(line.get_xydata(), MU[k], SIGMAS[k])
        np.testing.assert_allclose(radius, -2 * np.log(1 - p), rtol=1e-5)  # float32
        assert line.get_color() == plotting.colour(k)
    crosses = [line.get_xydata()[0] for line in ax.get_lines() if line.get_marker() == "+"]
    np.testing.assert_array_equal(crosses, MU)
    assert texts(ax) == ["holds 50% of its component", "holds 90% of its component"]


def test_density_contours_enclose_the_mass_that_they_state(ax):
    levels, num = (0.9, 0.5), 20_000
    plotting.density(jax.random.key(0), ax, em.gaussian_mixture(PI, MU, SIGMAS), levels)
    samples = np.concatenate(
        [
            np.random.default_rng(k).multivariate_normal(MU[k], SIGMAS[k], int(num * PI[k]))
            for k in range(2)
        ]
    )
    outer, inner = ax.collections[0].get_paths()
    for path, p in [(outer, 0.9), (inner, 0.5)]:
        # two estimates of the mass, the figure's and this one, of the same standard error
        share = path.contains_points(samples).mean()
        assert abs(share - p) < 5 * np.sqrt(2 * p * (1 - p) / num)
    assert texts(ax) == ["holds 50% of the density", "holds 90% of the density"]
    styles = [line.get_linestyle() for line in ax.get_lines()]  # of 50%, 90%; contours outside in
    drawn = ["-" if dashes is None else "--" for _, dashes in ax.collections[0].get_linestyle()]
    assert drawn == styles[::-1]


def test_the_entropy_map_is_that_of_the_posterior_on_a_scale_to_ln_k(ax):
    mesh = plotting.entropy_map(ax, em.gaussian_mixture(PI, MU, SIGMAS))
    _, _, points = plotting.grid(ax)
    np.testing.assert_allclose(points[[0, -1]], [[-5, -4], [6, 5]])
    resp, _ = e_step(points, PI, MU, SIGMAS)
    np.testing.assert_allclose(mesh.get_array().ravel(), stats.entropy(resp, axis=1), atol=1e-5)
    assert mesh.get_clim() == (0, np.log(2))


def test_the_histograms_curves_are_densities(ax):
    x = old_faithful().x[:, 0]
    mu, var = np.array([[2.0], [4.3]]), np.array([[[0.1]], [[0.2]]])
    ax.set_xlim(auto=True)
    plotting.histogram(ax, x, em.gaussian_mixture(PI, mu, var))
    bars = ax.patches
    np.testing.assert_allclose(sum(b.get_width() * b.get_height() for b in bars), 1)
    *parts, total = ax.get_lines()
    points = total.get_xdata().reshape(-1, 1)
    expected = log_joint(points, PI, mu, var)
    np.testing.assert_allclose(total.get_ydata(), np.exp(logsumexp(expected, 1)), rtol=1e-4)
    for k, part in enumerate(parts):
        np.testing.assert_allclose(part.get_ydata(), np.exp(expected[:, k]), rtol=1e-4, atol=1e-7)
        assert part.get_color() == plotting.colour(k)
    assert texts(ax) == ["component 1", "component 2", "mixture"]


def test_a_trace_counts_from_one(ax):
    plotting.trace(ax, jnp.array([-3.0, -2.0, -1.5]))
    np.testing.assert_array_equal(ax.get_lines()[0].get_xydata(), [[1, -3], [2, -2], [3, -1.5]])


def test_curves_ring_their_minimum(ax):
    values = {"AIC": [5.0, 3.0, 4.0], "ICL": [np.nan] * 3, "BIC": [np.nan, 9.0, 8.0]}
    plotting.curves(ax, [1, 2, 4], values)
    rings = [line for line in ax.get_lines() if line.get_fillstyle() == "none"]
    np.testing.assert_array_equal([ring.get_xydata()[0] for ring in rings], [[2, 3], [4, 8]])
    assert texts(ax) == ["AIC", "BIC"]


def test_curves_beyond_the_styles_are_drawn_too(ax):
    plotting.curves(ax, [1, 2], {str(i): [i, i + 1] for i in range(6)})
    drawn = [line for line in ax.get_lines() if line.get_fillstyle() == "full"]
    assert [line.get_linestyle() for line in drawn] == ["-", "--", "-.", ":", "-", "--"]
    assert len({line.get_color() for line in drawn}) == 6


def test_scatter_gives_each_component_its_colour_in_every_figure(ax):
    component = np.array([0, 1, 17])
    plotting.scatter(ax, np.eye(3, 2), component)
    points = ax.collections[0]
    np.testing.assert_array_equal(points.get_offsets(), np.eye(3, 2))
    colours = [to_hex(c).upper() for c in points.get_facecolors()]
    assert colours == [plotting.PALETTE[0], plotting.PALETTE[1], plotting.PALETTE[1]]
    plotting.scatter(ax, np.eye(3, 2))
    grey = to_rgba_array(plotting.GREY, alpha=0.65)
    np.testing.assert_array_equal(ax.collections[1].get_facecolors(), grey)


def test_captions_name_the_axes(ax):
    plotting.caption_axes(ax, "Eruptions", old_faithful().axis_labels)
    assert ax.get_title(loc="left") == "Eruptions"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("eruption [min]", "waiting [min]")


@pytest.mark.parametrize(("shared", "second"), [(True, ""), (False, "nats")])
def test_panels_that_share_y_name_it_once(shared, second):
    _, axes = plotting.new_figure(2, sharey=shared)
    for ax in axes:
        plotting.caption_axes(ax, "title", ("S", "nats"))
    assert [ax.get_ylabel() for ax in axes] == ["nats", second]


def test_finish_sets_captions_scales_grid_and_legend(ax):
    ax.plot([1, 10], [2, 20], label="a curve")
    plotting.finish(ax, "title", ("S", "error [nats]"), "upper left", xscale="log", ylim=(1, 30))
    assert (ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()) == (
        *("title", "S", "error [nats]"),
    )
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_ylim()) == ("log", "linear", (1, 30))
    assert texts(ax) == ["a curve"]
    assert all(line.get_visible() for line in ax.get_xgridlines())


def test_a_logarithmic_axis_has_the_ticks_that_it_is_given(ax):
    plotting.log_ticks(ax, [0.5, 1, 16, 1024], "y")
    assert ax.get_yscale() == "log"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["0.5", "1", "16", "1,024"]
    assert len(ax.get_yticks(minor=True)) == 0
    assert ax.get_xscale() == "linear"


def test_a_signed_logarithmic_axis_is_odd_and_linear_near_zero(ax):
    plotting.signed_log(ax, -2.0, 150.0, linear=0.1)
    assert ax.get_xlim() == (-2, 150)
    names = [text.get_text() for text in ax.get_xticklabels()]
    assert names == ["−1", "−0.1", "0", "0.1", "1", "10", "100"]
    place = ax.xaxis.get_transform().transform
    near, far = place(np.array([-0.1, -0.05, 0.0, 0.05, 0.1])), place(np.array([1.0, 10.0, 100.0]))
    np.testing.assert_allclose(np.diff(near), near[-1] / 2, rtol=1e-12)
    np.testing.assert_allclose(np.diff(far, 2), 0, atol=1e-12)  # a decade is a step


def test_a_legend_below_lists_the_curves_of_one_axis():
    figure, (left, right) = plotting.new_figure(2)
    left.plot([0, 1], label="shown")
    right.plot([0, 1], label="not shown")
    plotting.legend_below(figure, left, 2)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["shown"]


def test_a_gaussian_is_drawn_as_ellipses_that_hold_what_they_state(ax):
    plotting.gaussian(ax, MEAN, SIGMA, "posterior", (0.5, 0.9))
    labels = [line.get_label() for line in ax.lines]
    assert labels == ["posterior, holds 50%", "posterior, holds 90%"]
    for line, p in zip(ax.lines, (0.5, 0.9), strict=True):
        radius = squared_radius(line.get_xydata(), MEAN, SIGMA)
        np.testing.assert_allclose(radius, -2 * np.log(1 - p), rtol=1e-11)


def test_classes_have_their_names_at_their_medians(ax):
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(60, 2)), np.repeat([0, 3, 7], 20)
    plotting.classes(ax, points, labels)
    assert [text.get_text() for text in ax.texts] == ["0", "3", "7"]
    for text, label in zip(ax.texts, (0, 3, 7), strict=True):
        assert text.get_color() == plotting.colour(label)
        np.testing.assert_allclose(text.xy, np.median(points[labels == label], 0))
    plotting.classes(ax, points, None)
    assert len(ax.texts) == 3


def test_tiles_are_in_reading_order_with_gaps_between(ax):
    pixels = np.arange(3 * 2 * 4, dtype=float).reshape(3, 2, 4)
    plotting.tiles(ax, pixels, 2, high=20.0)
    (drawn,) = ax.images
    sheet = np.ma.filled(drawn.get_array().astype(float), np.nan)
    assert sheet.shape == (5, 9)
    np.testing.assert_array_equal(sheet[:2, :4], pixels[0])
    np.testing.assert_array_equal(sheet[:2, 5:], pixels[1])
    np.testing.assert_array_equal(sheet[3:, :4], pixels[2].clip(max=20))
    for gap in (sheet[2], sheet[:, 4], sheet[3:, 5:]):
        assert np.isnan(gap).all()
    assert drawn.get_clim() == (0, 20)


def test_images_are_dark_on_light(ax):
    plotting.image(ax, np.array([[0.0, 16.0]]), low=0, high=16)
    rgba = ax.images[0].to_rgba(ax.images[0].get_array())
    np.testing.assert_allclose(rgba[0, :, 0], [1, 0])  # low is white, high is black
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0


def test_png_is_a_png_of_the_figures_size():
    figure, axes = plotting.new_figure(columns=3, rows=2, width=2.0, height=1.5)
    assert axes.shape == (6,)
    content = plotting.png(figure, dpi=50)
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[12:16] == b"IHDR"
    assert struct.unpack(">II", content[16:24]) == (3 * 2.0 * 50, 2 * 1.5 * 50)
    assert content[-8:-4] == b"IEND"
    assert struct.unpack(">I", content[-4:])[0] == zlib.crc32(b"IEND")


def test_names_are_drawn_as_written():
    """A dollar sign begins no formula: as the figure in which matplotlib is given it escaped."""

    def draw(name, caption, legend):
        figure, (ax,) = plotting.new_figure()
        ax.plot([0, 1], label=name)
        caption(ax, name, (name, name))
        legend(ax)
        return plotting.png(figure)

    def matplotlibs(ax, title, labels):
        ax.set_title(title, loc="left", fontsize=10.5, color=plotting.INK)
        ax.set_xlabel(labels[0], fontsize=9.5)
        ax.set_ylabel(labels[1], fontsize=9.5)

    def own_legend(ax):
        ax.legend(fontsize=8.5, framealpha=0.85, edgecolor="none")

    escaped = draw(r"\$\frac\$ [m]", matplotlibs, own_legend)
    assert draw(r"$\frac$ [m]", plotting.caption_axes, plotting.legend) == escaped
