"""The IWAE table, small: two cells on the digits, killed, resumed and extended."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
from experiment_cycle import check_whole
from scipy.special import expit, logsumexp
from scipy.stats import norm

from experiments import iwae_table as experiment
from experiments import iwae_table_cells as cells
from experiments import iwae_table_models as models
from experiments import iwae_table_report as report
from lvm_jax import data, training

SMALL = {
    "objectives": ("iwae",), "samples": (1, 2), "layers": (1,), "num_stages": 2, "width": 6,
    "latent_dim": 2, "curve_points": 8, "evaluation_points": 20, "evaluation_samples": 300,
}  # fmt: skip
NAMES = ["burda-vae-k1-layers1", "burda-iwae-k2-layers1"]


@pytest.fixture(scope="module", autouse=True)
def small_pieces():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "PIECE", 8)
        yield


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("table") / "run"
    return experiment.main(experiment.Config(out=out, **SMALL))


def evidence_of(result):
    return [record.evidence for records in result.records for record in records]


def test_the_grid_is_the_papers_with_one_cell_where_the_objectives_agree():
    grid = experiment.grid(experiment.Config())
    assert len(grid) == len(set(grid)) == 2 * 5
    assert [(c.objective, c.num_samples) for c in grid if c.num_layers == 2] == [
        ("vae", 1), ("vae", 5), ("vae", 50), ("iwae", 5), ("iwae", 50)
    ]  # fmt: skip
    only = experiment.grid(experiment.Config(objectives=("iwae",), samples=(1,), layers=(1,)))
    assert only == [experiment.Cell("burda", "vae", 1, 1)]


@pytest.mark.parametrize(
    ("layers", "theta", "phi"),
    [
        # 50-200-200-784; 784-200-200-(50+50), and the 100 of the family's own offset
        (1, [50, 200, 200, 784], [[784, 200, 200, 100]]),
        (2, [100, 200, 200, 784], [[784, 200, 200, 200], [100, 100, 100, 100]]),
    ],
)
def test_the_networks_are_the_papers(layers, theta, phi):
    model, guide = models.make(784, 200, 50, layers)
    found = jax.eval_shape(model.init, jax.random.key(0))

    def size(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    def dense(widths):
        return sum((a + 1) * b for a, b in itertools.pairwise(widths))

    assert size(found.decoder) == dense(theta)
    assert size(found.layers) == (dense([50, 100, 100, 200]) if layers == 2 else 0)
    extra = 100 if layers == 1 else 0
    assert size(jax.eval_shape(guide.init, jax.random.key(0))) == sum(map(dense, phi)) + extra


def test_the_schedules_end_where_the_paper_says():
    config = experiment.Config(num_stages=8)
    cell = experiment.Cell("burda", "vae", 1, 1)
    assert models.milestones(cell, config) == [1, 4, 13, 40, 121, 364, 1093, 3280]
    assert models.progress_of(cell, 121, config) == "5 of 8 stages"
    short = cell._replace(schedule="short")
    assert models.milestones(short, config) == [1, 4, 13, 40, 60]
    assert models.progress_of(short, 60, config) == "short, 60 of 60"
    assert models.batch_size(cell, config) == 20
    assert models.batch_size(short, config) == 100
    deep = short._replace(num_layers=2)
    assert [models.short_rate(cell, config) for cell in (short, deep)] == [4e-3, 2e-3]
    assert models.short_rate(deep, dataclasses.replace(config, short_rate=1e-3)) == 1e-3


def test_the_decoder_starts_at_the_log_odds_of_the_training_mean(result):
    images = models.load(result.config)
    model, guide = models.make(64, 6, 2, 1)
    theta, _ = models.start(jax.random.key(0), model, guide, images.output_bias)
    mean = np.clip(images.train.mean(0), 1e-3, 1 - 1e-3)
    np.testing.assert_allclose(expit(theta.decoder["output"]["bias"]), mean, atol=1e-5)


def test_test_images_are_in_one_random_order_of_the_seed():
    images = models.load(experiment.Config())
    fixed = data.binarized(data.load_images("digits"), "dynamic", 0).test
    assert not np.array_equal(images.test, fixed)
    as_rows = [sorted(map(bytes, rows.astype(np.uint8))) for rows in (images.test, fixed)]
    assert as_rows[0] == as_rows[1]
    np.testing.assert_array_equal(images.test, models.load(experiment.Config()).test)


def test_log_p_of_the_saved_model_is_the_integral_over_z(result):
    # In NumPy, from the arrays on disk: a trapezoidal rule over z in [-7, 7]^2.
    folder = result.path / "cells" / NAMES[1] / "epochs-00004"
    saved = training.load_model(folder, models.build)
    axis = np.linspace(-7, 7, 241)
    z = np.stack([a.ravel() for a in np.meshgrid(axis, axis)], 1)
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), saved.theta.decoder)
    hidden = z
    for name in ("hidden_0", "hidden_1"):
        hidden = np.tanh(hidden @ layers[name]["kernel"] + layers[name]["bias"])
    logits = hidden @ layers["output"]["kernel"] + layers["output"]["bias"]
    x = models.load(result.config).test[:20]
    log_joint = x @ logits.T - np.logaddexp(0, logits).sum(1) + norm.logpdf(z).sum(1)
    exact = logsumexp(log_joint, axis=1) + 2 * np.log(axis[1] - axis[0])
    found = result.records[1][-1].evidence
    assert len(found.log_evidence) == 20
    assert (found.k_hat < 0.7).all()
    assert (np.abs(found.log_evidence - exact) < 5 * found.standard_error + 1e-4).all()


def test_a_killed_run_ends_with_the_same_numbers(result, tmp_path, monkeypatch):
    config = dataclasses.replace(result.config, out=tmp_path / "run")
    real, calls = cells.pack, []

    def die(found):  # after the second stage of the first cell was trained, within its evaluation
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(found)

    monkeypatch.setattr(cells, "pack", die)
    with pytest.raises(KeyboardInterrupt):
        experiment.main(config)
    monkeypatch.setattr(cells, "pack", real)
    monkeypatch.setattr(experiment, "finish", lambda result, run: None)
    again = experiment.main(config)
    for one, other in zip(evidence_of(result), evidence_of(again), strict=True):
        for leaf, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(leaf, same)
    for mine, theirs in zip(result.records, again.records, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert one.trained._replace(seconds=0) == other.trained._replace(seconds=0)


def test_a_larger_evaluation_keeps_what_a_smaller_one_found(result, monkeypatch):
    folder = result.path / "cells" / NAMES[0] / "epochs-00004"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("evidence-*")}
    assert sorted(before) == [
        f"evidence-k300-{a:05d}-{b:05d}.npz" for a, b in ((0, 8), (8, 16), (16, 20))
    ]
    larger = dataclasses.replace(result.config, evaluation_points=24)
    monkeypatch.setattr(experiment, "finish", lambda result, run: None)
    found = experiment.main(larger)
    assert all((folder / name).stat().st_mtime_ns == time for name, time in before.items())
    one, other = (r.records[0][-1].evidence.log_evidence for r in (result, found))
    assert len(other) == 24
    np.testing.assert_allclose(other[:20], one, rtol=1e-6)  # images 16 to 19 in a piece of 8, not 4


def test_a_budget_begins_no_stage_and_reports_what_is_there(result, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "finish", lambda result, run: None)
    more = dataclasses.replace(result.config, num_stages=8, budget=0.0)
    found = experiment.main(more)
    assert [[r.trained.epochs for r in records] for records in found.records] == [[1, 4]] * 2
    assert {records[-1].told for records in found.records} == {"2 of 8 stages"}
    with pytest.raises(ValueError, match="budget: expected enough minutes"):
        experiment.main(dataclasses.replace(more, out=tmp_path / "other"))


def test_active_units_are_of_the_test_images(result):
    for records in result.records:
        for record in records:
            (variance,), (number,) = record.trained.variance, record.trained.active
            assert len(variance) == 2
            assert number == sum(v > 0.01 for v in variance)
    # One layer: E[z] is the mean of a mean-field q, an MLP of x and the family's offset.
    folder = result.path / "cells" / NAMES[0] / "epochs-00004"
    saved = training.load_model(folder, models.build)
    phi = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), saved.phi)
    hidden = models.load(result.config).test
    for name in ("hidden_0", "hidden_1"):
        hidden = np.tanh(hidden @ phi.network[name]["kernel"] + phi.network[name]["bias"])
    means = (hidden @ phi.network["output"]["kernel"])[:, :2]
    trained = result.records[0][-1].trained
    np.testing.assert_allclose(trained.variance[0], means.var(0, ddof=1), rtol=1e-3)


def test_the_report_shows_both_errors_and_never_passes_a_part_for_the_whole(result):
    table = report.main_table(result)
    assert [row[3] for row in table.rows] == ["2 of 8 stages"] * 2
    done = cells.summary(result.records[0][-1].evidence)
    assert table.rows[0][4:8] == [
        f"{done.log_evidence:.2f}", f"{done.monte_carlo_error:.3f}", f"{done.sampling_error:.2f}",
        f"{done.num_untrusted} of 20",
    ]  # fmt: skip
    errors = result.records[0][-1].evidence.standard_error.astype(float)
    assert done.monte_carlo_error == pytest.approx((errors**2).sum() ** 0.5 / 20)
    assert "no reproduction of the published one" in report.schedule_text(result)
    check_whole(result, "training", "units")


def test_differences_to_the_vae_are_paired(result):
    (row,) = report.paired_blocks(result)[0].rows
    mine, base = (records[-1].evidence.log_evidence for records in result.records[::-1])
    gap = mine.astype(float) - base.astype(float)
    assert row[0] == "IWAE, k = 2, 1 layer"
    assert row[-1] == f"{gap.mean():+.3f} ± {gap.std(ddof=1) / 20**0.5:.3f}"


def test_published_numbers_stand_beside_their_own_cells_only():
    cell = experiment.Cell("burda", "iwae", 50, 2)
    assert report.published("mnist", cell) == -82.90
    assert report.published("binarized_mnist", cell) is None
    assert report.published("digits", cell) is None
    assert report.published("mnist", cell._replace(objective="vae", num_samples=2)) is None


def test_other_settings_in_the_same_folder_are_refused(result):
    with pytest.raises(ValueError, match="width: 6 then, 7 now"):
        experiment.main(dataclasses.replace(result.config, width=7))
    found = json.loads((result.path / "config.json").read_text())
    assert found["width"] == 6
