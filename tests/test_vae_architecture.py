"""`lvm_jax.vae`: what an architecture is built into, where it starts, and what it refuses."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn_vae_cases import DATA, D, X

from lvm_jax import guides, likelihoods, networks, training, vae
from lvm_jax.training.saved import write_model
from lvm_jax.vae import Architecture, build, start
from lvm_jax.vae.building import build_saved

IMAGE = {"shape": (4, 4), "latent_dims": (3,), "hidden": ((5,),)}
TWO = {"latent_dims": (3, 2), "hidden": ((6, 5), (4,))}
FLOW = {"num_layers": 1, "hidden": (4,), "context_dim": 3}
LEVELS = {"discretized_logistic": {"num_levels": 17}, "categorical": {"num_levels": 8}}
CASES = {
    "mean_field": {},
    "full_rank": {"guide": "full_rank"},
    "low_rank": {"guide": "low_rank", "guide_options": {"rank": 2}},
    "iaf": {"guide": "iaf", "guide_options": FLOW},
    "coupling": {"guide": "coupling", "guide_options": FLOW | {"context_dim": 0}},
    "bottom_up": {"guide": "bottom_up", **TWO},
    "ladder": {"guide": "ladder", **TWO},
    "mixture": {"prior": "mixture", "prior_options": {"num_components": 4}},
    "vamp": {"prior": "vamp", "prior_options": {"num_components": 4}},
    "conv": {"channels": (2,), "likelihood": "categorical", "likelihood_options": {"num_levels": 3}},
    "refined": {"refine_steps": 2},
}  # fmt: skip
KEY = jax.random.key(0)
ROWS = (np.random.default_rng(1).random((30, 16)) < np.linspace(0.1, 0.9, 16)).astype(np.float32)


def make(**options):
    return Architecture(**IMAGE | options)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_a_model_is_built_from_its_json_and_its_guide_fits(options):
    a = make(**options)
    values = json.loads(json.dumps(dataclasses.asdict(a)))
    assert Architecture(**values) == a
    pair = build_saved(values)
    assert pair is build(a)  # the same functions
    assert (pair.refined is None) == (a.refine_steps == 0)

    def draw(key):
        p, q = pair(pair.init(key))
        return p.prior().sample(seed=key), q(jnp.zeros(16)).sample(seed=key)

    of_prior, of_q = jax.eval_shape(draw, KEY)
    shapes = [jax.tree.map(lambda leaf: leaf.shape, z) for z in (of_prior, of_q)]
    assert shapes[0] == shapes[1]
    assert [leaf.shape[0] for leaf in jax.tree.leaves(of_q)] == list(a.latent_dims)


def test_equal_words_build_the_same_functions():
    lists = Architecture(
        shape=[4, 4], latent_dims=[3], hidden=[[5]], guide="iaf",
        guide_options={"hidden": [4], "num_layers": 1, "context_dim": 3},
    )  # fmt: skip
    same = make(guide="iaf", guide_options=tuple(sorted(FLOW.items())))
    assert lists == same
    assert hash(lists) == hash(same)
    assert build(lists) is build(same)
    assert build(lists) is not build(make(guide="iaf"))
    assert lists.dim == 16


def test_the_widths_of_two_layers_mirror_each_other():
    """x 16 -> 6-5 -> z_1 3 -> 4 -> z_2 2: [in, out] of every kernel."""

    def kernels(tree):
        return [leaf.shape for leaf in jax.tree.leaves(tree) if leaf.ndim == 2]

    parts = build(make(guide="bottom_up", **TWO))
    theta, phi = jax.eval_shape(parts.model.init, KEY), jax.eval_shape(parts.guide.init, KEY)
    assert kernels(theta.decoder) == [(3, 5), (5, 6), (6, 16)]
    assert kernels(theta.layers) == [(2, 4), (4, 6)]
    assert kernels(phi[0]) == [(16, 6), (6, 5), (5, 6)]
    assert kernels(phi[1]) == [(3, 4), (4, 4)]
    phi = jax.eval_shape(build(make(guide="ladder", **TWO)).guide.init, KEY)
    assert kernels(phi.upward) == [(16, 6), (6, 5), (5, 4)]  # the last widths are features


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"likelihood": "gaussian"}, [0.0, 3.0, 7.0]),
        ({"likelihood": "poisson"}, np.log1p([0.0, 3.0, 7.0])),
        ({"likelihood": "categorical", "likelihood_options": {"num_levels": 8}}, [-1, -1 / 7, 1]),
        ({"likelihood": "poisson", "encoder_scale": 7.0}, [0, 3 / 7, 1]),
        ({"likelihood": "poisson", "encoder_scale": 1.0}, [0, 3, 7]),
    ],
)
def test_the_encoder_sees_numbers_of_unit_size(options, seen):
    """A linear mean-field encoder of kernel 1: the mean of q is the sum of what it sees."""
    guide = build(Architecture(shape=(3,), latent_dims=(1,), hidden=((),), **options)).guide
    phi = jax.tree.map(jnp.zeros_like, guide.init(KEY))
    weights = jnp.array([1.0, 10.0, 100.0])
    phi.network["output"]["kernel"] = jnp.stack([weights, jnp.zeros(3)], 1)
    found = guide.posterior(phi, jnp.array([0.0, 3.0, 7.0])).mean()
    np.testing.assert_allclose(found, [weights @ np.asarray(seen)], rtol=1e-6)


def test_parts_are_those_of_the_library():
    """theta and phi of an architecture, with networks that are put together by hand."""
    a = make(guide="low_rank", guide_options={"rank": 2}, encoder_scale=1.0, biases="zero")
    theta, phi = start(KEY, a, ROWS)
    decoder, encoder = networks.mlp(3, (5,), 16), networks.mlp(16, (5,), 12)
    guide = guides.amortized(guides.low_rank(3, 2), encoder.init, encoder.apply)
    key_theta, key_phi = jax.random.split(KEY)
    jax.tree.map(np.testing.assert_array_equal, phi, guide.init(key_phi))
    key_decoder = jax.random.split(key_theta, 4)[2]
    jax.tree.map(np.testing.assert_array_equal, theta.decoder, decoder.init(key_decoder))
    z = jnp.array([0.3, -1.0, 2.0])
    want = likelihoods.bernoulli(16).build((), decoder.apply(theta.decoder, z)).log_prob(ROWS[0])
    assert build(a).model.likelihood(theta, z).log_prob(ROWS[0]) == want
    q, by_hand = (g.posterior(phi, ROWS[1]) for g in (build(a).guide, guide))
    np.testing.assert_array_equal(q.log_prob(z), by_hand.log_prob(z))


@pytest.mark.parametrize("name", likelihoods.LIKELIHOODS)
def test_the_decoder_starts_at_the_mean_of_the_data(name, x64):
    x = DATA.get(name, X - X.mean(0))
    a = Architecture(
        shape=(D,), hidden=((5,),), likelihood=name, likelihood_options=LEVELS.get(name, {})
    )
    model = build(a).model
    theta, _ = start(KEY, a, x)
    theta.decoder["output"]["kernel"] = jnp.zeros_like(theta.decoder["output"]["kernel"])
    mean = model.likelihood(theta, jnp.zeros(2)).mean()
    if name == "continuous_bernoulli":  # started at a logit, its mean is nearer to 1/2
        assert (np.abs(mean - x.mean(0)) < np.abs(x.mean(0) - 0.5)).all()
    else:  # up to the bit or count that keeps logarithms finite, and the ends of the levels
        np.testing.assert_allclose(mean, x.mean(0), rtol=0.02, atol=0.03)


def bias(likelihood, x, **options):
    a = Architecture(shape=(len(x[0]),), hidden=((),), likelihood=likelihood, **options)
    return start(KEY, a, np.asarray(x, float))[0].decoder["output"]["bias"]


def test_initial_decoder_biases_are_smoothed(x64):
    """Of three rows: logits (2 + 1/2) / (3 + 1), rates (5 + 1/2) / 4, levels (n + 1/3) / 4."""
    close = np.testing.assert_allclose
    bits = [[1, 0], [1, 0], [0, 0]]
    close(bias("bernoulli", bits), np.log([2.5 / 1.5, 0.5 / 3.5]))
    close(bias("poisson", [[1], [0], [4]]), np.log([5.5 / 4]))
    levels = bias("categorical", [[0], [2], [2]], likelihood_options={"num_levels": 3})
    close(levels, np.log(np.array([4 / 3, 1 / 3, 7 / 3]) / 4))
    grey = [[0.0, 0.5], [0.0, 0.5], [0.6, 0.5]]  # deviations 0.08 ** 0.5, and at least 0.01
    found = bias("discretized_logistic", grey, likelihood_options={"num_levels": 11})
    close(found[:2], [0.2, 0.5])
    scales = np.log(np.array([0.08**0.5, 0.01]) * np.sqrt(3) / np.pi)
    close(8 * np.tanh(found[2:] / 8), scales)
    # As in the code of Burda et al.: log-odds of the mean within [0.001, 0.999].
    close(bias("bernoulli", bits, biases="log_odds"), logit([2 / 3, 0.001]))
    close(bias("bernoulli", bits, biases="zero"), [0, 0])


def test_a_convolution_starts_at_the_mean_over_pixels():
    theta, phi = start(KEY, make(channels=(2,)), ROWS)
    ones = ROWS.sum() + 0.5
    np.testing.assert_allclose(
        expit(theta.decoder["output"]["bias"]), [ones / (ROWS.size + 1)], rtol=1e-5
    )
    assert not phi.network["conv_0"]["bias"].any()


@pytest.mark.parametrize(
    "options", [{}, {"hidden": ((),)}, *map(CASES.get, ("bottom_up", "ladder"))]
)
def test_the_encoder_starts_at_zero_for_the_mean_row(options):
    """Bits are seen as -1 and 1; the first layer is zero at their mean, and not where biases are."""
    a = make(**options)
    networks_of = {"bottom_up": lambda p: p[0], "ladder": lambda p: p.upward[0]}
    for biases in ("data", "zero"):
        _, phi = start(KEY, dataclasses.replace(a, biases=biases), ROWS)
        layers = networks_of.get(a.guide, lambda p: p.network)(phi)
        layer = layers["hidden_0" if a.hidden[0] else "output"]
        value = (2 * ROWS.mean(0) - 1) @ layer["kernel"] + layer["bias"]
        assert (np.abs(value).max() < 1e-5) == (biases == "data")
        assert layer["bias"].any() == (biases == "data")


def test_pseudo_inputs_start_at_rows_of_the_data():
    theta, phi = start(KEY, make(**CASES["vamp"]), ROWS)
    gaps = np.abs(np.asarray(theta.prior.pseudo_inputs)[:, None] - ROWS).max(-1)
    assert len(set(gaps.argmin(1))) == 4
    assert (gaps.min(1) < 5 * 0.01 * ROWS.std()).all()
    # The prior is the mean of q at the pseudo-inputs.
    p, q = build(make(**CASES["vamp"]))(training.Parameters(theta, phi))
    z = jnp.full(jax.eval_shape(q(ROWS[0]).sample, seed=KEY).shape, 0.3)
    each = jax.vmap(lambda u: q(u).log_prob(z))(theta.prior.pseudo_inputs)
    want = jax.nn.logsumexp(each) - np.log(4)
    np.testing.assert_allclose(p.prior().log_prob(z), want, rtol=1e-5)


def test_the_family_is_that_of_q():
    """eta of a flow holds its context; a Gaussian's is all that the network gives."""
    for name in vae.ONE_LAYER:
        a = make(**CASES[name])
        guide = build(a).guide
        eta = jax.eval_shape(vae.family(a).init, KEY)
        offset = jax.eval_shape(guide.init, KEY).offset
        assert jax.tree.map(lambda leaf: leaf.shape, eta) == jax.tree.map(jnp.shape, offset)
    with pytest.raises(ValueError, match="guide: expected one of mean_field, .*, got 'ladder'"):
        vae.family(make(**CASES["ladder"]))


def test_a_saved_architecture_is_loaded(tmp_path):
    a = make(refine_steps=2)
    params = start(KEY, a, ROWS)
    write_model(tmp_path, dataclasses.asdict(build(a).architecture), params)
    saved = training.load(tmp_path)
    assert jax.tree.structure(saved[:2]) == jax.tree.structure(build(a)(params))
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(saved.params), strict=True):
        np.testing.assert_array_equal(one, other)
    for wrong, got in (({"dims": 4, "shape": [4]}, "got dims"), ({"guide": "iaf"}, "got no shape")):
        with pytest.raises(ValueError, match=f"expected the fields of a vae.Architecture, {got}"):
            build_saved(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": 16}, r"shape: expected \(D,\) or \(height, width\), got 16"),
        ({"shape": (4, 0)}, "shape: expected an integer >= 1, got 0"),
        ({"latent_dims": ()}, "latent_dims: expected at least one number"),
        ({"latent_dims": (0,)}, "latent_dims: expected an integer >= 1, got 0"),
        ({"hidden": (5,)}, "hidden: expected the widths of 1 networks, .* as .*200"),
        ({"hidden": 5}, "hidden: expected the widths of 1 networks, .* got 5"),
        ({"hidden": ((5,), (5,))}, "hidden: expected the widths of 1 networks"),
        ({"hidden": ((0,),)}, "hidden: expected an integer >= 1, got 0"),
        ({"activation": "than"}, "did you mean 'tanh'"),
        ({"likelihood": "bernouli"}, "likelihood: .* did you mean 'bernoulli'"),
        ({"guide": "full_rnak"}, "guide: .* did you mean 'full_rank'"),
        ({"prior": "mixtur"}, "prior: .* did you mean 'mixture'"),
        ({"biases": "zeros"}, "biases: .* did you mean 'zero'"),
        ({"shape": (16,), "channels": (2,)}, r"channels: expected \(\) for x of shape \(16,\)"),
        ({"encoder_scale": 0.0}, "encoder_scale: expected a number > 0, got 0"),
        ({"guide": "ladder"}, "guide: expected one of mean_field, .* for 1 stochastic"),
        (TWO, "guide: expected bottom_up or ladder for 2 stochastic"),
        ({"guide": "ladder", **TWO, "hidden": ((5,), ())}, "hidden: expected at least one width"),
        (
            {"guide": "bottom_up", **TWO, "prior": "vamp"},
            "prior: expected standard_normal or mixture with several stochastic layers, got 'vamp'",
        ),
        ({"prior": "vamp", "refine_steps": 1}, "prior: .* with refine_steps > 0, got"),
        ({"guide": "iaf", "refine_steps": 1}, "refine_steps: expected 0 for guide 'iaf'"),
        ({"refine_steps": -1}, "refine_steps: expected an integer >= 0, got -1"),
        ({"likelihood": "poisson", "biases": "log_odds"}, "biases: expected data or zero with a po"),
        ({"likelihood_options": {"levels": 3}}, "'bernoulli' takes no options, got 'levels'"),
        ({"guide_options": {"rank": 1}}, "guide='mean_field' takes no options, got 'rank'"),
        ({"prior": "vamp", "prior_options": {"k": 1}}, "takes num_components, got 'k'"),
        ({"guide": "low_rank", "guide_options": {"rank": 3}}, "guide='low_rank': rank: expected few"),
        ({"guide": "coupling", "latent_dims": (1,)}, "guide='coupling': dim: expected an integer"),
        ({"prior": "mixture", "prior_options": {"num_components": 0}}, "num_components: expected an"),
        ({"likelihood": "categorical", "likelihood_options": {"num_levels": 1}}, "num_levels: exp"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(make(**options))


def test_bad_options_and_rows_are_refused():
    with pytest.raises(TypeError, match="guide_options: expected a dictionary of options, got 3"):
        make(guide_options=3)
    with pytest.raises(ValueError, match=r"x: expected rows of 16 numbers, got shape \(30, 15\)"):
        start(KEY, make(), ROWS[:, 1:])
    with pytest.raises(ValueError, match="prior='vamp': start: expected at least 4 rows"):
        start(KEY, make(**CASES["vamp"]), ROWS[:3])
