"""The inference_gaps experiment: what it refuses, and the models that it is given."""

import json

import jax
import numpy as np
import pytest

from experiments import inference_gaps as experiment
from experiments import inference_gaps_models as models
from experiments import inference_gaps_report, vae_models
from lvm_jax import training
from lvm_jax.guides import flow_family

DATA = {
    "dataset": "digits", "split": None, "binarization": "threshold", "likelihood": "bernoulli",
    "levels": None, "seed": 0,
}  # fmt: skip


def describe(guide="mean_field", shape=(8, 8)):
    return vae_models.Description(
        shape, 1.0, "bernoulli", guide, "standard_normal", (2,), ((4,),), rank=1, flow_layers=3,
        flow_hidden=(5,),
    )  # fmt: skip


def save(folder, described, **changed):
    """A run directory of a model that was never trained."""
    model, guide = vae_models.build(vae_models.to_json(described))
    keys = jax.random.split(jax.random.key(0))
    described = vae_models.to_json(described)
    training.save_model(folder, described, model.init(keys[0]), guide.init(keys[1]))
    (folder / "config.json").write_text(json.dumps(DATA | changed))
    return folder


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_points": 1}, "num_points: expected an integer >= 2, got 1"),
        ({"num_steps": 0}, "num_steps: expected an integer >= 1, got 0"),
        ({"guides": ("mean_feild",)}, "did you mean 'mean_field'"),
        ({"guides": ("iaf", "iaf")}, "guides: expected different names"),
        ({"guides": ()}, "guides: expected different names, at least one"),
        ({"reference": "max"}, "reference: expected one of annealed, larger"),
        ({"flow": "planar"}, "flow: expected one of coupling, iaf"),
        ({"account": "full_rnak"}, "account: expected one of mean_field, full_rank, coupling"),
        ({"latent_dim": 1}, "latent_dim: expected an integer >= 2, got 1"),
        ({"dataset": "cifar"}, "expected digits, mnist, .* got 'cifar'"),
        ({"guides": ("iaf",), "start": "guide"}, "start: expected prior with an iaf guide"),
        ({"resume": True}, "resume: expected --out"),
    ],
)
def test_refused_before_anything_is_written(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        experiment.main(experiment.Config(**options))
    assert not list(tmp_path.iterdir())


def test_models_that_do_not_go_together_are_refused(tmp_path):
    first = save(tmp_path / "a", describe())
    second = save(tmp_path / "b", describe("coupling"), seed=1)
    other = save(tmp_path / "c", describe(shape=(28, 28)))
    low_rank = save(tmp_path / "d", describe("low_rank"))

    def prepare(*folders, **options):
        return models.prepare(experiment.Config(models=folders, num_points=3, **options))

    with pytest.raises(ValueError, match="one set of images for all, got seed: 0 and 1"):
        prepare(first, second)
    with pytest.raises(ValueError, match=r"model of \(8, 8\) images"):
        prepare(other)
    with pytest.raises(ValueError, match="expected guides of mean_field, .*got 'low_rank'"):
        prepare(low_rank)
    with pytest.raises(training.CheckpointError, match="no good model in .*nowhere"):
        prepare(tmp_path / "nowhere")
    (second / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="expected run directories of `vae`"):
        prepare(second)


def test_names_of_loaded_models(tmp_path):
    folders = [save(tmp_path / name, describe()) for name in ("a", "b")]
    folders.append(save(tmp_path / "c", describe("coupling")))
    config = experiment.Config(models=tuple(folders), num_points=3, account="coupling")
    inputs = models.prepare(config)
    assert inputs.names == ["mean_field in a", "mean_field in b", "coupling"]
    assert inputs.prepared == []
    np.testing.assert_array_equal(inputs.is_train, [True] * 3 + [False] * 3)
    assert set(np.unique(inputs.x)) == {0.0, 1.0}
    shared = models.share_models(inputs.loaded)
    assert shared[0].model is shared[2].model


def test_chains_that_miss_too_much_are_told(tmp_path):
    one = models.load((save(tmp_path / "a", describe()),))
    result = experiment.Result(experiment.Config(), one, {}, np.array([True, False]), "", None, "")
    part = {"families": {models.MEAN_FIELD: {"approximation": {"value": 0.2}}}}
    told = {"mean_field": {"simulated": {"gap": 0.11}, "train": part, "test": part}}
    (note,) = inference_gaps_report.doubts(result, told)
    assert "mean_field: the chains miss up to 0.110 nats" in note.text
    told["mean_field"]["simulated"]["gap"] = 0.09  # less than a half
    assert inference_gaps_report.doubts(result, told) == []


def test_a_flow_guide_has_its_own_family():
    """Its q for any x is a member, whatever local flow the Gaussian guides get."""
    d, config = describe("coupling"), experiment.Config(flow="iaf", flow_layers=1)
    guide = vae_models.make_guide(d)
    phi = jax.eval_shape(guide.init, jax.random.key(0))
    q = jax.eval_shape(guide.posterior, phi, np.zeros(64, np.float32))
    eta = jax.eval_shape(models.families(d, config)[models.FLOW].init, jax.random.key(0))
    assert jax.tree.structure(eta) == jax.tree.structure(q)
    assert [a.shape for a in jax.tree.leaves(eta)] == [a.shape for a in jax.tree.leaves(q)]
    plain = models.families(describe(), config)[models.FLOW]
    want = flow_family("iaf", 2, 1, config.flow_hidden)
    shapes = [
        [a.shape for a in jax.tree.leaves(jax.eval_shape(f.init, jax.random.key(0)))]
        for f in (plain, want)
    ]
    assert shapes[0] == shapes[1]
