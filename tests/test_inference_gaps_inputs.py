"""The inference_gaps experiment: what it refuses, and the models that it is given."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.inference_gaps import measure
from experiments.inference_gaps.config import Config
from lvm_jax import training, vae
from lvm_jax.guides import flow_family
from lvm_jax.report import execute

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
    """A run's folder with a model that was never trained."""
    described = dataclasses.asdict(described)
    model, guide = vae.build_saved(described)
    keys = jax.random.split(jax.random.key(0))
    training.save_model(folder, described, model.init(keys[0]), guide.init(keys[1]))
    (folder / "config.json").write_text(json.dumps(DATA | changed))
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_points": 1}, "num_points: expected an integer that is at least 2, got 1"),
        ({"guides": ("mean_feild",)}, "did you mean 'mean_field'"),
        ({"guides": ("iaf", "iaf")}, "guides: expected different names"),
        ({"guides": ()}, "guides: expected different names, at least one"),
        ({"account": "full_rnak"}, "account: expected one of mean_field, full_rank, coupling"),
        ({"dataset": "cifar"}, "expected digits, mnist, .* got 'cifar'"),
        ({"activation": "rleu"}, "activation: .* did you mean 'relu'"),
        ({"guides": ("iaf",), "start": "guide"}, "start: expected prior with an iaf guide"),
        ({"epochs": 201}, "decay_epochs: expected at least epochs = 201"),
    ],
)
def test_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        execute("experiments.inference_gaps", Config(**options), tmp_path / "run")
    assert not list(tmp_path.iterdir())


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
    assert inputs.loaded[0].model is inputs.loaded[2].model  # compiled once


def test_a_flow_guide_has_its_own_family():
    """Its q for any x is a member, whatever local flow the Gaussian guides get."""
    described, config = describe("coupling"), Config(flow="iaf", flow_layers=1)
    guide = vae.build(described).guide
    phi = jax.eval_shape(guide.init, jax.random.key(0))
    q = jax.eval_shape(guide.posterior, phi, np.zeros(64, np.float32))

    def shapes(family):
        eta = jax.eval_shape(family.init, jax.random.key(0))
        return jax.tree.structure(eta), [a.shape for a in jax.tree.leaves(eta)]

    own = shapes(measure.families(described, config)[measure.FLOW])
    assert own == (jax.tree.structure(q), [a.shape for a in jax.tree.leaves(q)])
    plain = shapes(measure.families(describe(), config)[measure.FLOW])
    assert plain == shapes(flow_family("iaf", 2, 1, config.flow_hidden))
