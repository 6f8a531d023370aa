"""Data points that are pytrees: a part that is generated, a part that is given, and masks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_cases import quick_jit
from scipy.stats import multivariate_normal

from lvm_jax import (
    decomposition,
    diagnostics,
    evidence,
    guides,
    likelihoods,
    models,
    networks,
    priors,
    training,
)
from lvm_jax.distributions import Categorical, FullRankNormal, Successive, normal

KEY = jax.random.key(4)
N, D, K, C = 17, 3, 2, 2
RNG = np.random.default_rng(5)
WEIGHT = RNG.normal(size=(D, K)).astype(np.float32)
CONTEXT = RNG.normal(size=(D, C)).astype(np.float32)
DATA = {
    "x": RNG.normal(size=(N, D)).astype(np.float32),
    "c": RNG.normal(size=(N, C)).astype(np.float32),
}


def row_of(data, n):
    return jax.tree.map(lambda leaf: leaf[n], data)


def gaussian_given_c():
    """z ~ N(0, I), x | z, c ~ N(W z + V c, 0.5^2 I), with its posterior and log p(x | c)."""

    def mean_of(row):
        return jnp.asarray(CONTEXT) @ row["c"]

    def posterior(theta, row):
        precision = jnp.eye(K) + 4 * theta.T @ theta
        mean = jnp.linalg.solve(precision, 4 * theta.T @ (row["x"] - mean_of(row)))
        return FullRankNormal(mean, jnp.linalg.cholesky(jnp.linalg.inv(precision)))

    return models.Model(
        lambda key: jnp.asarray(WEIGHT),
        lambda theta, c: normal(jnp.zeros(K), jnp.ones(K)),
        lambda theta, z, c: normal(theta @ z + jnp.asarray(CONTEXT) @ c, jnp.full(D, 0.5)),
        posterior,
        observed="x",
        given=lambda row: row["c"],
    )


MODEL = gaussian_given_c()
P = MODEL(jnp.asarray(WEIGHT))


def truth():
    covariance = WEIGHT @ WEIGHT.T + 0.25 * np.eye(D)
    away = DATA["x"] - DATA["c"] @ CONTEXT.T
    return multivariate_normal(cov=covariance.astype(float)).logpdf(away)


def off(phi, row):
    """q that is off, and reads both parts of the data point."""
    exact = MODEL.posterior(jnp.asarray(WEIGHT), row)
    return normal(exact.mean + phi, 1.1 * jnp.sqrt((exact.cholesky**2).sum(1)))


Q = guides.Guide(lambda key: jnp.array([0.1, -0.2]), off)(jnp.array([0.1, -0.2]))


def test_evidence_of_a_conditional_model_is_exact_at_its_posterior():
    found = evidence.evaluate(KEY, P, guides.exact(P), DATA, 5)
    np.testing.assert_allclose(found.log_evidence, truth(), rtol=1e-4)


@pytest.mark.parametrize("name", ["evaluate", "evaluate_annealed", "certify", "gaps"])
def test_every_method_takes_trees(name):
    from lvm_jax import annealing

    plan = annealing.plan(annealing.linear(12), annealing.hmc(3))
    family = guides.mean_field(K)
    run = {
        "evaluate": lambda: evidence.evaluate(KEY, P, Q, DATA, 2_000),
        "evaluate_annealed": lambda: evidence.evaluate_annealed(KEY, P, None, DATA, 1_000, plan).evidence,
        "certify": lambda: evidence.certify(KEY, P, Q, DATA, tolerance=0.1, budget=1e5).as_evidence(),
        "gaps": lambda: decomposition.gaps(
            KEY, P, Q, DATA, families={"own": family}, num_samples=2_000, ascent=decomposition.Ascent(num_steps=30)
        ).log_evidence,
    }  # fmt: skip
    found = run[name]()
    value = found.value if name == "gaps" else found.log_evidence
    away = np.abs(np.asarray(value) - truth()) / np.asarray(found.standard_error)
    assert (away < 5).all()
    assert np.asarray(found.standard_error).max() < 0.6


def test_the_parts_of_the_elbo_add_up():
    """-(rate + distortion) of both parts of the data point is the ELBO of the closed form."""
    found = decomposition.channel(KEY, P, Q, DATA, 20_000)

    @quick_jit
    def elbo(row):
        joint, q = P.log_joint(row), Q(row)
        curvature = jnp.diagonal(jax.hessian(joint)(q.mean())) @ q.variance()
        return joint(q.mean()) + 0.5 * curvature + q.entropy()

    want = np.array([elbo(row_of(DATA, n)) for n in range(N)])
    total = -(np.asarray(found.rate.value) + np.asarray(found.distortion.value))
    assert (np.abs(total - want) < 5 * np.asarray(found.distortion.standard_error)).all()
    means = diagnostics.posterior_means(KEY, Q, DATA, 3)
    np.testing.assert_allclose(means[3], Q(row_of(DATA, 3)).mean(), rtol=1e-5)
    split = decomposition.surgery(KEY, P, Q, DATA, 500)
    kl = split.mutual_information.value + split.marginal_kl.value
    np.testing.assert_allclose(split.kl.value, kl, rtol=1e-4)


def test_every_way_to_feed_a_tree_gives_the_same_bits(tmp_path):
    def fit(data=DATA, **options):
        guide = guides.amortized(
            guides.mean_field(K), lambda key: jnp.zeros((2 * K, D + C)),
            lambda weight, row: weight @ jnp.concatenate([row["x"], row["c"]]),
        )  # fmt: skip
        return training.fit(
            KEY, MODEL, guide, data, estimate="reparameterized", num_samples=2,
            optimizer=optax.adam(0.05), batch_size=5, num_epochs=4, **options,
        )  # fmt: skip

    whole = fit(validation=DATA)
    assert np.isfinite(whole.history.validation_bound).all()
    assert whole.history.bound[-1] > whole.history.bound[0]
    stored = {}
    for name, leaf in DATA.items():
        stored[name] = np.memmap(tmp_path / name, np.float32, "w+", shape=leaf.shape)
        stored[name][:] = leaf
    fed = fit(stored, validation=DATA)
    cut = fit(validation=DATA, checkpoints=tmp_path, placement=training.Placement(steps_per_call=2))
    again = fit(validation=DATA, checkpoints=tmp_path)
    for other in (fed, cut, again):
        for one, two in zip(jax.tree.leaves(whole[:2]), jax.tree.leaves(other[:2]), strict=True):
            np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match=r"other settings .*x: "):
        fit(DATA | {"c": DATA["c"][::-1]}, validation=DATA, checkpoints=tmp_path)


def test_a_transform_of_a_tree():
    def transform(key, row):
        return row | {"x": row["x"] + 0.1 * jax.random.normal(key, (D,))}

    found = training.fit(
        KEY, MODEL, guides.exact(P).guide, DATA, estimate="reparameterized", num_samples=1,
        optimizer=optax.sgd(1e-3), batch_size=N, num_epochs=1, transform=transform,
    )  # fmt: skip
    assert np.isfinite(found.history.bound).all()
    bad = lambda key, row: {"x": row["x"][:2], "c": row["c"]}  # noqa: E731
    with pytest.raises(ValueError, match=r"transform: .* of shape \[3\] of a row of x, got \[2\]"):
        training.fit(
            KEY, MODEL, guides.exact(P).guide, DATA, estimate="reparameterized", num_samples=1,
            optimizer=optax.sgd(1e-3), batch_size=N, num_epochs=1, transform=bad,
        )  # fmt: skip


def test_a_decoder_takes_the_latent_and_what_is_given():
    decoder = networks.mlp(K + C, (4,), D)
    model = models.deep_latent_gaussian(
        priors.standard_normal(K), decoder, likelihoods.gaussian(D), observed="x",
        given=lambda row: row["c"],
    )  # fmt: skip
    p = model(model.init(KEY))
    row, z = row_of(DATA, 2), jnp.array([0.4, -1.1])
    outputs = decoder.apply(p.theta.decoder, jnp.concatenate([z, row["c"]]))
    want = -0.5 * (z**2).sum() - 0.5 * ((row["x"] - outputs) ** 2).sum() - 2.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(p.log_joint(row)(z), want, rtol=1e-5)
    draws = [p.sample(KEY, {"c": c}).x for c in DATA["c"][:2]]
    assert draws[0].shape == (D,)
    assert np.abs(draws[0] - draws[1]).max() > 1e-3  # the same noise at two contexts
    with pytest.raises(
        ValueError, match=r"x: expected a data point with what .*p\.sample\(key, x\)"
    ):
        p.sample(KEY)


def test_what_is_given_may_be_a_number_of_python():
    model = models.deep_latent_gaussian(
        priors.standard_normal(K), networks.mlp(K + 1, (), D), likelihoods.gaussian(D),
        observed="x", given=lambda row: row["age"][None],
    )  # fmt: skip
    p = model(model.init(KEY))
    want = p.sample(KEY, {"age": jnp.float32(0.5)}).x
    np.testing.assert_array_equal(p.sample(KEY, {"age": 0.5}).x, want)


FEW = DATA | {"mask": (RNG.random((N, D)) < 0.6).astype(np.float32)}
FEW["mask"][0] = 0


def linear_decoder(likelihood, other):
    """A model whose log p(x_observed) is a Gaussian's; `other` names the mask or the length."""
    prior, decoder = priors.standard_normal(K), networks.mlp(K, (), D)
    return models.deep_latent_gaussian(prior, decoder, likelihood, observed=("x", other))


def miwae():
    return linear_decoder(likelihoods.masked(likelihoods.gaussian, D), "mask")


def ragged():
    return linear_decoder(likelihoods.padded(likelihoods.gaussian, D), "length")


RAGGED = {"x": DATA["x"], "length": np.arange(N) % (D + 1)}


def test_missing_entries_are_integrated_out():
    """Of a linear decoder log p(x_observed) is a Gaussian's; and nothing that is missing is read."""
    model = miwae()
    p = model(model.init(KEY))
    layer = p.theta.decoder["output"]
    weight, bias = np.asarray(layer["kernel"], float).T, np.asarray(layer["bias"], float)

    def exact(row):
        seen = row["mask"] > 0
        if not seen.any():
            return 0.0
        w = weight[seen]
        return multivariate_normal(bias[seen], w @ w.T + np.eye(seen.sum())).logpdf(row["x"][seen])

    want = [exact(row_of(FEW, n)) for n in range(N)]

    def posterior(phi, row):
        kernel, seen = jnp.asarray(weight, jnp.float32), row["mask"]
        precision = jnp.eye(K) + (kernel * seen[:, None]).T @ kernel
        mean = jnp.linalg.solve(
            precision, kernel.T @ (seen * (row["x"] - jnp.asarray(bias, jnp.float32)))
        )
        return FullRankNormal(mean, jnp.linalg.cholesky(jnp.linalg.inv(precision)))

    q = guides.Guide(lambda key: (), posterior)(())
    found = evidence.evaluate(KEY, p, q, FEW, 3)
    np.testing.assert_allclose(found.log_evidence, want, atol=1e-4)
    other = FEW | {"x": np.where(FEW["mask"] > 0, FEW["x"], 7.0).astype(np.float32)}
    np.testing.assert_array_equal(
        evidence.evaluate(KEY, p, q, other, 3).log_evidence, found.log_evidence
    )


LEVELS = partial(likelihoods.categorical, num_levels=3)
MASKED = {
    **{name: make for name, make in likelihoods.LIKELIHOODS.items() if name != "categorical"},
    "categorical": LEVELS,
}


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_likelihood_is_the_product_over_what_is_there(name):
    """All of a mask of ones; of two masks that share the entries, the sum of both."""
    whole, part = MASKED[name](3), likelihoods.masked(MASKED[name], 3)
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.arange(leaf.size).reshape(leaf.shape), whole.init(KEY)
    )
    outputs = jnp.linspace(-0.7, 0.9, whole.num_outputs)

    @quick_jit
    def compute(x, left):
        p = part.build(params, outputs)
        masks = jnp.stack([jnp.ones(3), left, 1 - left, jnp.zeros(3)])
        each = jax.vmap(lambda mask: p.log_prob((x, mask)))(masks)
        q = whole.build(params, outputs)
        return q.log_prob(x), each, p.sample(seed=KEY), q.sample(seed=KEY)

    x, left = jnp.array([1.0, 0.0, 1.0]), jnp.array([0.0, 1.0, 0.0])
    want, (every, one, others, none), drawn, unmasked = jax.device_get(compute(x, left))
    np.testing.assert_allclose(every, want, rtol=1e-5)
    np.testing.assert_allclose(one + others, want, rtol=1e-5)
    assert none == 0
    assert one != others
    np.testing.assert_array_equal(drawn[0], unmasked)
    np.testing.assert_array_equal(drawn[1], np.ones(3))


REFUSED = {
    "lengths": (DATA | {"c": DATA["c"][:5]}, r"x: expected leaves with the same N, got \{.*c.*5, .*x.*17.*; give each leaf one row"),
    "no context": ({"x": DATA["x"]}, r"x: expected data points with what the model is given.*'c'.*; pass every part"),
    "no observed part": ({"c": DATA["c"]}, r"x: expected data points with a part 'x', got \['c'\]"),
    "another context": (DATA | {"c": DATA["c"][:, :1]}, "x: expected data points with what the model is"),
    "another shape": (DATA | {"x": DATA["x"][:, :2]}, r"x\['x'\]: expected shape \[N, 3\], as the"),
    "nan in the context": (DATA | {"c": DATA["c"] * np.nan}, r"x\['c'\]: expected finite numbers"),
    "an array": (DATA["x"], r"x: expected data points with a part 'x', got ndarray"),
    "text": (DATA | {"c": np.array(["a"] * N)}, r"x\['c'\]: expected real numbers"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", REFUSED)
def test_trees_that_are_not_the_models_are_refused(wrong):
    x, words = REFUSED[wrong]
    with pytest.raises((ValueError, TypeError), match=f"^{words}"):
        evidence.evaluate(KEY, P, Q, x, 5)
    if wrong != "no rows":
        with pytest.raises((ValueError, TypeError), match=f"^{words}"):
            training.fit(
                KEY, MODEL, guides.exact(P).guide, x, estimate="reparameterized", num_samples=1,
                optimizer=optax.sgd(1e-3), batch_size=3, num_epochs=1,
            )  # fmt: skip


MASKS = {
    "narrow mask": (
        miwae, FEW | {"mask": FEW["mask"][:, :2]},
        r"x\['mask'\]: expected shape \[N, 3\], .*got \[17, 2\]; make the model for data of that",
    ),
    "one number a row": (
        miwae, FEW | {"mask": RAGGED["length"]}, r"x\['mask'\]: expected shape \[N, 3\].*got \[17\]"
    ),
    "half a mask": (
        miwae, FEW | {"mask": 0.5 * FEW["mask"]},
        r"x\['mask'\]: expected a mask of 0 and 1, got 0\.5 at row .*; give 1 for an entry",
    ),
    "no mask": (miwae, DATA, r"x: expected data points with a part 'mask', got \['c', 'x'\]"),
    "too long": (
        ragged, RAGGED | {"length": RAGGED["length"] + 1},
        r"x\['length'\]: expected lengths 0, \.\.\., 3, got 4 at index \(3,\) \(4 of 17 .*; count the",
    ),
    "negative": (
        ragged, RAGGED | {"length": RAGGED["length"] - 1}, r"x\['length'\]: .* got -1 at index \(0,"
    ),
    "fractional": (
        ragged, RAGGED | {"length": RAGGED["length"] / 2}, r"x\['length'\]: .* got 0\.5 at index \(1,"
    ),
    "a mask as the length": (
        ragged, RAGGED | {"length": FEW["mask"]}, r"x\['length'\]: expected shape \[N\], .*\[17, 3\]"
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", MASKS)
def test_masks_and_lengths_are_refused_by_name(wrong):
    make, x, words = MASKS[wrong]
    model, guide = make(), guides.shared(guides.mean_field(K))
    p, q = model(model.init(KEY)), guide(guide.init(KEY))
    with pytest.raises(ValueError, match=f"^{words}"):
        evidence.evaluate(KEY, p, q, x, 5)
    with pytest.raises(ValueError, match=f"^{words}"):
        training.fit(
            KEY, model, guide, x, estimate="reparameterized", num_samples=1,
            optimizer=optax.sgd(1e-3), batch_size=3, num_epochs=1,
        )  # fmt: skip


def test_one_data_point_off_its_length_is_refused():
    p = ragged()(ragged().init(KEY))
    with pytest.raises(ValueError, match=r"^x: expected lengths 0, \.\.\., 3, got 4"):
        p.log_joint({"x": jnp.zeros(D), "length": jnp.int32(4)})


def test_a_length_is_the_mask_of_what_is_before_it():
    """As an integer and as a number of a training step; and draws have the full length."""
    length = RAGGED["length"]
    mask = (np.arange(D) < length[:, None]).astype(np.float32)
    theta, z = miwae().init(KEY), jnp.array([0.4, -1.1])
    masked, padded = miwae()(theta), ragged()(theta)

    @quick_jit
    def compute(rows):
        of_mask = {"x": rows["x"], "mask": rows["mask"]}
        number = rows | {"length": rows["length"].astype(float)}
        return [
            jax.vmap(lambda row: p.log_joint(row)(z))(x)  # noqa: B023
            for p, x in ((masked, of_mask), (padded, rows), (padded, number))
        ]

    want, of_integers, of_numbers = compute(RAGGED | {"mask": mask})
    np.testing.assert_array_equal(of_integers, want)
    np.testing.assert_array_equal(of_numbers, want)
    assert np.ptp(want) > 1
    x, full = padded.sample(KEY).x
    np.testing.assert_array_equal(x, masked.sample(KEY).x[0])
    assert full == D


def test_simulations_of_a_part_are_refused_by_name():
    with pytest.raises(ValueError, match="p: expected a model that draws whole data points"):
        decomposition.calibrate(KEY, P, Q, 200)


def test_a_data_point_without_its_context_is_refused():
    with pytest.raises(ValueError, match=r"^x: expected data points with what .*KeyError: 'c'"):
        P.log_joint({"x": DATA["x"][0]})


def test_a_context_that_the_model_does_not_take_is_refused():
    model, guide = models.linear_gaussian(K, D), guides.linear(guides.mean_field(K), D)
    p, q = model(model.init(KEY)), guide(guide.init(KEY))
    words = r"^x: expected rows of \[3\], .*'c': \[2\].*set the model's `observed` to"
    with pytest.raises(ValueError, match=words):
        evidence.evaluate(KEY, p, q, DATA, 5)


@pytest.mark.parametrize(
    ("z", "words"),
    [
        ({"y": np.int32(0)}, r"expected z as .*prior draws it, \{.*'z': 'f\[2\]'\}, got \{'y': 'i\[\]'\}"),
        ({"y": np.int32(0), "z": np.ones(3, np.float32)}, r"expected z\['z'\] as .* f\[2\], got f\[3\]"),
    ],
)  # fmt: skip
def test_a_z_that_the_prior_does_not_draw_is_refused_by_its_part(z, words):
    def prior(theta):
        label = Categorical(logits=jnp.zeros(4))
        return Successive(label, lambda y: normal(jnp.zeros(2), jnp.ones(2)))

    def likelihood(theta, z):
        return normal(z["z"].sum() * jnp.ones(D), jnp.ones(D))

    joint = models.Model(lambda key: (), prior, likelihood)(()).log_joint(DATA["x"][0])
    with pytest.raises(ValueError, match=f"^z: {words}.*; give a z of p.prior"):
        jax.eval_shape(joint, z)
