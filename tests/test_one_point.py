"""A function of ONE data point refuses a batch by name and cure, also where it is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import typecheck
from model_cases import quick_jit

from lvm_jax import (
    annealing,
    bounds,
    decomposition,
    diagnostics,
    distributions,
    evidence,
    gradients,
    likelihoods,
    priors,
    weights,
)
from lvm_jax.distributions import Bernoulli, normal

KEY = jax.random.key(0)
REDUCTIONS = {
    **{name: bound.reduce for name, bound in bounds.BOUNDS.items()},
    "renyi_inf": bounds.renyi(float("inf")),
    "leave_one_out": bounds.leave_one_out,
    "normalized": bounds.normalized,
    "from_log_weights": evidence.from_log_weights,
    "effective_sample_size": diagnostics.effective_sample_size,
    "pareto_k": diagnostics.pareto_k,
    "psis": diagnostics.psis,
}


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("shape", [(15, 3), (), (0,), (3, 5, 7)])
def test_log_weights_of_one_axis(name, shape):
    reduce = REDUCTIONS[name]
    message = f"log_w: expected the log-weights of one data point, shape [S] with S >= 1, got {shape}; map over data points with jax.vmap"  # fmt: skip
    for call in (reduce, lambda log_w: jax.eval_shape(reduce, log_w)):
        with pytest.raises(ValueError) as caught:
            call(np.full(shape, -3.0, np.float32))
        assert str(caught.value) == message


with typecheck.unchecked():
    BATCHES = {  # distributions of five data points, each of z [2] or of two rows
        "normal": normal(jnp.zeros((5, 2)), jnp.ones((5, 2))),
        "full": distributions.FullRankNormal(jnp.zeros((5, 2)), jnp.ones((5, 2, 2))),
        "low": distributions.LowRankNormal(
            jnp.zeros((5, 2)), jnp.ones((5, 2, 1)), jnp.ones((5, 2))
        ),
        "bits": Bernoulli(jnp.zeros((5, 2))),
        "one_hot": distributions.one_hot(jnp.zeros((5, 2, 3))),
        "labels": distributions.Categorical(logits=jnp.zeros((5, 3))),
    }
KIND = {"reparameterized": "normal", "any": "normal", "bernoulli": "bits"}  # one_hot otherwise


def total(z):
    return jnp.float32(z.sum())


@pytest.mark.parametrize("name", gradients.ESTIMATORS)
def test_every_estimator_refuses_a_q_of_several_points(name):
    row = gradients.ESTIMATORS[name]
    q = BATCHES[KIND.get(row.latent, "one_hot")]
    with pytest.raises(ValueError, match=r"^q: expected one log-density for one z.*jax\.vmap"):
        row.estimate(KEY, total, lambda phi: q, (), 4)


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_of_q_is_refused_wherever_it_is_weighed(name):
    q = BATCHES[name]
    for call in (
        lambda: weights.log_weights(KEY, total, q, 3),
        lambda: evidence.importance(KEY, total, q, 3),
        lambda: decomposition.decompose_exactly(total, q),
        lambda: decomposition.elbo_energy_entropy(KEY, total, q, 3),
        lambda: decomposition.elbo_reconstruction_kl(KEY, total, q, 3, prior=q),
        lambda: annealing.unadjusted_log_weights(
            KEY, total, q, 3, temperatures=jnp.array([0.0, 1.0]), step_size=0.1
        ),
    ):
        with pytest.raises(ValueError, match=r"^q: expected one log-density for one z"):  # fmt: skip
            call()


THREE = jnp.zeros(3)
DENSITIES = {  # of one x or z [3]; a batch [3, 3] or [5, 3] would broadcast
    "bernoulli": Bernoulli(THREE),
    "poisson": likelihoods.counts.Poisson(THREE),
    "negative_binomial": likelihoods.counts.NegativeBinomial(THREE, jnp.ones(3)),
    "continuous_bernoulli": likelihoods.unit_interval.ContinuousBernoulli(THREE),
    "logistic": likelihoods.levels.DiscretizedLogistic(THREE, jnp.ones(3), jnp.linspace(0, 1, 5)),
    "levels": likelihoods.levels.CategoricalLevels(jnp.zeros((4, 3))),
    "full": distributions.FullRankNormal(THREE, jnp.eye(3)),
    "low": distributions.LowRankNormal(THREE, jnp.ones((3, 1)), jnp.ones(3)),
    "table": distributions.Table(THREE, jnp.zeros((3, 3))),
    "mixture": priors.mixture(3, 3).build(priors.mixture(3, 3).init(KEY)),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_of_one_point_refuses_rows(name):
    assert jax.eval_shape(DENSITIES[name].log_prob, jnp.ones(3)).shape == ()
    refused = pytest.raises(ValueError, match=r"^value: expected .*map over rows with jax\.vmap")
    for rows in (3, 5):
        with jax.numpy_rank_promotion("allow"), refused:  # as users have it
            DENSITIES[name].log_prob(jnp.ones((rows, 3)))


def test_divergences_and_expectations_of_a_batch():
    q = BATCHES["labels"]
    refused = pytest.raises(ValueError, match="^q: expected one log-density for one z, got shape .5,.")  # fmt: skip
    with jax.numpy_rank_promotion("allow"), refused:
        distributions.kl_divergence(q, q)
    with jax.numpy_rank_promotion("allow"), refused:
        distributions.expectation(q, lambda z: 1.0 * z)


def test_the_other_parts_of_one_data_point():
    q, batch = normal(jnp.zeros(2), jnp.ones(2)), BATCHES["normal"]
    for part in ("prior", "posterior"):
        with pytest.raises(ValueError, match=f"^{part}: expected one log-density for one z, got shape .5,.; map"):  # fmt: skip
            decomposition.decompose(KEY, q.log_prob, q, 3, **{part: batch})
        with pytest.raises(ValueError, match=f"^{part}: expected one log-density"):
            decomposition.decompose_exactly(q.log_prob, q, **{part: batch})
    with pytest.raises(ValueError, match="^prior: expected one log-density"):
        decomposition.elbo_reconstruction_kl(KEY, q.log_prob, q, 3, prior=batch)
    with pytest.raises(ValueError, match="^prior: expected one log-density"):
        evidence.naive(KEY, total, batch, 3)
    many = quick_jit(jax.vmap(evidence.from_log_weights))(jnp.zeros((4, 3)))
    for given in (jnp.zeros(4), many):
        for call in (
            lambda given=given: decomposition.decompose(KEY, q.log_prob, q, 3, log_evidence=given),
            lambda given=given: decomposition.decompose_exactly(q.log_prob, q, log_evidence=given),
        ):
            with pytest.raises(ValueError, match="^log_evidence: expected the number of one data point, got shape .4,.; map"):  # fmt: skip
                call()
