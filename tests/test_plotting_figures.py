"""Whole figures: the numbers that they draw, their order and their labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit
from scipy import stats

from lvm_jax import distributions, em, evidence, models, plotting
from lvm_jax.decomposition.gaps import FamilyGaps, Gaps
from lvm_jax.estimate import Average, Estimate
from lvm_jax.evidence import pareto, result
from lvm_jax.plotting import inference, mixtures
from lvm_jax.training.log import History

WEIGHTS = np.array([0.6, 0.4])
MEANS = np.array([[0.0, 0.0, 1.0], [5.0, 4.0, -1.0]])
COVARIANCES = np.stack([np.diag([1.0, 2.0, 3.0]), np.eye(3)])
MIXTURE = em.gaussian_mixture(WEIGHTS, MEANS, COVARIANCES)


def draws(num=60):
    rng = np.random.default_rng(0)
    return np.repeat(MEANS, num // 2, axis=0) + rng.normal(size=(num, 3))


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def marginal(columns):
    columns = list(columns)
    covariances = COVARIANCES[:, columns][:, :, columns]
    return em.gaussian_mixture(WEIGHTS, MEANS[:, columns], covariances)


def drawn_components(ax):
    """(mean, half-width in x of the 90% ellipse) of every component."""
    crosses = [line.get_xydata()[0] for line in ax.lines if line.get_marker() == "+"]
    dashed = [one for one in ax.lines if one.get_linestyle() == "--" and len(one.get_xdata()) > 2]
    return crosses, [np.ptp(line.get_xdata()) / 2 for line in dashed]


# Mixtures


def test_a_mixture_on_a_line_is_a_histogram_with_its_density():
    x = draws()[:, :1]
    figure = plotting.mixture(marginal([0]), x, names=["length [cm]"])
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("length [cm]", "density")
    total = ax.lines[-1]
    expected = WEIGHTS @ [stats.norm.pdf(total.get_xdata(), mean) for mean in (0, 5)]
    np.testing.assert_allclose(total.get_ydata(), expected, rtol=1e-4, atol=1e-9)


def test_a_mixture_in_the_plane_needs_no_projection():
    x = draws()[:, :2]
    (ax,) = plotting.mixture(marginal([0, 1]), x).axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x1", "x2")
    points = ax.collections[0]
    np.testing.assert_allclose(points.get_offsets(), x)
    assert len(np.unique(points.get_facecolors(), axis=0)) == 2
    crosses, widths = drawn_components(ax)
    np.testing.assert_allclose(crosses, MEANS[:, :2])
    np.testing.assert_allclose(widths, mixtures.confidence_radius(0.9), rtol=1e-3)


def test_columns_of_more_dimensions_show_their_marginal():
    x = draws()
    (ax,) = plotting.mixture(MIXTURE, x, projection=(2, 0), names=["a", "b", "c"]).axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("c", "a")
    np.testing.assert_allclose(ax.collections[0].get_offsets(), x[:, [2, 0]])
    crosses, widths = drawn_components(ax)
    np.testing.assert_allclose(crosses, MEANS[:, [2, 0]])
    expected = mixtures.confidence_radius(0.9) * np.sqrt([3, 1])
    np.testing.assert_allclose(widths, expected, rtol=1e-3)


def test_the_principal_projection_is_the_principal_plane():
    x = draws()
    (ax,) = plotting.mixture(MIXTURE, x, projection="principal").axes
    centred = x - x.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    drawn = np.abs(ax.collections[0].get_offsets())
    np.testing.assert_allclose(drawn, np.abs(centred @ axes.T), atol=1e-10)
    assert ax.get_xlabel().startswith("principal axis 1, ")


def test_a_figure_is_drawn_on_the_axis_that_is_given():
    figure, (left, right) = plotting.new_figure(2)
    found = plotting.mixture(marginal([0, 1]), draws()[:, :2], ax=right)
    assert found is figure
    assert len(figure.axes) == 2
    assert not left.collections
    assert right.collections


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({}, r'projection: expected "principal", a Plane, or two of the 3 columns, .* got None'),
        ({"projection": (0, 3)}, r"projection: .* got \(0, 3\)"),
        ({"projection": (1, 1)}, r"projection: .* got \(1, 1\)"),
        ({"projection": "principle"}, "projection: .*did you mean 'principal'"),
        ({"projection": (0, 1), "names": ["a"]}, "names: expected 3 names"),
        ({"x": draws()[:, :2]}, "x: expected 3 columns, as the mixture has, got 2"),
    ],
)
def test_a_mixture_that_cannot_be_drawn_is_refused(arguments, match):
    given = {"x": draws()} | arguments
    with pytest.raises(ValueError, match=match):
        plotting.mixture(MIXTURE, **given)


# Learning curves


def history(epochs=4, objective=None):
    step = 10 * np.arange(1, epochs + 1)
    bound = -10.0 + np.arange(epochs)
    validation = np.where(np.arange(epochs) % 2 == 1, bound - 0.5, np.nan)
    return History(step, bound, bound if objective is None else objective, validation, 1.0 * step)


def test_a_learning_curve_has_what_was_measured_by_epoch():
    (ax,) = plotting.learning_curve(history(), name="ELBO", best_step=20).axes
    training, validation, ring = ax.lines
    np.testing.assert_array_equal(training.get_xydata(), [[1, -10], [2, -9], [3, -8], [4, -7]])
    np.testing.assert_array_equal(validation.get_xydata(), [[2, -9.5], [4, -7.5]])
    np.testing.assert_array_equal(ring.get_xydata(), [[2, -9.5]])
    assert legend(ax) == ["ELBO, training", "ELBO, validation", "parameters kept"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "nats per data point")
    (ax,) = plotting.learning_curve(history(objective=np.full(4, -6.0))).axes
    assert legend(ax)[-1] == "objective, training"


def test_an_average_has_two_errors():
    measured = {"log p": {3: Average(-8.0, 0.1, 0.4)}}
    (ax,) = plotting.learning_curve(history(), measured=measured).axes
    bars = [bar.get_segments()[0] for bar in ax.collections]
    np.testing.assert_allclose(bars[0], [[3, -8.8], [3, -7.2]])  # 2 sampling errors
    np.testing.assert_allclose(bars[1], [[3, -8.2], [3, -7.8]])  # 2 Monte Carlo errors
    thin, thick = (bar.get_linewidth()[0] for bar in ax.collections)
    assert thick > 2 * thin


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"history": history(0)}, "history: expected at least one finished epoch"),
        ({"best_step": 15}, "best_step: expected a step of the history, got 15"),
        ({"measured": {"log p": {5: Average(0.0, 0.1, 0.1)}}}, "measured: .* 1 to 4, got 5"),
    ],
)
def test_a_learning_curve_outside_the_history_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        plotting.learning_curve(**({"history": history()} | arguments))


# Latent space


def normal(mean, scale):
    return distributions.normal(jnp.asarray(mean, jnp.float32), jnp.asarray(scale, jnp.float32))


LATENT = models.Model(
    lambda key: (),
    lambda theta: normal([1.0, 0.0, 0.0], [2.0, 1.0, 1.0]),
    lambda theta, z: normal(jnp.stack([z[0], z[1], z[0] + z[2], z[1]]), jnp.ones(4)),
)(())


def encode(x):
    return normal(2 * x, jnp.ones(3))


def latent(x, labels=None, **options):
    guide = jax.tree_util.Partial(encode)
    return plotting.latent_space(jax.random.key(0), LATENT, guide, x, labels, **options)


def test_latent_space_has_the_posterior_means_and_the_prior():
    x = draws().astype(np.float32)
    labels = np.repeat(["low", "high"], 30)
    (ax,) = latent(x, labels, projection=(0, 2)).axes
    np.testing.assert_allclose(ax.collections[0].get_offsets(), 2 * x[:, [0, 2]], rtol=1e-6)
    inner = ax.lines[0]
    np.testing.assert_allclose(np.ptp(inner.get_xdata()) / 2, 2 * np.sqrt(2 * np.log(2)), rtol=1e-3)
    np.testing.assert_allclose(np.mean(inner.get_xdata()[:-1]), 1.0, atol=1e-5)
    assert legend(ax) == ["prior, holds 50%", "prior, holds 90%"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z1", "z3")
    for text in ax.texts:
        own = labels == text.get_text()
        np.testing.assert_allclose(text.xy, np.median(2 * x[own][:, [0, 2]], 0), rtol=1e-5)
    assert len(ax.texts) == 2


def test_latent_spaces_that_cannot_be_drawn_are_refused():
    x = draws().astype(np.float32)
    with pytest.raises(ValueError, match="projection: .* two of the 3 columns"):
        latent(x)
    with pytest.raises(ValueError, match=r"labels: expected shape \[60\], got \(3,\)"):
        latent(x, [1, 2, 3], projection=(0, 1))


def test_traversals_move_one_number_of_z():
    figure = plotting.traversals(LATENT, (2, 2), span=(0.0, 4.0), num_steps=3, units=(2, 0))
    (ax,) = figure.axes
    sheet = np.ma.filled(ax.images[0].get_array().astype(float), np.nan)
    assert sheet.shape == (5, 8)
    for step, value in enumerate((0.0, 2.0, 4.0)):
        columns = slice(3 * step, 3 * step + 2)
        np.testing.assert_allclose(sheet[:2, columns], [[1, 0], [1 + value, 0]])
        np.testing.assert_allclose(sheet[3:, columns], [[value, 0], [value, 0]])
    assert ax.images[0].get_clim() == (0, 5)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["z3", "z1"]
    np.testing.assert_allclose(ax.get_yticks(), [0.5, 3.5])  # the middles of the rows
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "4"]
    with pytest.raises(ValueError, match=r"units: expected numbers from 0 to 2, got \[3\]"):
        plotting.traversals(LATENT, (2, 2), units=[3])
    with pytest.raises(ValueError, match=r"base: expected shape \(3,\)"):
        plotting.traversals(LATENT, (2, 2), base=np.zeros(2))
    with pytest.raises(ValueError, match="shape: expected 4 pixels"):
        plotting.traversals(LATENT, (3, 2))


# Weights


def pareto_weights(k, num=4_000):
    return np.log(stats.genpareto(k).isf((np.arange(num) + 0.5) / num))


@pytest.mark.parametrize("k, words", [(0.2, "reliable"), (0.6, "too short"), (0.9, "not reliable")])
def test_the_tail_of_pareto_weights_follows_their_law(k, words):
    log_w = pareto_weights(k)
    (ax,) = plotting.weight_tail(log_w).axes
    points, law, limit = ax.lines
    mean = np.exp(log_w).mean()
    np.testing.assert_allclose(points.get_xdata()[:800], (log_w - np.log(mean))[:800], rtol=1e-9)
    np.testing.assert_allclose(points.get_ydata(), np.arange(1, 801) / 4_000)
    tail = law.get_ydata() > 2 / 4_000  # beyond lie two draws
    size, threshold = pareto.tail_size(4_000), np.exp(log_w[pareto.tail_size(4_000)])
    shrunk = (size * k + 5) / (size + 10)  # by the prior of k-hat: ten observations of 0.5
    scale = (1 + k * threshold) * stats.genpareto(k).median() / stats.genpareto(shrunk).median()
    excess = (mean * np.exp(law.get_xdata()) - threshold) / scale
    exact = size / 4_000 * stats.genpareto(shrunk).sf(excess)
    np.testing.assert_allclose(law.get_ydata()[tail], exact[tail], rtol=0.05)
    assert legend(ax)[0].endswith(words)
    assert "0.7" in legend(ax)[1]
    assert (limit.get_ydata()[-1] > law.get_ydata()[-1]) == (k < 0.7)


def test_tails_by_name_have_their_own_marks():
    (ax,) = plotting.weight_tail({"wide": pareto_weights(0.2), "narrow": pareto_weights(0.8)}).axes
    assert [line.get_marker() for line in ax.lines if line.get_marker() != "None"] == ["o", "s"]
    assert [text.partition(":")[0] for text in legend(ax)] == ["wide", "narrow"]


def test_the_limits_of_k_hat_are_those_of_evidence():
    assert inference.LIMITS == (result.FINITE_VARIANCE, result.TRUSTED_K_HAT)


def test_the_law_begins_at_the_threshold_of_the_fit():
    log_w = pareto_weights(0.4, 1_000)
    tail, size = inference.tail_of(log_w), pareto.tail_size(1_000)
    assert tail.threshold == tail.log_ratio[size]
    at = np.array([tail.threshold, np.log(np.median(np.exp(tail.log_ratio[:size])))])
    np.testing.assert_allclose(tail.survival(at, tail.k_hat), size / 1_000 * np.array([1, 0.5]))
    np.testing.assert_allclose(tail.survival(at, 0.0), size / 1_000 * np.array([1, 0.5]))


@pytest.mark.parametrize(
    "log_w, match",
    [
        (np.zeros(24), r"log_weights: expected shape \[S\] with S >= 25"),
        (np.zeros((30, 2)), r"log_weights: expected shape \[S\]"),
        ({"a": np.full(30, np.nan)}, r"log_weights\['a'\]: expected log-weights without NaN"),
        (np.full(30, -np.inf), "log_weights: .* one above -inf"),
    ],
)
def test_weights_without_a_tail_are_refused(log_w, match):
    with pytest.raises(ValueError, match=match):
        plotting.weight_tail(log_w)


# Evidence


def test_evidence_is_in_its_order_and_hollow_where_not_reliable():
    good = evidence.from_log_weights(jnp.asarray(pareto_weights(0.1)))
    bad = evidence.from_log_weights(jnp.asarray(pareto_weights(0.95)))
    sandwich = evidence.Sandwich(
        good, good._replace(log_evidence=good.log_evidence + 1), None, None
    )
    ways = {"one": good, "two": bad, "both": sandwich, "number": Estimate(0.5, 0.1)}
    figure = plotting.evidence_intervals(ways, truth=0.25, level=0.9)
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_yticklabels()] == list(ways)
    assert ax.get_ylim() == (3.5, -0.5)  # the first on top
    lines = ax.lines[: 3 * len(ways)]
    for place, (interval, found) in enumerate(
        zip(lines[::3], (good.nominal_interval(0.9), bad.nominal_interval(0.9),
                         sandwich.interval(0.9), (0.5 - 0.16449, 0.5 + 0.16449)), strict=True)
    ):  # fmt: skip
        np.testing.assert_allclose(interval.get_xdata(), np.ravel(found), rtol=1e-4)
        np.testing.assert_array_equal(interval.get_ydata(), place)
    marks = lines[2::3]
    faces = [mark.get_markerfacecolor() for mark in marks]
    assert [face == "white" for face in faces] == [False, True, False, False]
    assert [line.get_linestyle() for line in lines[::3]] == ["-", "--", "-", "-"]
    assert len(marks[2].get_xdata()) == 2
    (below,) = figure.legends
    assert [text.get_text() for text in below.get_texts()] == [
        "reliable, 90% interval", "not reliable, nominal interval", "log p(x), exact"
    ]  # fmt: skip


def test_evidence_of_several_points_is_refused():
    found = quick_jit(jax.vmap(evidence.from_log_weights))(jnp.zeros((2, 30)))
    with pytest.raises(ValueError, match=r"methods\['a'\]: expected one data point"):
        plotting.evidence_intervals({"a": found})
    plotting.evidence_intervals({"a": evidence.summarize(found)})
    with pytest.raises(TypeError, match=r"methods\['b'\]: expected a result of `evidence`, got f"):
        plotting.evidence_intervals({"b": 0.3})
    with pytest.raises(ValueError, match="methods: expected at least one"):
        plotting.evidence_intervals({})


# Gaps


def gaps(approximation, amortization, names=("full rank",)):
    def of(value):
        return Estimate(jnp.asarray(value), jnp.full(2, 0.1))

    log_p = np.array([-10.0, -12.0])
    best = log_p - approximation
    families = {
        name: FamilyGaps(of(best), of(approximation), of(amortization), of(np.zeros(2)), None, None)
        for name in names
    }
    whole = approximation + amortization
    return Gaps(of(log_p), None, "given", of(best - amortization), of(whole), families)


def test_the_waterfall_falls_by_the_gaps():
    shown = gaps(np.array([1.0, 2.0]), np.array([0.5, -1.5]))
    (ax,) = plotting.gap_waterfall(shown).axes
    levels = [line.get_ydata()[0] for line in ax.lines if line.get_linewidth() == 3]
    np.testing.assert_allclose(levels, [-11.0, -12.5, -12.0], rtol=1e-6)
    first, second = ax.patches
    assert (first.get_y(), first.get_height()) == pytest.approx((-11.0, -1.5))
    assert (second.get_y(), second.get_height()) == pytest.approx((-12.5, 0.5))
    assert (first.get_hatch(), second.get_hatch()) == (None, "////")
    thin, thick = (bar.get_segments()[0][:, 1] for bar in ax.collections[:2])
    np.testing.assert_allclose(thin, -12.5 + np.array([-2, 2]) * 0.5, rtol=1e-5)  # sd / sqrt(2)
    np.testing.assert_allclose(thick, -12.5 + np.array([-2, 2]) * 0.1 / np.sqrt(2), rtol=1e-5)
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["−11.00", "−12.50", "−12.00", "1.50 ± 1.00", "−0.50 ± 2.00"]
    ticks = dict(zip(ax.get_xticks(), (t.get_text() for t in ax.get_xticklabels()), strict=True))
    assert [ticks[place].replace("\n", " ") for place in range(5)] == [
        "log p(x)", "approximation gap", "ELBO of the best q", "amortisation gap", "ELBO of q"
    ]  # fmt: skip


def test_the_waterfall_needs_one_family():
    several = gaps(np.ones(2), np.ones(2), ("full rank", "flow"))
    with pytest.raises(ValueError, match="family: expected one of full rank, flow, got None"):
        plotting.gap_waterfall(several)
    with pytest.raises(ValueError, match="family: .*did you mean 'flow'"):
        plotting.gap_waterfall(several, "flows")
    plotting.gap_waterfall(several, "flow")
    (ax,) = plotting.gap_waterfall(several._replace(families={})).axes
    assert [text.get_text() for text in ax.texts] == ["−11.00", "−13.00", "2.00 ± 0.00"]
