"""The options of the VAE experiment: every word builds something, and the others are refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_cases import quick_jit

from experiments import vae as experiment
from experiments import vae_data, vae_models, vae_objectives, vae_setup
from lvm_jax import gradients, likelihoods
from lvm_jax.models import log_joint
from lvm_jax.training import Point, Progress
from lvm_jax.weights import log_weights


def describe(**options):
    values = {
        "shape": (4, 4), "high": 1.0, "likelihood": "bernoulli", "guide": "mean_field",
        "prior": "standard_normal", "latent_dims": (3,), "hidden": ((5,),), "components": 4,
        "levels": 3, "channels": (2,), "flow_hidden": (4,),
    } | options  # fmt: skip
    return vae_models.Description(**values)


TWO = {"latent_dims": (3, 2), "hidden": ((5,), (4,))}
DESCRIBED = {
    **{g: {"guide": g} for g in vae_models.GUIDES if g not in vae_models.HIERARCHICAL},
    **{g: {"guide": g, **TWO} for g in vae_models.HIERARCHICAL},
    "mixture": {"prior": "mixture"},
    "vamp": {"prior": "vamp"},
    "conv": {"network": "conv", "likelihood": "categorical", "high": 2.0},
    "refined": {"refine_steps": 2},
}


@pytest.mark.parametrize("options", DESCRIBED.values(), ids=DESCRIBED)
def test_a_model_is_built_from_its_json_and_its_guide_fits(options):
    d = describe(**options)
    model, guide = vae_models.build(json.loads(json.dumps(vae_models.to_json(d))))
    assert vae_models.describe(json.loads(json.dumps(vae_models.to_json(d)))) == d

    def draw(key):
        theta = model.init(key)
        q = guide.posterior(guide.init(key), jnp.zeros(16))
        return model.prior(theta).sample(seed=key), q.sample(seed=key)

    of_prior, of_q = jax.eval_shape(draw, jax.random.key(0))
    shapes = [jax.tree.map(lambda leaf: leaf.shape, z) for z in (of_prior, of_q)]
    assert shapes[0] == shapes[1]
    assert [leaf.shape[0] for leaf in jax.tree.leaves(of_q)] == list(d.latent_dims)


@pytest.mark.parametrize("name", likelihoods.LIKELIHOODS)
def test_digits_come_in_the_units_of_every_likelihood(name):
    config = vae_setup.filled(experiment.Config(likelihood=name))
    pixels = vae_data.load(config)
    d = vae_setup.describe(config, pixels)
    vae_data.check_support(pixels, vae_models.make_likelihood(d))
    grey = pixels.high == 16 if name in vae_data.INTEGERS else pixels.high == 1
    assert grey
    assert (pixels.transform is not None) == (name == "bernoulli")
    assert pixels.levels == (2 if name == "bernoulli" else 17)
    assert pixels.train.max() == pixels.high


def test_a_refined_guide_is_tied_to_theta_in_training():
    """The objective is the bound of the refined guide at the theta of the step, whatever it is."""
    d = describe(refine_steps=2, refine_rate=0.05)
    built = vae_models.make(d)
    config = vae_setup.filled(experiment.Config(refine_steps=2))
    climb = vae_objectives.make(config, built.guide, 10)
    x = (jnp.arange(16) % 3 == 0).astype(float)

    @quick_jit
    def both(key):
        theta, phi = built.model.init(key), built.amortized.init(key)
        point = Point(built.model, built.amortized, theta, phi, x)
        q = built.guide.posterior(vae_models.final_phi(d, theta, phi), x)
        want = log_weights(key, log_joint(built.model, theta, x), q, 5).mean()
        start = log_weights(
            key, log_joint(built.model, theta, x), built.amortized.posterior(phi, x), 5
        ).mean()
        return climb.objective(key, point, 5, jnp.int32(0)).objective, want, start

    for seed in (0, 1):
        found, want, start = both(jax.random.key(seed))
        assert found == pytest.approx(float(want), abs=1e-4)
        assert abs(found - start) > 1e-2  # the steps do move q


def test_every_bound_and_estimator_go_together_or_say_what_would():
    taken = 0
    for bound in vae_objectives.BOUNDS:
        for name, row in gradients.ESTIMATORS.items():
            config = vae_setup.filled(experiment.Config(bound=bound, estimator=name, num_samples=4))
            fits = row.bound == bound or name in vae_objectives.ANY_BOUND
            if fits and row.latent in ("any", "reparameterized"):
                vae_objectives.check(config)
                assert callable(vae_objectives.make_estimate(config))
                taken += 1
            else:
                with pytest.raises(ValueError, match="take one of .*reparameterized"):
                    vae_objectives.check(config)
    assert taken == 5 * 3 + 2 + 6  # three for any bound, two for the elbo alone, six for iwae


def test_one_word_is_enough():
    """What the other options have to be follows from it."""
    named = {
        "ladder": {"guide": "ladder"}, "vimco": {"estimator": "vimco"}, "iaf": {"guide": "iaf"},
        "layers": {"latent_dims": (8, 4)}, "warm": {"warm_up": 3}, "renyi": {"bound": "renyi"},
        "rloo": {"estimator": "leave_one_out"},
    }  # fmt: skip
    filled = {n: vae_setup.filled(experiment.Config(**options)) for n, options in named.items()}
    for config in filled.values():
        vae_setup.check(config)
    assert filled["ladder"].latent_dims == (8, 2)
    assert filled["layers"].guide == "bottom_up"
    assert (filled["vimco"].bound, filled["vimco"].num_samples) == ("iwae", 10)
    assert filled["iaf"].estimator == filled["warm"].estimator == "reparameterized"
    assert filled["renyi"].estimator == "doubly_reparameterized"
    assert filled["rloo"].num_samples == 10


def test_layers_and_latent_dims_go_together():
    """A layer that is not named has twice as many dimensions as the one above."""
    dims = {
        (2, None): (8, 2), (1, None): (2,), (3, None): (16, 8, 2), (2, (50,)): (100, 50),
        (3, (5,)): (20, 10, 5), (None, (100, 50)): (100, 50), (2, (7, 3)): (7, 3),
    }  # fmt: skip
    for (layers, named), want in dims.items():
        config = vae_setup.filled(experiment.Config(layers=layers, latent_dims=named))
        vae_setup.check(config)
        assert (config.latent_dims, config.layers) == (want, len(want))
        assert config.guide == ("bottom_up" if len(want) > 1 else "mean_field")


def test_burda_has_the_papers_eps_for_its_sums_over_a_batch():
    """Two steps of Adam on gradients as small as eps: those of its code, which sums them."""
    config = vae_setup.filled(experiment.Config(schedule="burda", batch_size=20))
    ours, papers = vae_objectives.optimizer(config, 10), optax.adam(1e-3, eps=1e-4)
    states, start = [one.init(jnp.zeros(3)) for one in (ours, papers)], jnp.zeros(3)
    for mean in (jnp.array([1e-6, -1e-5, 1e-2]), jnp.array([2e-6, 3e-5, 1e-3])):
        found, states[0] = ours.update(mean, states[0], start)
        want, states[1] = papers.update(20 * mean, states[1], start)
        np.testing.assert_allclose(found, want, rtol=1e-5)


def test_progress_says_what_it_knows():
    """Neither speed nor time left before the second call; no NaN."""
    now = Progress(12, 120, 1, -30.126, -30.126, None, float("nan"), float("nan"))
    assert experiment.told(now, 10) == "epoch 1 of 10: bound -30.13"
    later = now._replace(validation_bound=-31.0, samples_per_second=2345.6, seconds_left=59.6)
    assert experiment.told(later, 10) == (
        "epoch 1 of 10: bound -30.13, validation -31.00, 2,346 images/s, 60 s left"
    )
    assert experiment.told(later._replace(seconds_left=600.0), 10).endswith(", 10 min left")


def test_a_users_file_needs_its_number_of_levels(tmp_path):
    x = np.random.default_rng(0).integers(0, 5, (60, 5, 6)) / 4
    np.save(tmp_path / "mine.npy", x)
    options = {"dataset": str(tmp_path / "mine.npy"), "likelihood": "categorical"}
    with pytest.raises(ValueError, match="levels: expected how many grey levels"):
        vae_data.load(vae_setup.filled(experiment.Config(**options)))
    pixels = vae_data.load(vae_setup.filled(experiment.Config(levels=5, **options)))
    assert pixels.images.shape == (5, 6)
    assert np.unique(pixels.train).tolist() == [0, 1, 2, 3, 4]
