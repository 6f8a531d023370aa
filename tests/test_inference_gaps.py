"""The inference_gaps experiment: one run, on a VAE whose gaps have closed forms; and its inputs."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from experiment_cycle import check_whole
from scipy.stats import multivariate_normal

from experiments.inference_gaps import measure, models
from experiments.inference_gaps.config import Config
from lvm_jax import training, vae
from lvm_jax.estimate import Estimate
from lvm_jax.guides import flow_family
from lvm_jax.report import execute
from lvm_jax.training.saved import write_model

NAMES = measure.FAMILIES
LOADINGS = 0.1 * np.array([[1.2, 0.9], [-0.5, -0.8], [0.7, 0.9]])  # correlated posteriors
NOISE = 0.07
SIZES = {
    "latent_dim": 2, "num_points": 20, "num_samples": 1_000, "num_steps": 300, "num_draws": 5,
    "num_temperatures": 300, "num_chains": 24, "num_leapfrogs": 3, "num_simulated": 40,
    "importance_samples": 2_000, "flow_layers": 1, "flow_hidden": (4,), "start": "guide",
}  # fmt: skip


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
    (prepared,), (decoder, free, network) = inputs.prepared, starts()
    theta = prepared.pair.model.init(jax.random.key(0))
    theta = theta._replace(decoder={"output": decoder}, likelihood=free)
    phi = prepared.pair.guide.init(jax.random.key(0))._replace(network={"output": network})
    return inputs._replace(prepared=[prepared._replace(start=training.Parameters(theta, phi))])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A linear decoder with one learned variance, trained for an epoch on data of its own."""
    folder = tmp_path_factory.mktemp("gaps")
    rng = np.random.default_rng(0)
    x = 0.5 + rng.normal(size=(300, 2)) @ LOADINGS.T + NOISE * rng.normal(size=(300, 3))
    np.save(folder / "rows.npy", x.clip(0, 1).astype(np.float32).reshape(300, 1, 3))
    config = Config(
        guides=("mean_field",), dataset=str(folder / "rows.npy"), split="200/40/60",
        likelihood="gaussian", hidden=(), epochs=1, batch_size=50, learning_rate=1e-3, **SIZES,
    )  # fmt: skip
    inputs = started(measure.load(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "load", lambda config: inputs)
        done = execute("experiments.inference_gaps", config, folder / "run")
    return done, inputs.x.astype(float)


@pytest.fixture(scope="module")
def result(finished):
    return finished[0].result


@pytest.fixture(scope="module")
def exact(finished):
    """Of x | z ~ N(W z + b, s^2 I): p(x), log p - ELBO of the points, the best mean-field gap."""
    done, x = finished
    (one,) = done.result.trained
    theta, phi = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (one.p.theta, one.q.phi))
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


def test_the_gaps_of_a_linear_gaussian_model_are_the_closed_forms(result, exact):
    """The best mean-field q has variances 1 / Lambda_dd: 1/2 log(prod Lambda_dd / det Lambda)."""
    found, (_, kl, best) = result.found["mean_field"], exact
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


def test_log_p_is_that_of_the_model(finished, result, exact):
    found, log_p = result.found["mean_field"], exact[0].logpdf(finished[1])
    for way in (found.annealed.evidence, found.importance):
        value, error = pooled(measure.estimated(way))
        assert np.abs(value - log_p.mean()) < 5 * error + 2e-3
        assert error < 0.03
    points = result.points
    errors = 5 * points["mean_field.importance_standard_error"] + 2e-3
    assert (np.abs(points["mean_field.importance_log_evidence"] - log_p) < errors).all()
    # The truth on the simulated points lies between the bounds, as their means go.
    simulated = exact[0].logpdf(found.bounds.x).mean()
    assert found.bounds.lower.value - 0.05 < simulated < found.bounds.upper.value + 0.05
    assert found.bounds.gap.value < 0.1


def test_the_numbers_are_means_of_the_points(finished, result):
    written = json.loads((finished[0].path / "results.json").read_text())
    assert list(written["models"]) == ["mean_field"]
    for part, rows in (("train", slice(20)), ("test", slice(20, 40))):
        points = {name: values[rows] for name, values in result.points.items()}
        assert (points["is_train"] == (part == "train")).all()
        found, gap = written["models"]["mean_field"][part], points["mean_field.inference_gap"]
        error = gap.std(ddof=1) / np.sqrt(20)
        half = 2.093024 * error  # Student's 97.5% quantile at 19 degrees of freedom
        assert found["inference"]["value"] == pytest.approx(gap.mean(), rel=1e-4)
        assert found["inference"]["sampling_error"] == pytest.approx(error, rel=1e-4)
        ends = (gap.mean() - half, gap.mean() + half)
        np.testing.assert_allclose(found["inference"]["interval"], ends, rtol=1e-4)
        ways = [points[f"mean_field.{way}log_evidence"] for way in ("", "importance_")]
        larger = np.maximum(*ways).mean()
        assert found["log_p"]["larger"]["value"] == pytest.approx(larger, rel=1e-5)
        assert found["untrusted"]["annealed"] is None  # 24 chains are too few for k-hat
        for name in NAMES:
            own = found["families"][name]
            total = own["approximation"]["value"] + own["amortization"]["value"]
            assert total == pytest.approx(found["inference"]["value"], abs=1e-4)
    low = Estimate(np.array([0.5, -0.2, -0.4]), np.array([0.1, 0.1, 0.1]))
    assert measure.above_log_p(low) == 1  # -0.4 is 4 errors below 0


def test_the_run_is_whole_and_its_model_is_loaded(finished, result):
    done, x = finished
    _, lines = check_whole(done, "gaps", "parts", "images", "reference")
    assert [line["model"] for line in lines if "model" in line] == ["mean_field"]
    inputs = measure.load(Config(models=(done.path / "models" / "mean_field",), num_points=20))
    jax.tree.map(np.testing.assert_array_equal, inputs.loaded[0].p.theta, result.trained[0].p.theta)
    np.testing.assert_allclose(inputs.x, x)


DATA = {
    "dataset": "digits", "split": None, "binarization": "threshold", "likelihood": "bernoulli",
    "levels": None, "seed": 0,
}  # fmt: skip


def describe(guide="mean_field", shape=(8, 8)):
    flow = {"num_layers": 3, "hidden": (5,), "context_dim": 2}
    options = flow if guide == "coupling" else {}
    return vae.Architecture(
        shape=shape, hidden=((4,),), guide=guide, guide_options=options, encoder_scale=1.0
    )


def save(folder, described, **changed):
    """A run's folder with a model whose parameters are 0."""
    shapes = jax.eval_shape(vae.build(described).init, jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    write_model(folder, dataclasses.asdict(described), zeros)
    (folder / "config.json").write_text(json.dumps(DATA | changed))
    return folder


def test_models_that_do_not_go_together_are_refused(tmp_path):
    first = save(tmp_path / "a", describe())
    second = save(tmp_path / "b", describe("coupling"), seed=1)
    other = save(tmp_path / "c", describe(shape=(28, 28)))
    low_rank = save(tmp_path / "d", describe("low_rank"))

    def load(*folders):
        return measure.load(Config(models=folders, num_points=3))

    with pytest.raises(ValueError, match="one set of images for all, got seed: 0 and 1"):
        load(first, second)
    with pytest.raises(ValueError, match=r"model of \(8, 8\) images"):
        load(other)
    with pytest.raises(ValueError, match="expected guides of mean_field, .*got 'low_rank'"):
        load(low_rank)
    with pytest.raises(training.CheckpointError, match="no good model in .*nowhere"):
        load(tmp_path / "nowhere")
    (second / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="expected folders of runs of `vae`"):
        load(second)


def test_names_of_loaded_models(tmp_path):
    folders = [save(tmp_path / name, describe()) for name in ("a", "b")]
    folders.append(save(tmp_path / "c", describe("coupling")))
    inputs = measure.load(Config(models=tuple(folders), num_points=3, account="coupling"))
    assert inputs.names == ["mean_field in a", "mean_field in b", "coupling"]
    assert inputs.prepared == []
    np.testing.assert_array_equal(inputs.is_train, [True] * 3 + [False] * 3)
    assert set(np.unique(inputs.x)) == {0.0, 1.0}
    first, _, third = (jax.tree.structure(one.p) for one in inputs.loaded)
    assert first == third  # compiled once


def test_a_flow_guide_has_its_own_family():
    """Its q for any x is a member, whatever local flow the Gaussian guides get."""
    described, config = describe("coupling"), Config(flow="iaf", flow_layers=1)
    guide = vae.build(described).guide
    phi = jax.eval_shape(guide.init, jax.random.key(0))
    q = jax.eval_shape(guide.posterior, phi, np.zeros(64, np.float32))

    def shapes(family):
        eta = jax.eval_shape(family.init, jax.random.key(0))
        return jax.tree.structure(eta), [a.shape for a in jax.tree.leaves(eta)]

    own = shapes(models.families(described, config)[models.FLOW])
    assert own == (jax.tree.structure(q), [a.shape for a in jax.tree.leaves(q)])
    plain = shapes(models.families(describe(), config)[models.FLOW])
    assert plain == shapes(flow_family("iaf", 2, 1, config.flow_hidden))
