import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from training_cases import GUIDE, KEY, MODEL, data

from lvm_jax import evidence, guides, models, training

CONFIG = {"latent_dim": 2, "dim": 3}

READER = """
import json, sys
import jax, numpy as np
from lvm_jax import evidence, guides, models, training

def build(config):
    family = guides.full_rank(config["latent_dim"])
    return models.linear_gaussian(**config), guides.linear(family, config["dim"])

saved = training.load_model(sys.argv[1], build)
key, x = jax.random.key(1), np.array(json.loads(sys.argv[2]), np.float32)
z = saved.guide.posterior(saved.phi, x[0]).sample(seed=key)
found = evidence.evaluate(key, *saved[:4], x, 20)
decoded = saved.model.likelihood(saved.theta, z).sample(seed=key)
print(json.dumps([z.tolist(), decoded.tolist(), found.log_evidence.tolist()]))
"""


def build(config):
    family = guides.full_rank(config["latent_dim"])
    return models.linear_gaussian(**config), guides.linear(family, config["dim"])


@pytest.fixture
def saved(tmp_path):
    parameters = MODEL.init(KEY), GUIDE.init(jax.random.key(3))
    training.save_model(tmp_path, CONFIG, *parameters)
    return parameters


def test_another_process_encodes_decodes_and_evaluates_alike(tmp_path, saved):
    """From the directory alone: the numbers are the same in both processes."""
    x, root = data()[:3], Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path), json.dumps(x.tolist())],
        env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)
    theta, phi = saved
    key = jax.random.key(1)
    z = GUIDE.posterior(phi, x[0]).sample(seed=key)
    here = evidence.evaluate(key, MODEL, GUIDE, theta, phi, x, 20).log_evidence
    decoded = MODEL.likelihood(theta, z).sample(seed=key)
    for one, other in zip(there, (z, decoded, here), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_the_description_comes_back_and_a_second_save_replaces_the_first(tmp_path, saved):
    other = MODEL.init(jax.random.key(9))
    training.save_model(tmp_path, CONFIG | {"latent_dim": 2}, other, saved[1])
    found = training.load_model(tmp_path, build)
    assert found.config == CONFIG
    np.testing.assert_array_equal(found.theta.loadings, other.loadings)


def test_another_model_is_refused_by_its_leaves(tmp_path, saved):
    def wrong_size(config):
        return models.linear_gaussian(3, 3), GUIDE

    def wrong_structure(config):
        return models.deep_gaussian(2, 3), GUIDE

    with pytest.raises(
        ValueError, match=r"theta.prior_mean: expected float32\[3\], got float32\[2\]"
    ):
        training.load_model(tmp_path, wrong_size)
    with pytest.raises(
        ValueError, match="theta: expected the leaves .*mean_weight.*saved from another structure"
    ):
        training.load_model(tmp_path, wrong_structure)


def test_double_precision_is_not_lost_in_silence(tmp_path, saved):
    with jax.enable_x64(True):
        training.save_model(tmp_path, CONFIG, MODEL.init(KEY), GUIDE.init(KEY))
        assert training.load_model(tmp_path, build).theta.loadings.dtype == np.float64
    with pytest.raises(ValueError, match="expected float32.* got float64.* turn on jax_enable_x64"):
        training.load_model(tmp_path, build)


def test_missing_and_damaged_models_are_named(tmp_path, saved):
    (tmp_path / "model" / "facts.json").write_text("{}")
    with pytest.raises(training.CheckpointError, match="no good model in .*facts.json has 2 bytes"):
        training.load_model(tmp_path, build)
    with pytest.raises(
        training.CheckpointError, match="no good model in .*manifest.json is missing"
    ):
        training.load_model(tmp_path / "elsewhere", build)
    with pytest.raises(TypeError, match="config: expected JSON values"):
        training.save_model(tmp_path, {"model": MODEL.init}, *saved)


def test_a_kill_while_a_model_is_replaced_leaves_the_earlier_one(tmp_path, saved, monkeypatch):
    """Between the two renames it lies aside; it is found, and the next save keeps nothing old."""
    (tmp_path / "model").rename(tmp_path / ".replaced-model")
    found = training.load_model(tmp_path, build)
    np.testing.assert_array_equal(found.theta.loadings, saved[0].loadings)
    assert [entry.name for entry in tmp_path.iterdir()] == [
        ".replaced-model"
    ]  # a reader moves nothing
    rename = Path.rename

    def refuse(path, target):
        if path.name.startswith(".writing-"):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(training.CheckpointError, match="No space left"):
            training.save_model(tmp_path, CONFIG, MODEL.init(jax.random.key(9)), saved[1])
    found = training.load_model(tmp_path, build)
    np.testing.assert_array_equal(found.theta.loadings, saved[0].loadings)
    training.save_model(tmp_path, CONFIG, MODEL.init(jax.random.key(9)), saved[1])
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
