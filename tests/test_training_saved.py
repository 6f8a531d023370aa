import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from training_cases import GUIDE, KEY, MODEL, data

from lvm_jax import evidence, guides, models, training, vae
from lvm_jax.training import checkpoint
from lvm_jax.training.log import to_arrays
from lvm_jax.training.saved import write_model

CONFIG = {"latent_dim": 2, "dim": 3}

READER = """
import json, sys
import jax, numpy as np
from lvm_jax import evidence, guides, models, training

def build(config):
    family = guides.full_rank(config["latent_dim"])
    return training.Separate(
        models.linear_gaussian(**config), guides.linear(family, config["dim"])
    )

saved = training.load(sys.argv[1], build)
key, x = jax.random.key(1), np.array(json.loads(sys.argv[2]), np.float32)
z = saved.q(x[0]).sample(seed=key)
found = evidence.evaluate(key, saved.p, saved.q, x, 20)
decoded = saved.p.likelihood(z).sample(seed=key)
print(json.dumps([z.tolist(), decoded.tolist(), found.log_evidence.tolist()]))
"""


def build(config):
    family = guides.full_rank(config["latent_dim"])
    return training.Separate(models.linear_gaussian(**config), guides.linear(family, config["dim"]))


@pytest.fixture
def saved(tmp_path):
    parameters = training.Parameters(MODEL.init(KEY), GUIDE.init(jax.random.key(3)))
    write_model(tmp_path, CONFIG, parameters)
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
    here = evidence.evaluate(key, MODEL(theta), GUIDE(phi), x, 20).log_evidence
    decoded = MODEL.likelihood(theta, z).sample(seed=key)
    for one, other in zip(there, (z, decoded, here), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_second_save_replaces_the_first(tmp_path, saved):
    other = MODEL.init(jax.random.key(9))
    write_model(tmp_path, CONFIG | {"latent_dim": 2}, training.Parameters(other, saved[1]))
    found = training.load(tmp_path, build)
    assert found.config == CONFIG
    np.testing.assert_array_equal(found.p.theta.loadings, other.loadings)


def test_another_model_is_refused_by_its_leaves(tmp_path, saved):
    def wrong_size(config):
        return training.Separate(models.linear_gaussian(3, 3), GUIDE)

    def wrong_structure(config):
        return training.Separate(models.deep_gaussian(2, 3), GUIDE)

    with pytest.raises(
        ValueError, match=r"theta.prior_mean: expected float32\[3\], got float32\[2\]"
    ):
        training.load(tmp_path, wrong_size)
    with pytest.raises(
        ValueError, match="params: expected the leaves .*mean_weight.*saved from another structure"
    ):
        training.load(tmp_path, wrong_structure)


def test_double_precision_is_not_lost_in_silence(tmp_path, saved):
    with jax.enable_x64(True):
        write_model(tmp_path, CONFIG, training.Separate(MODEL, GUIDE).init(KEY))
        assert training.load(tmp_path, build).p.theta.loadings.dtype == np.float64
    with pytest.raises(ValueError, match="expected float32.* got float64.* turn on jax_enable_x64"):
        training.load(tmp_path, build)


def test_missing_and_damaged_models_are_named(tmp_path, saved):
    (tmp_path / "model" / "facts.json").write_text("{}")
    with pytest.raises(training.CheckpointError, match="no good model in .*facts.json has 2 bytes"):
        training.load(tmp_path, build)
    with pytest.raises(
        training.CheckpointError, match="no good model in .*manifest.json is missing"
    ):
        training.load(tmp_path / "elsewhere", build)
    for config in ({"model": MODEL.init}, {"rate": float("nan")}):
        with pytest.raises(TypeError, match="config: expected JSON values"):
            write_model(tmp_path, config, saved)


def test_a_kill_after_a_model_was_replaced_leaves_the_later_one(tmp_path, saved):
    """Both folders are there until the earlier one is removed."""
    shutil.copytree(tmp_path / "model", tmp_path / ".replaced-model")
    later, last = MODEL.init(jax.random.key(9)), MODEL.init(jax.random.key(7))
    shutil.rmtree(tmp_path / "model")
    write_model(tmp_path / "later", CONFIG, training.Parameters(later, saved[1]))
    shutil.move(tmp_path / "later" / "model", tmp_path / "model")
    found = training.load(tmp_path, build)
    np.testing.assert_array_equal(found.p.theta.loadings, later.loadings)
    write_model(tmp_path, CONFIG, training.Parameters(last, saved[1]))
    assert not (tmp_path / ".replaced-model").exists()
    np.testing.assert_array_equal(training.load(tmp_path, build).p.theta.loadings, last.loadings)


def reseal(folder):
    """A manifest that fits the files, as somebody writes who changed them on purpose."""
    manifest = {name: checkpoint.digest(folder / name) for name in checkpoint.files(folder)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def empty_manifest(folder):
    (folder / "manifest.json").write_text("{}")


def outside(folder):
    (folder.parent / "secret").write_text("x")
    edit(
        folder / "manifest.json",
        **{"arrays/../../secret": checkpoint.digest(folder / "facts.json")},
    )


def absolute(folder):
    edit(folder / "manifest.json", **{"/etc/hostname": [1, ""]})


def unlisted(folder):
    (folder / "arrays" / "d" / "extra.py").write_text("raise SystemExit")


def dangling(folder):
    (folder / "extra").symlink_to("nowhere")


def no_config(folder):
    (folder / "facts.json").write_text('{"empty_arrays": {}}')
    reseal(folder)


def large_empty(folder):
    edit(folder / "facts.json", empty_arrays={"theta.extra": ["float32", [10**6, 10**7]]})
    reseal(folder)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (empty_manifest, "manifest.json lists no files"),
        (outside, r"manifest.json lists arrays/\.\./\.\./secret, which is not inside the folder"),
        (absolute, "manifest.json lists /etc/hostname, which is not inside the folder"),
        (unlisted, "arrays/d/extra.py is not listed in manifest.json"),
        (dangling, "extra is not listed in manifest.json"),
        (no_config, "facts.json has no config"),
        (
            large_empty,
            r"a shape with a 0 for the empty array theta.extra, got \[1000000, 10000000\]",
        ),
    ],
)
def test_a_folder_that_was_tampered_with_is_refused_by_name(tmp_path, saved, harm, words):
    harm(tmp_path / "model")
    with pytest.raises(training.CheckpointError, match=words):
        training.load(tmp_path, build)


def test_an_array_larger_than_the_models_is_refused_before_it_is_read(tmp_path, saved, monkeypatch):
    """40 TB in the metadata of a few hundred bytes: a chunk that is absent reads as zeros."""
    folder = tmp_path / "model"
    shutil.rmtree(folder / "arrays")
    checkpoint.save_arrays(folder / "arrays", to_arrays("params", saved))
    monkeypatch.setattr(checkpoint, "load_arrays", lambda path: pytest.fail("arrays were read"))
    stored = checkpoint.load_shapes(folder / "arrays")
    assert stored.keys() == {*to_arrays("params", saved)}
    name = "params.theta.loadings"
    assert (stored[name].shape, stored[name].dtype) == ((3, 2), np.float32)
    large = stored | {name: jax.ShapeDtypeStruct((10**6, 10**7), np.float32)}
    monkeypatch.setattr(checkpoint, "load_shapes", lambda path: large)
    reseal(folder)
    with pytest.raises(
        ValueError, match=r"theta.loadings: expected float32\[3, 2\], got float32\[1000000"
    ):
        training.load(tmp_path, build)


LOADER = """
import sys
from pathlib import Path
from test_training_saved import build
from lvm_jax import training

training.load(sys.argv[1], build)  # what it imports and compiles, it has now
seen = []
sys.addaudithook(lambda event, args: seen.append(event))
training.load(sys.argv[1], build)
print("\\n".join(sorted(set(seen))))
"""


def test_loading_executes_no_code(tmp_path, saved):
    """CPython's audit events of a load: files are opened and listed, nothing is run or unpickled."""
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    events = set(done.stdout.split())
    assert "open" in events
    unsafe = {"exec", "compile", "pickle.find_class", "marshal.loads", "import", "subprocess.Popen",
              "os.system", "os.exec", "os.fork", "ctypes.dlopen", "socket.connect"}  # fmt: skip
    assert not events & unsafe


def test_a_kill_while_a_model_is_replaced_leaves_the_earlier_one(tmp_path, saved, monkeypatch):
    """Between the two renames it lies aside; it is found, and the next save keeps nothing old."""
    (tmp_path / "model").rename(tmp_path / ".replaced-model")
    found = training.load(tmp_path, build)
    np.testing.assert_array_equal(found.p.theta.loadings, saved[0].loadings)
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
            write_model(
                tmp_path, CONFIG, training.Parameters(MODEL.init(jax.random.key(9)), saved[1])
            )
    found = training.load(tmp_path, build)
    np.testing.assert_array_equal(found.p.theta.loadings, saved[0].loadings)
    write_model(tmp_path, CONFIG, training.Parameters(MODEL.init(jax.random.key(9)), saved[1]))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_fit_is_saved_with_the_architecture_of_its_pair(tmp_path):
    """Or with a description of one's own; a pair that has neither is refused."""
    architecture = vae.Architecture(
        shape=(3,), latent_dims=(2,), hidden=((),), likelihood="gaussian"
    )
    options = {"estimate": "reparameterized", "num_samples": 1, "optimizer": optax.sgd(0.01)}
    fit = training.fit(
        KEY, vae.build(architecture), None, data(), batch_size=40, num_epochs=1, **options
    )
    fit.save(tmp_path)
    found = training.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found.params, fit.params)
    assert vae.Architecture(**found.config) == architecture
    own = training.fit(KEY, MODEL, GUIDE, data(), batch_size=40, num_epochs=0, **options)
    with pytest.raises(TypeError, match=r"^config: .* got None for a Separate, .*vae\.build"):
        own.save(tmp_path)
    own.save(tmp_path, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, training.load(tmp_path, build).params, own.params)
    with pytest.raises(ValueError, match=r"^config: expected the fields of a vae\.Architecture"):
        training.load(tmp_path)
