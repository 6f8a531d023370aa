"""What CONTRIBUTING.md tells people to copy has to work."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beds import linear_gaussian, mixture, prior_of
from scipy import stats
from scipy.special import logsumexp

from lvm_jax import distributions, em, gradients
from lvm_jax.models import log_joint
from lvm_jax.weights import log_weights

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def block(defines):
    """The names that the one code block with `defines` in it brings."""
    (source,) = [code for code in BLOCKS if defines in code]
    names: dict = {}
    exec(compile(source, "CONTRIBUTING.md", "exec"), names)
    return names


def test_the_family_to_copy_is_an_exponential_mixture(x64):
    family = block("class Exponential")["Exponential"]()
    rng = np.random.default_rng(0)
    x = rng.exponential(np.where(rng.random((400, 1)) < 0.4, [[0.5, 3.0]], [[4.0, 1.0]]))
    fit = em.fit(
        jax.random.key(0), x, 2, family=family, num_restarts=4, tolerance=1e-9, max_steps=2000
    )
    pi, means = np.asarray(fit.mixture.weights), np.asarray(fit.mixture.means)
    joint = np.log(pi) + stats.expon.logpdf(x[:, None], scale=means).sum(-1)
    log_p = logsumexp(joint, axis=1)
    np.testing.assert_allclose(fit.mixture.log_prob(x), log_p, rtol=1e-10)
    assert fit.info.log_likelihood == pytest.approx(log_p.mean(), rel=1e-10)
    # At the maximum the parameters are those that their own responsibilities give.
    resp = np.exp(joint - log_p[:, None])
    np.testing.assert_allclose(pi, resp.mean(0), atol=1e-4)
    np.testing.assert_allclose(means, resp.T @ x / resp.sum(0)[:, None], rtol=1e-3)
    draws, z = map(np.asarray, fit.mixture.sample(jax.random.key(1), 20_000))
    for k in (0, 1):  # the standard deviation of an exponential is its mean
        error = means[k] / np.sqrt((z == k).sum())
        assert (np.abs(draws[z == k].mean(0) - means[k]) < 5 * error).all()
    with pytest.raises(ValueError, match="x: expected waiting times >= 0, got -1"):
        em.fit(jax.random.key(0), x - 1 - x.min(), 2, family=family)


def test_the_model_to_copy_is_exact(x64):
    model = block("def noisy_means")["noisy_means"](2)
    theta = model.init(jax.random.key(0))._replace(log_scale=jnp.array([0.4, -0.9]))
    x = jnp.array([0.7, -1.5])
    variance = 1 + np.exp(2 * np.array(theta.log_scale))
    want = stats.norm(theta.mean, np.sqrt(variance)).logpdf(x).sum()
    np.testing.assert_allclose(model.log_evidence(theta, x), want, rtol=1e-12)
    q = model.posterior(theta, x)
    log_w = log_weights(jax.random.key(1), log_joint(model, theta, x), q, 20)
    np.testing.assert_allclose(log_w, want, rtol=1e-12)


def test_the_guide_to_copy_is_a_laplace(x64):
    names = block("class Laplace(")
    guide = names["guide"]
    phi = guide.init(jax.random.key(0))
    assert phi.network.shape == (2, 3)
    weight = jnp.array([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]])
    q = guide.posterior(phi._replace(network=weight), jnp.array([1.0, -1.0, 2.0]))
    want = stats.laplace([-1.0, -1.5], 1.0)
    z = np.array([0.3, -2.0])
    np.testing.assert_allclose(q.log_prob(z), want.logpdf(z).sum(), rtol=1e-12)
    np.testing.assert_allclose(distributions.entropy(q), want.entropy().sum(), rtol=1e-12)
    draws = np.asarray(q.sample(seed=jax.random.key(2), sample_shape=(20_000,)))
    error = draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - want.mean()) < 5 * error).all()
    assert (np.abs(draws.std(0) - want.std()) < 5 * np.sqrt(5 / 4 / len(draws)) * want.std()).all()


def test_the_bound_to_copy_is_between_iwae_and_its_worst():
    leave_largest = block("def leave_largest")["leave_largest"]
    log_w = jnp.log(jnp.array([1.0, 2.0, 9.0]))
    want = 0.25 * np.log(4.0) + 0.75 * np.log(1.5)  # the mean of all, and of all but the largest
    assert float(leave_largest(0.25)(log_w)) == pytest.approx(want, rel=1e-6)
    with pytest.raises(ValueError, match="num_samples: expected at least 2, got 1"):
        leave_largest(0.5)(log_w[:1])


def test_the_evidence_method_to_copy_finds_the_evidence():
    defensive, bed = block("def defensive")["defensive"], linear_gaussian()
    joint, q = bed.log_joint(bed.theta, bed.x), bed.guide(bed.phi)
    found = jax.jit(lambda key: defensive(key, joint, q, prior_of(bed), 4_000))(jax.random.key(0))
    truth = bed.log_evidence(bed.theta, bed.x)
    assert abs(found.log_evidence - truth) < 5 * found.standard_error < 0.1


def test_the_estimator_to_copy_has_the_bias_that_it_states():
    biased, bed = block("def mean_baseline")["mean_baseline"](), mixture()
    joint = bed.log_joint(bed.theta, bed.x)

    @jax.jit
    def slopes(key):
        return [
            jax.grad(lambda phi, e=e: e(key, joint, bed.guide, phi, 2))(bed.phi)["logits"]
            for e in (biased, gradients.leave_one_out())
        ]

    for seed in range(5):  # (S - 1) / S of the unbiased one, draw by draw
        half, whole = slopes(jax.random.key(seed))
        np.testing.assert_allclose(half, whole / 2, rtol=1e-5, atol=1e-7)
