"""The IWAE table, small: two cells on the digits, killed, resumed and extended."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from experiment_cycle import check_whole
from scipy.special import logsumexp
from scipy.stats import norm

from experiments.iwae_table import cells
from experiments.iwae_table import measure as experiment
from experiments.iwae_table.cells import Cell
from experiments.iwae_table.config import Config
from lvm_jax import data, training
from lvm_jax.report import execute

SMALL = {
    "objectives": ("iwae",), "samples": (1, 2), "layers": (1,), "num_stages": 2, "width": 6,
    "latent_dim": 2, "curve_points": 8, "evaluation_points": 20, "evaluation_samples": 300,
}  # fmt: skip
NAMES = ["burda-vae-k1-layers1", "burda-iwae-k2-layers1"]


def run(config, out):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "PIECE", 8)
        return execute("experiments.iwae_table", config, out)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(Config(**SMALL), tmp_path_factory.mktemp("table") / "run")


def test_the_grid_is_that_of_the_paper():
    grid = experiment.grid(Config())
    assert len(grid) == len(set(grid)) == 2 * 5
    assert [(c.objective, c.num_samples) for c in grid if c.num_layers == 2] == [
        ("vae", 1), ("vae", 5), ("vae", 50), ("iwae", 5), ("iwae", 50)
    ]  # fmt: skip
    only = experiment.grid(Config(objectives=("iwae",), samples=(1,), layers=(1,)))
    assert only == [Cell("burda", "vae", 1, 1)]
    assert len(set(experiment.PUBLISHED["mnist"]) & {cell[1:] for cell in grid}) == 10


def test_the_networks_are_the_papers():
    one, two = (cells.describe(Cell("burda", "vae", 1, n), 784, Config()) for n in (1, 2))
    assert (one.latent_dims, one.hidden) == ((50,), ((200, 200),))
    assert (two.latent_dims, two.hidden) == ((100, 50), ((200, 200), (100, 100)))


def test_the_schedules_end_where_the_paper_says():
    config = Config(num_stages=8)
    cell = Cell("burda", "vae", 1, 1)
    assert cells.milestones(cell, config) == [1, 4, 13, 40, 121, 364, 1093, 3280]
    assert cells.progress_of(cell, 121, config) == "5 of 8 stages"
    short = cell._replace(schedule="short")
    assert cells.milestones(short, config) == [1, 4, 13, 40, 60]
    assert cells.progress_of(short, 60, config) == "short, 60 of 60"


def test_test_images_are_in_a_random_order():
    images = cells.load(Config()).test
    fixed = data.binarized(data.load_images("digits"), "dynamic", 0).test
    assert not np.array_equal(images, fixed)
    as_rows = [sorted(map(bytes, rows.astype(np.uint8))) for rows in (images, fixed)]
    assert as_rows[0] == as_rows[1]


def mlp(layers, x):
    """A saved network in NumPy."""
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), layers)
    for name in ("hidden_0", "hidden_1"):
        x = np.tanh(x @ layers[name]["kernel"] + layers[name]["bias"])
    return x @ layers["output"]["kernel"] + layers["output"]["bias"]


def test_log_p_of_the_saved_model_is_the_integral_over_z(finished):
    # In NumPy, from the arrays on disk: a trapezoidal rule over z in [-7, 7]^2.
    result = finished.result
    folder = finished.path / "cells" / NAMES[1] / "epochs-00004"
    saved = training.load(folder)
    axis = np.linspace(-7, 7, 241)
    z = np.stack([a.ravel() for a in np.meshgrid(axis, axis)], 1)
    logits = mlp(saved.p.theta.decoder, z)
    x = cells.load(result.config).test[:20]
    log_joint = x @ logits.T - np.logaddexp(0, logits).sum(1) + norm.logpdf(z).sum(1)
    exact = logsumexp(log_joint, axis=1) + 2 * np.log(axis[1] - axis[0])
    found = result.records[1][-1].evidence
    assert len(found.log_evidence) == 20
    assert (found.k_hat < 0.7).all()
    assert (np.abs(found.log_evidence - exact) < 5 * found.standard_error + 1e-4).all()


def test_a_killed_run_ends_with_the_same_numbers_and_is_extended(result, tmp_path, monkeypatch):
    real, calls = cells.evidence.evaluate, []

    def die(*args, **options):  # after the second stage of the first cell, within its evaluation
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(cells.evidence, "evaluate", die)
        with pytest.raises(KeyboardInterrupt, match="resume it"):
            run(dataclasses.replace(result.config, samples=(1,)), tmp_path / "run")
    again = run(result.config, tmp_path / "run").result  # with one more cell
    records = (itertools.chain(*one.records) for one in (result, again))
    for mine, theirs in zip(*records, strict=True):
        jax.tree.map(np.testing.assert_array_equal, mine.evidence, theirs.evidence)
        assert mine.trained._replace(seconds=0) == theirs.trained._replace(seconds=0)
    # A longer command adds to it: a larger evaluation keeps what a smaller one found, and without
    # minutes for training no stage begins.
    folder = tmp_path / "run" / "cells" / NAMES[0] / "epochs-00004"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("evidence-*")}
    pieces = [f"evidence-k300-{a:05d}-{b:05d}.npz" for a, b in ((0, 8), (8, 16), (16, 20))]
    assert sorted(before) == pieces
    more = dataclasses.replace(result.config, evaluation_points=24, num_stages=8, budget=0.0)
    found = run(more, tmp_path / "run").result
    assert all((folder / name).stat().st_mtime_ns == time for name, time in before.items())
    assert [[r.trained.epochs for r in records] for records in found.records] == [[1, 4]] * 2
    assert {records[-1].done for records in found.records} == {"2 of 8 stages"}
    one, other = (r.records[0][-1].evidence.log_evidence for r in (result, found))
    assert len(other) == 24
    np.testing.assert_allclose(other[:20], one, rtol=1e-6)  # images 16 to 19 in a piece of 8, not 4
    with pytest.raises(ValueError, match="budget: expected enough minutes"):
        run(more, tmp_path / "other")


def test_active_units_are_of_the_test_images(finished):
    result = finished.result
    for record in itertools.chain(*result.records):
        (variance,), (number,) = record.trained.variance, record.trained.active
        assert len(variance) == 2
        assert number == sum(v > 0.01 for v in variance)
    # One layer: E[z] is the mean of a mean-field q, an MLP of x and the family's offset.
    folder = finished.path / "cells" / NAMES[0] / "epochs-00004"
    saved = training.load(folder)
    means = mlp(saved.q.phi.network, cells.load(result.config).test)[:, :2]  # but for a constant
    trained = result.records[0][-1].trained
    np.testing.assert_allclose(trained.variance[0], means.var(0, ddof=1), rtol=1e-3)


def test_the_page_has_both_errors_and_the_part_of_the_schedule(finished):
    check_whole(finished, "training", "units")
    page = (finished.path / "report.html").read_text()
    evidence = finished.result.records[0][-1].evidence
    done = cells.summary(evidence)
    error = (evidence.standard_error.astype(float) ** 2).sum() ** 0.5 / 20
    assert done.monte_carlo_error == pytest.approx(error)
    log_p = f"{done.log_evidence:.2f}".replace("-", "−")
    for text in ("2 of 8 stages", log_p, f"{error:.3f}", f"{done.num_untrusted} of 20"):
        assert text in page, text


def test_differences_to_the_vae_are_paired(result):
    (row,) = experiment.differences(result)
    mine, base = (records[-1].evidence.log_evidence for records in result.records[::-1])
    gap = mine.astype(float) - base.astype(float)
    assert row.cell == result.records[1][0].cell
    assert row.mean == pytest.approx(gap.mean())
    assert row.standard_error == pytest.approx(gap.std(ddof=1) / 20**0.5)
