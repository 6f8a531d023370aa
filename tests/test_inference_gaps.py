"""The inference_gaps experiment: on a model with closed gaps, and small from end to end."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiment_cycle import check_whole
from model_cases import CASES

from experiments import inference_gaps as experiment
from experiments import inference_gaps_measure as measures
from experiments import inference_gaps_models as models
from experiments.progress import Progress
from experiments.vae_models import Description
from lvm_jax import distributions, guides, training
from lvm_jax.decomposition import Measured

NAMES = models.FAMILIES
PREPARE = models.prepare
SILENT = Progress(lambda step, text: None)
SMALL = {
    "hidden": (8,), "latent_dim": 2, "epochs": 1, "batch_size": 200, "num_points": 4,
    "num_samples": 40, "num_steps": 10, "num_draws": 2, "num_temperatures": 4, "num_chains": 3,
    "num_leapfrogs": 1, "num_simulated": 4, "importance_samples": 50, "flow_layers": 1,
    "flow_hidden": (4,),
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture(scope="module")
def linear():
    """A linear-Gaussian model, its exact guide made wrong, 2 x 20 points, and what is measured."""
    model, theta, rows, *_ = CASES["diagonal"]()
    theta = theta._replace(loadings=jnp.array([[1.2, 0.9], [-0.5, -0.8], [0.7, 0.9]]))
    x = np.repeat(np.asarray(rows) * [[1.0], [0.5]], 20, axis=0).astype(np.float32)
    guide = guides.linear(guides.mean_field(2), 3)
    loc, log_scale = jnp.array([0.2, -0.4]), jnp.array([-0.9, -0.2])
    weight = 0.15 * np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
    phi = guides.Amortized(guides.families.MeanField(loc, log_scale), jnp.asarray(weight))
    one = models.Trained("linear", description(), model, guide, theta, phi, "")
    config = experiment.Config(
        num_samples=1_000, num_steps=300, num_draws=5, num_temperatures=800, num_chains=24,
        num_leapfrogs=3, num_simulated=40, importance_samples=2_000, flow_layers=1,
        flow_hidden=(4,), start="guide",
    )  # fmt: skip
    return one, x, measures.measure(one, x, config, SILENT)


def description():
    return Description((1, 3), 1.0, "gaussian", "mean_field", "standard_normal", (2,), ((),))


def pooled(found):
    """The mean over all 40 points, and its error."""
    return np.mean(found.value), np.sqrt(np.sum(found.standard_error**2)) / 40


def test_the_gaps_of_a_linear_gaussian_model_are_the_closed_forms(linear):
    """The best mean-field q has variances 1 / Lambda_dd: 1/2 log(prod Lambda_dd / det Lambda)."""
    one, x, found = linear
    posterior = [one.model.posterior(one.theta, row) for row in x[::20]]
    lower = np.asarray(posterior[0].cholesky, float)
    precision = np.linalg.inv(lower @ lower.T)
    best = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    q = [one.guide.posterior(one.phi, row) for row in x[::20]]
    kl = np.array([distributions.kl_divergence(*pair) for pair in zip(q, posterior, strict=True)])
    field, full, flow = (found.gaps.families[name] for name in NAMES)
    assert best > 0.2
    for got, want in (
        (found.gaps.inference, kl), (field.approximation, best),
        (field.amortization, kl - best), (full.approximation, 0.0), (full.amortization, kl),
    ):  # fmt: skip
        value, error = pooled(got)
        # 24 chains are low by half their variance, and 300 steps end near the best, not there.
        assert np.abs(value - np.mean(want)) < 5 * error + 2e-3
        assert error < 0.02 * max(np.mean(want), best)
    assert pooled(flow.approximation)[0] < 0.6 * best


def test_log_p_is_that_of_the_model(linear):
    one, x, found = linear
    log_p = np.array([one.model.log_evidence(one.theta, row) for row in x[::20]])
    for way in (found.annealed.evidence, found.importance):
        value, error = pooled(measures.measured(way))
        assert np.abs(value - log_p.mean()) < 5 * error + 2e-3
        assert error < 0.03
    # The truth on the simulated points lies between the bounds, as their means go.
    exact = np.mean([one.model.log_evidence(one.theta, row) for row in found.bounds.x])
    assert found.bounds.lower - 0.05 < exact < found.bounds.upper + 0.05
    assert found.bounds.gap < 0.1


def test_the_summary_is_of_the_points(linear):
    _, _, found = linear
    is_train = np.repeat([True, False], 20)
    said = measures.summary(found, is_train)
    gap = np.asarray(found.gaps.inference.value)[20:]
    test = said["test"]
    assert test["inference"]["value"] == pytest.approx(gap.mean(), rel=1e-5)
    error = gap.std(ddof=1) / np.sqrt(20)
    assert test["inference"]["sampling_error"] == pytest.approx(error, rel=1e-4)
    half = 2.093024 * error  # Student's 97.5% quantile at 19 degrees of freedom
    np.testing.assert_allclose(
        test["inference"]["interval"], (gap.mean() - half, gap.mean() + half), rtol=1e-4
    )
    best = np.maximum(found.annealed.evidence.log_evidence, found.importance.log_evidence)
    assert said["train"]["log_p"]["larger"]["value"] == pytest.approx(best[:20].mean(), rel=1e-5)
    assert test["untrusted"]["annealed"] is None  # 24 chains are too few to tell
    low = Measured(np.array([0.5, -0.2, -0.4]), np.array([0.1, 0.1, 0.1]))
    assert measures.above_log_p(low) == 1  # -0.4 is 4 errors below 0


@pytest.fixture(scope="module")
def one_family():
    """A family under every name, which then compiles once; the true ones are measured above."""
    family = guides.mean_field(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "families", lambda d, config: dict.fromkeys(NAMES, family))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_family):
    folder = tmp_path_factory.mktemp("gaps") / "run"
    config = experiment.Config(guides=("full_rank",), out=folder, **SMALL)
    inputs = models.prepare(config)
    with pytest.MonkeyPatch.context() as patch:  # the same functions for all runs of this file
        patch.setattr(models, "prepare", lambda config: inputs)
        result = experiment.main(config)
        yield result, json.loads((folder / "results.json").read_text())


def test_what_is_written(run):
    result, written = run
    assert list(written["models"]) == ["full_rank"]
    for name, said in written["models"].items():
        found = result.found[name]
        for part, rows in (("train", slice(4)), ("test", slice(4, 8))):
            gap = found.gaps.inference.value[rows].mean()
            assert said[part]["inference"]["value"] == pytest.approx(gap, rel=1e-4, abs=1e-5)
            assert list(said[part]["families"]) == list(NAMES)
            for family in said[part]["families"].values():
                total = family["approximation"]["value"] + family["amortization"]["value"]
                assert total == pytest.approx(gap, abs=1e-4)
        bounds = said["simulated"]
        assert bounds["gap"] == pytest.approx(bounds["upper"] - bounds["lower"], abs=1e-4)
    _, lines = check_whole(result, "gaps", "images", "parts", "reference")
    assert len(lines) == 1
    test = written["models"]["full_rank"]["test"]["inference"]["value"]
    assert f"{test:.3f}\N{NO-BREAK SPACE}±" in (result.path / "report.html").read_text()


def test_a_run_goes_on_where_it_stopped(run):
    """Its training is done, and not done again; the measurements are the same bits."""
    result, written = run
    history = result.path / "models" / "full_rank" / "metrics.jsonl"
    before = history.read_text()
    again = experiment.main(dataclasses.replace(result.config, resume=True))
    assert history.read_text() == before
    jax.tree.map(np.testing.assert_array_equal, result.found, again.found)
    assert json.loads((result.path / "results.json").read_text())["models"] == written["models"]
    other = dataclasses.replace(result.config, resume=True, num_steps=11)
    with pytest.raises(ValueError, match=r"other options \(num_steps: 10 then, 11 now\)"):
        experiment.main(other)


def test_saved_models_give_the_same_numbers(run, tmp_path, monkeypatch):
    """Loaded again the images are those of their training, and the numbers the same bits."""
    result, _ = run
    known = {one.name: one for one in result.trained}
    load = training.load_model

    def load_shared(folder, build):  # the same functions, so that nothing compiles again
        saved, one = load(folder, build), known[folder.name]
        return saved._replace(model=one.model, guide=one.guide)

    monkeypatch.setattr(training, "load_model", load_shared)
    monkeypatch.setattr(models, "prepare", PREPARE)
    folders = tuple(one.folder for one in result.trained)
    config = experiment.Config(models=folders, out=tmp_path / "again", **SMALL)
    again = experiment.main(config)
    for name, found in result.found.items():
        jax.tree.map(np.testing.assert_array_equal, found, again.found[name])
    assert not (tmp_path / "again" / "models").exists()
