"""Fits on disk: the same draws and densities without the model, and damaged folders."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax import vi
from lvm_jax.distributions.mixtures import NormalMixture
from lvm_jax.training.checkpoint import CheckpointError

KEY = jax.random.key(3)
START = {"tau": np.float32(1.0), "beta": [np.zeros(2, np.float32), (np.zeros(1, np.float32),)]}
pytestmark = pytest.mark.usefixtures("unrefined_file")


def log_density(z):
    first, (second,) = z["beta"]
    return -0.5 * (first**2).sum() - (second**2).sum() - z["tau"] + 2 * jnp.log(z["tau"])


def fitted(**given):
    return vi.fit(KEY, log_density, START, constrain={"tau": "positive"}, num_draws=1, **given)


@pytest.fixture(scope="module")
def full_rank(unrefined_file):
    return fitted(max_evaluations=500)


FITS = {
    "full rank": dict(max_evaluations=500),
    "mean field": dict(family="mean_field", max_evaluations=500),
    "flow": dict(family="flow", max_evaluations=500),
}


@pytest.mark.parametrize("name", FITS)
def test_a_loaded_q_draws_and_evaluates_as_the_fitted_one(name, tmp_path):
    found = fitted(**FITS[name])
    found.save(tmp_path)
    loaded = vi.load(tmp_path)
    z, log_q = found.q.sample_and_log_prob(seed=KEY, sample_shape=(5,))
    again, log_again = loaded.q.sample_and_log_prob(seed=KEY, sample_shape=(5,))
    jax.tree.map(np.testing.assert_array_equal, again, z)
    np.testing.assert_array_equal(log_again, log_q)
    assert loaded.reason is found.reason
    assert loaded.numbers["elbo"] == float(found.elbo.value)


def test_a_mixture_is_saved(full_rank, tmp_path):
    mixture = NormalMixture(
        jnp.log(jnp.array([[0.3], [0.7]])), jnp.arange(8.0).reshape(2, 4),
        jnp.broadcast_to(jnp.eye(4), (2, 4, 4)), jnp.ones(1),
    )  # fmt: skip
    q = replace(full_rank.q, base=replace(full_rank.q.base, flat=mixture))
    full_rank._replace(q=q).save(tmp_path)
    again = vi.load(tmp_path).q.sample(seed=KEY)
    jax.tree.map(np.testing.assert_array_equal, again, q.sample(seed=KEY))


def test_a_function_is_given_again(tmp_path):
    constrain = lambda u: (jnp.exp(u), u.sum())  # noqa: E731
    density = lambda z: (jnp.log(z) - z).sum()  # noqa: E731
    found = vi.fit(KEY, density, jnp.zeros(2), constrain=constrain, num_draws=1)
    found.save(tmp_path)
    with pytest.raises(ValueError, match="^constrain: expected a function, as in the fit"):
        vi.load(tmp_path)
    loaded = vi.load(tmp_path, constrain)
    np.testing.assert_array_equal(loaded.q.sample(seed=KEY), found.q.sample(seed=KEY))


def test_a_damaged_folder_is_refused(full_rank, tmp_path):
    folder = full_rank.save(tmp_path)
    with pytest.raises(ValueError, match="^constrain: expected none, as in the fit"):
        vi.load(tmp_path, lambda u: (u, 0.0))
    facts = folder / "facts.json"
    written = facts.read_text()
    facts.write_text(written.replace("FullRankNormal", "FullRankNormaL"))
    with pytest.raises(CheckpointError, match=r"no good fit .*facts\.json was changed"):
        vi.load(tmp_path)
    facts.unlink()
    with pytest.raises(CheckpointError, match=r"no good fit .*facts\.json is missing"):
        vi.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"no good fit .*manifest\.json is missing"):
        vi.load(tmp_path / "elsewhere")


def test_an_unknown_type_is_refused(full_rank, tmp_path):
    """A folder with a valid manifest whose description names another type, such as one with code."""
    from lvm_jax.training import checkpoint

    folder = full_rank.save(tmp_path)
    facts = json.loads((folder / "facts.json").read_text())
    facts["q"]["type"] = "eval"
    (folder / "facts.json").write_text(json.dumps(facts))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["facts.json"] = checkpoint.digest(folder / "facts.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="does not describe one .*eval"):
        vi.load(tmp_path)
