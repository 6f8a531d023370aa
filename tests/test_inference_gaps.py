"""The inference_gaps experiment, once from end to end, on a VAE whose gaps have closed forms."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from experiment_cycle import check_whole
from scipy.stats import multivariate_normal

from experiments import inference_gaps as experiment
from experiments import inference_gaps_measure as measures
from experiments import inference_gaps_models as models
from lvm_jax import training
from lvm_jax.decomposition import Measured

NAMES = models.FAMILIES
PREPARE = models.prepare
LOADINGS = 0.1 * np.array([[1.2, 0.9], [-0.5, -0.8], [0.7, 0.9]])  # correlated posteriors
NOISE = 0.07
SIZES = {
    "latent_dim": 2, "num_points": 20, "num_samples": 1_000, "num_steps": 300, "num_draws": 5,
    "num_temperatures": 300, "num_chains": 24, "num_leapfrogs": 3, "num_simulated": 40,
    "importance_samples": 2_000, "flow_layers": 1, "flow_hidden": (4,), "start": "guide",
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("compile_quickly")


def starts():
    """theta and phi where the training begins: the best mean-field q, made wrong."""
    precision = np.eye(2) + LOADINGS.T @ LOADINGS / NOISE**2
    kernel = (np.linalg.inv(precision) @ LOADINGS.T / NOISE**2).T
    kernel = kernel + 0.5 * np.random.default_rng(1).standard_normal((3, 2))
    error, log_scale = np.array([0.1, -0.15]), np.array([-0.7, -1.0])
    decoder = {"kernel": LOADINGS.T, "bias": np.full(3, 0.5)}
    network = {
        "kernel": np.concatenate([kernel, np.zeros((3, 2))], 1),
        "bias": np.concatenate([error - 0.5 * kernel.sum(0), log_scale]),
    }
    free = np.float64(8 * np.arctanh(np.log(NOISE) / 8))  # s = exp(8 tanh(u / 8))
    return jax.tree.map(np.float32, (decoder, free, network))


def started(inputs):
    """The inputs with these parameters in place of random ones."""
    decoder, free, network = starts()

    def replaced(built):
        def theta(key):
            return built.model.init(key)._replace(decoder={"output": decoder}, likelihood=free)

        def phi(key):
            return built.guide.init(key)._replace(network={"output": network})

        guide = built.guide._replace(init=phi)
        return built._replace(model=built.model._replace(init=theta), amortized=guide, guide=guide)

    prepared = [one._replace(built=replaced(one.built)) for one in inputs.prepared]
    return inputs._replace(prepared=prepared)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A linear decoder with one learned variance, trained for an epoch on data of its own."""
    folder = tmp_path_factory.mktemp("gaps")
    rng = np.random.default_rng(0)
    x = 0.5 + rng.normal(size=(300, 2)) @ LOADINGS.T + NOISE * rng.normal(size=(300, 3))
    np.save(folder / "rows.npy", x.clip(0, 1).astype(np.float32).reshape(300, 1, 3))
    config = experiment.Config(
        guides=("mean_field",), dataset=str(folder / "rows.npy"), split="200/40/60",
        likelihood="gaussian", hidden=(), epochs=1, batch_size=50, learning_rate=1e-3,
        out=folder / "run", **SIZES,
    )  # fmt: skip
    inputs = started(models.prepare(config))
    with pytest.MonkeyPatch.context() as patch:  # the same functions for all runs of this file
        patch.setattr(models, "prepare", lambda config: inputs)
        result = experiment.main(config)
        written = json.loads((folder / "run" / "results.json").read_text())
        yield result, inputs.x.astype(np.float64), written


@pytest.fixture(scope="module")
def exact(run):
    """Of x | z ~ N(W z + b, s^2 I): W, b, s, log p and log p - ELBO of the points, the best gap."""
    result, x, _ = run
    (one,) = result.trained
    theta, phi = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (one.theta, one.phi))
    assert not np.array_equal(theta.decoder["output"]["kernel"], starts()[0]["kernel"])  # trained
    w, b = theta.decoder["output"]["kernel"].T, theta.decoder["output"]["bias"]
    s = np.exp(8 * np.tanh(theta.likelihood / 8))
    precision = np.eye(2) + w.T @ w / s**2
    log_det = np.linalg.slogdet(precision)[1]
    means = (x - b) @ w @ np.linalg.inv(precision) / s**2
    loc, log_scale = np.split(
        x @ phi.network["output"]["kernel"] + phi.network["output"]["bias"], 2, 1
    )
    loc, log_scale = loc + phi.offset.loc, log_scale + phi.offset.log_scale
    squares = np.exp(2 * log_scale) @ np.diag(precision)
    squares += np.einsum("nd,de,ne->n", loc - means, precision, loc - means)
    kl = 0.5 * (squares - 2 - log_det) - log_scale.sum(1)
    log_p = multivariate_normal(b, w @ w.T + s**2 * np.eye(3))
    return log_p, kl, 0.5 * (np.log(np.diag(precision)).sum() - log_det)


def pooled(found):
    """The mean over all 40 points, and its error."""
    return np.mean(found.value), np.sqrt(np.sum(found.standard_error**2)) / 40


def test_the_gaps_of_a_linear_gaussian_model_are_the_closed_forms(run, exact):
    """The best mean-field q has variances 1 / Lambda_dd: 1/2 log(prod Lambda_dd / det Lambda)."""
    found, (_, kl, best) = run[0].found["mean_field"], exact
    field, full, flow = (found.gaps.families[name] for name in NAMES)
    assert best > 0.2
    assert np.mean(kl) > best + 0.05
    for got, want in (
        (found.gaps.inference, kl), (field.approximation, best),
        (field.amortization, kl - best), (full.approximation, 0.0), (full.amortization, kl),
    ):  # fmt: skip
        value, error = pooled(got)
        # 24 chains are low by half their variance, and 300 steps end near the best, not there.
        assert np.abs(value - np.mean(want)) < 5 * error + 2e-3
        assert error < 0.02 * max(np.mean(want), best)
    assert pooled(flow.approximation)[0] < 0.6 * best


def test_log_p_is_that_of_the_model(run, exact):
    result, x, _ = run
    found, log_p = result.found["mean_field"], exact[0].logpdf(x)
    for way in (found.annealed.evidence, found.importance):
        value, error = pooled(measures.measured(way))
        assert np.abs(value - log_p.mean()) < 5 * error + 2e-3
        assert error < 0.03
    # The truth on the simulated points lies between the bounds, as their means go.
    simulated = exact[0].logpdf(found.bounds.x).mean()
    assert found.bounds.lower - 0.05 < simulated < found.bounds.upper + 0.05
    assert found.bounds.gap < 0.1


def test_the_summary_is_of_the_points(run):
    found = run[0].found["mean_field"]
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


def test_what_is_written(run):
    result, _, written = run
    assert list(written["models"]) == ["mean_field"]
    for name, said in written["models"].items():
        found = result.found[name]
        for part, rows in (("train", slice(20)), ("test", slice(20, 40))):
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
    test = written["models"]["mean_field"]["test"]["inference"]["value"]
    assert f"{test:.3f}\N{NO-BREAK SPACE}±" in (result.path / "report.html").read_text()


def test_a_run_goes_on_where_it_stopped(run):
    """Its training is done, and not done again; the measurements are the same bits."""
    result, _, written = run
    history = result.path / "models" / "mean_field" / "metrics.jsonl"
    before = history.read_text()
    again = experiment.main(dataclasses.replace(result.config, resume=True))
    assert history.read_text() == before
    jax.tree.map(np.testing.assert_array_equal, result.found, again.found)
    assert json.loads((result.path / "results.json").read_text())["models"] == written["models"]
    other = dataclasses.replace(result.config, resume=True, num_steps=301)
    with pytest.raises(ValueError, match=r"other options \(num_steps: 300 then, 301 now\)"):
        experiment.main(other)


def test_saved_models_give_the_same_numbers(run, tmp_path, monkeypatch):
    """Loaded again the images are those of their training, and the numbers the same bits."""
    result, *_ = run
    known = {one.name: one for one in result.trained}
    load = training.load_model

    def load_shared(folder, build):  # the same functions, so that nothing compiles again
        saved, one = load(folder, build), known[folder.name]
        return saved._replace(model=one.model, guide=one.guide)

    monkeypatch.setattr(training, "load_model", load_shared)
    monkeypatch.setattr(models, "prepare", PREPARE)
    folders = tuple(one.folder for one in result.trained)
    config = experiment.Config(models=folders, out=tmp_path / "again", **SIZES)
    again = experiment.main(config)
    for name, found in result.found.items():
        jax.tree.map(np.testing.assert_array_equal, found, again.found[name])
    assert not (tmp_path / "again" / "models").exists()
