"""p and q with their parameters: pytrees, equal factories, own classes, and pairs that share."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_cases import quick_jit
from training_cases import GUIDE, KEY, MODEL

from lvm_jax import bounds, evidence, gradients, guides, models, training
from lvm_jax.distributions import FullRankNormal, normal

THETA, PHI = MODEL.init(KEY), GUIDE.init(jax.random.key(1))
X = np.array([[0.4, -1.0, 0.3], [1.5, 0.2, -0.7], [0.1, 0.9, 2.0]], np.float32)


def test_the_leaves_are_the_parameters():
    p, q = MODEL(THETA), GUIDE(PHI)
    assert jax.tree.leaves(p) == jax.tree.leaves(THETA)
    assert jax.tree.leaves(q) == jax.tree.leaves(PHI)

    @quick_jit
    def compute(p, q, x):
        slope = jax.grad(lambda p: p.log_evidence(x))(p)
        z = q(x).mean
        by_hand = MODEL.prior(THETA).log_prob(z) + MODEL.likelihood(THETA, z).log_prob(x)
        return slope, p.log_joint(x)(z), by_hand, jax.grad(MODEL.log_evidence)(THETA, x)

    slope, value, by_hand, want = compute(p, q, X[0])
    for one, other in zip(jax.tree.leaves(slope), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert value == pytest.approx(float(by_hand), rel=1e-5)


def test_models_and_guides_of_equal_factories_share_a_program():
    traces = []

    @jax.jit
    def compute(p, q, x):
        traces.append(None)
        return p.log_joint(x)(q(x).mean)

    for seed in range(3):
        key = jax.random.key(seed)
        model, guide = models.linear_gaussian(2, 3), guides.linear(guides.full_rank(2), 3)
        assert np.isfinite(compute(model(model.init(key)), guide(guide.init(key)), X[seed]))
    assert len(traces) == 1
    other = guides.linear(guides.mean_field(2), 3)
    jax.eval_shape(compute, MODEL(THETA), GUIDE(PHI), X[0])
    assert jax.tree.structure(other(other.init(KEY))) != jax.tree.structure(GUIDE(PHI))


def test_a_draw_is_of_the_prior_and_of_the_likelihood_at_it():
    p = MODEL(THETA)
    key_z, key_x = jax.random.split(KEY)
    z, x = p.sample(KEY)
    np.testing.assert_array_equal(z, MODEL.prior(THETA).sample(seed=key_z))
    np.testing.assert_array_equal(x, MODEL.likelihood(THETA, z).sample(seed=key_x))


def test_a_prior_in_the_place_of_the_models():
    narrow = FullRankNormal(jnp.array([1.0, -2.0]), 0.5 * jnp.eye(2))
    p, z = MODEL(THETA, narrow), jnp.array([0.8, -1.5])
    want = narrow.log_prob(z) + MODEL.likelihood(THETA, z).log_prob(X[0])
    assert p.log_joint(X[0])(z) == pytest.approx(float(want), rel=1e-5)


@pytest.mark.parametrize("name", ["posterior", "log_evidence"])
def test_a_closed_form_that_a_model_lacks_is_refused(name):
    deep = models.deep_gaussian(2, 3)
    with pytest.raises(ValueError, match=f"model: expected one with an exact {name}, got {name}="):
        getattr(deep(deep.init(KEY)), name)(X[0])


@partial(jax.tree_util.register_dataclass, data_fields=["mean"], meta_fields=[])
@dataclass(frozen=True)
class Own:
    """z ~ N(mean, I), x | z ~ N(z, I): a p that is no model of the library."""

    mean: jax.Array

    def log_joint(self, x):
        return lambda z: (
            -0.5 * ((z - self.mean) ** 2 + (x - z) ** 2 + 2 * jnp.log(2 * jnp.pi)).sum()
        )


@partial(jax.tree_util.register_dataclass, data_fields=["p"], meta_fields=[])
@dataclass(frozen=True)
class Exact:
    p: Own

    def __call__(self, x):
        return normal(0.5 * (self.p.mean + x), jnp.full(3, 0.5**0.5))


def test_anything_with_a_log_joint_has_an_evidence_and_is_trained():
    p = Own(jnp.array([0.3, -0.2, 1.0]))
    truth = -((X - np.asarray(p.mean)) ** 2).sum(1) / 4 - 1.5 * np.log(4 * np.pi)
    found = evidence.evaluate(KEY, p, Exact(p), X, 5)
    np.testing.assert_allclose(found.log_evidence, truth, rtol=1e-6)
    # Of a pair that shares its one parameter, from elsewhere to the mean of x, the best p.
    fit = training.fit(
        KEY, lambda mean: (Own(mean), Exact(Own(mean))), jnp.zeros(3), X, estimate="reparameterized",
        num_samples=1, optimizer=optax.sgd(1.0), batch_size=3, num_epochs=40,
    )  # fmt: skip
    np.testing.assert_allclose(fit.p.mean, X.mean(0), atol=1e-3)
    with pytest.raises(TypeError, match=r"p: expected a model that draws x, .* got a Own"):
        evidence.bidirectional(KEY, p, None, 5, 5, None)


ESTIMATORS = {
    "reparameterized": gradients.reparameterized(bounds.iwae),
    "sticking_the_landing": gradients.sticking_the_landing(),
    "doubly_reparameterized": gradients.doubly_reparameterized(bounds.iwae),
    "vimco": gradients.vimco(),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_gradient_of_a_shared_tree_is_that_of_both_parts(name):
    """theta and phi of one tree: the gradient is the sum of those with the other part held."""

    def pair(params):
        p = MODEL(params["theta"]._replace(prior_mean=params["phi"].offset.loc))
        return p, GUIDE(params["phi"])

    def value(of_p, of_q):
        joint = pair(of_p)[0].log_joint(X[0])
        return ESTIMATORS[name](KEY, joint, lambda params: pair(params)[1](X[0]), of_q, 7)

    def shared(params):
        now = training.point(pair, params, X[0])
        return ESTIMATORS[name](KEY, now.p.log_joint(now.x), now.make_q, now.phi, 7)

    params = {"theta": THETA, "phi": PHI}
    whole, parts = quick_jit(
        lambda params: (jax.grad(shared)(params), jax.grad(value, (0, 1))(params, params))
    )(params)
    moved = jax.tree.map(jnp.add, *parts)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(moved), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    through_p = np.abs(parts[0]["phi"].offset.loc).max()
    assert min(through_p, np.abs(parts[1]["phi"].network).max()) > 0.01
