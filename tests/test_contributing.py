"""What CONTRIBUTING.md tells people to copy has to work."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_annealing as annealing_tests
import test_evidence as evidence_tests
import test_likelihood_densities as densities
import test_likelihood_draws as draws_of
import test_likelihoods as likelihood_tests
import test_networks as network_tests
import test_priors_contract as prior_tests
import test_training_objectives as objective_tests
from beds import bits, linear_gaussian, mixture, prior_of
from model_cases import quick_jit
from scipy import stats
from scipy.special import expit, logsumexp
from training_cases import GUIDE, KEY, MODEL, data, fit

from lvm_jax import distributions, em, gradients, training
from lvm_jax.likelihoods import LIKELIHOODS
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
    log_w = log_weights(jax.random.key(1), model(theta).log_joint(x), q, 20)
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


def test_the_evidence_method_to_copy_passes_its_table(monkeypatch):
    """On a bed of real and one of discrete z, with the row that the page names."""
    defensive, name, size = block("def defensive")["defensive"], "defensive", 500

    def row(key, bed, joint):
        return defensive(key, joint, bed.guide(bed.phi), prior_of(bed), size)

    monkeypatch.setitem(evidence_tests.METHODS, name, (row, "p", size))
    for bed in (linear_gaussian(), bits()):
        answers = evidence_tests.ask(bed, {name: (row, "p", size)})
        evidence_tests.test_unbiased(answers, name)
        evidence_tests.test_the_standard_error_is_the_spread(answers, name)
    bed = linear_gaussian()
    with pytest.raises(ValueError, match=r"share: expected a number in \(0, 1\), got 1"):
        defensive(KEY, bed.log_joint(bed.theta, bed.x), bed.guide(bed.phi), None, 9, share=1)


def test_the_move_to_copy_passes_its_table(monkeypatch):
    barker = block("def barker")["barker"]
    assert barker() is barker()
    monkeypatch.setattr(annealing_tests, "MOVES", {"linear_gaussian": {"barker": barker()}})
    found = {"linear_gaussian": annealing_tests.travel("linear_gaussian")}
    annealing_tests.test_both_directions_are_unbiased(found, "linear_gaussian", "barker")
    annealing_tests.test_annealing_helps(found)
    monkeypatch.setattr(annealing_tests, "CONTINUOUS", {"barker": barker()})
    annealing_tests.test_moves_leave_the_posterior_invariant("barker")
    accepted = found["linear_gaussian"][2]["barker"].acceptance
    np.testing.assert_allclose(accepted[2:].mean(), 0.4, atol=0.1)  # what the pilot aims at


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


def test_the_likelihood_to_copy_passes_its_tables(monkeypatch):
    """With the rows that the page names, against SciPy's binomial."""
    names, name, n = block("class Binomial"), "binomial", 16
    binomial, grid = names["binomial"], [0.0, 1.0, 5.0, 15.0, 16.0]
    with pytest.raises(ValueError, match="num_trials: expected an integer >= 1, got 0"):
        binomial(2, 0)
    monkeypatch.setitem(LIKELIHOODS, name, lambda dim: binomial(dim, n))
    likelihood_tests.test_every_likelihood_has_the_interface(name)
    likelihood_tests.test_outputs_of_another_shape_are_refused(name)
    monkeypatch.setitem(likelihood_tests.GOOD, name, [[0, 16, 3]])
    monkeypatch.setitem(
        likelihood_tests.BAD, name, (0.5, "counts 0, ..., 16, got 0.5 .*; multiply numbers")
    )
    likelihood_tests.test_data_off_the_support_are_refused(name)
    case = densities.Case(
        lambda logits: binomial(1, n).build((), logits[None]),
        lambda x, logits: stats.binom.logpmf(x, n, expit(logits)),
        [(x, logits) for x in grid for logits in (-15.0, -2.0, 0.0, 0.7, 8.0)],
    )
    monkeypatch.setitem(densities.CASES, name, case)
    monkeypatch.setattr(
        densities, "slopes", lambda name, columns: [columns[0] - n * expit(columns[1])]
    )
    for x64, rtol in ((False, 1e-5), (True, 1e-10)):
        densities.test_log_prob_is_that_of_another_implementation(name, x64, rtol)
        densities.test_gradients_are_the_closed_forms_at_the_extremes_too(name, x64, rtol)
    whole = (lambda: binomial(2, n).build((), jnp.array([-1.5, 0.6]))), np.arange(n + 1)
    monkeypatch.setitem(draws_of.WHOLE, name, whole)
    with jax.enable_x64(True):
        draws_of.test_the_whole_is_one_and_the_mean_is_its_mean(name, None)
    draws_of.test_draws_have_the_mean_and_the_variance(name)


def test_the_prior_to_copy_passes_its_table(monkeypatch):
    names, name = block("class LogisticPrior"), "logistic"
    loc, scale, z = [0.4, -1.0], np.array([0.6, 1.3]), [3.0, -300.0]
    params = names["LogisticPrior"](np.array(loc), np.log(scale))
    row = prior_tests.Row(names["logistic"](2), params, 30.0)
    monkeypatch.setitem(prior_tests.PRIORS, name, row)
    prior_tests.test_it_is_built_afresh_from_its_parameters(name, True, 1e-12)
    prior_tests.test_it_is_built_afresh_from_its_parameters(name, False, 1e-5)
    prior_tests.test_the_mass_is_one_and_draws_have_the_moments_of_the_density(name)
    prior_tests.test_init_makes_parameters_of_the_same_shapes(name)
    found = row.prior.build(prior_tests.as_floats(params, np.float32)).log_prob(jnp.array(z))
    np.testing.assert_allclose(found, stats.logistic(loc, scale).logpdf(z).sum(), rtol=1e-5)
    with pytest.raises(ValueError, match="dim: expected an integer >= 1, got 0"):
        names["logistic"](0)


def test_the_network_to_copy_passes_its_table(monkeypatch):
    make, name = block("def residual_mlp")["residual_mlp"], "residual_mlp"
    network = make(5, 4, 3, 2)
    monkeypatch.setitem(network_tests.BOTH, name, network)
    monkeypatch.setitem(network_tests.SIZES, name, 5)
    network_tests.test_parameters_are_a_plain_tree_of_arrays(name)
    network_tests.test_a_batch_is_its_rows_apart(name)
    with jax.enable_x64(True):
        network_tests.test_the_dtype_is_that_of_the_parameters(None, name)
        params, x = network_tests.away(network), network_tests.inputs(name)
        first, blocks, last = (params[part] for part in ("first", "blocks", "last"))
        u = np.asarray(x @ first["kernel"] + first["bias"])
        for i in range(3):
            inner = np.tanh(u @ blocks["in"]["kernel"][i] + blocks["in"]["bias"][i])
            u = u + inner @ np.asarray(blocks["out"][i])
        want = u @ np.asarray(last["kernel"]) + np.asarray(last["bias"])
        found = network_tests.apply(network, params, x)
        np.testing.assert_allclose(found, want, rtol=1e-12)
    with pytest.raises(ValueError, match=r"x: expected shape \(5,\), got \(2, 5\)"):
        network.apply(params, jnp.ones((2, 5)))
    with pytest.raises(ValueError, match="num_blocks: expected an integer >= 1, got 0"):
        make(5, 4, 0, 2)


def test_the_objective_to_copy_passes_its_table(monkeypatch):
    capacity = block("def capacity")["capacity"]
    monkeypatch.setitem(objective_tests.OBJECTIVES, "capacity", capacity(0.7, 3.0))
    objective_tests.test_the_reported_bound_is_the_elbo_and_shows_what_is_not_finite("capacity")
    # Of two points at once: the KL divergence of the minibatch is held, not that of each point.
    theta, phi, keys = MODEL.init(KEY), GUIDE.init(KEY), jax.random.split(KEY, 2)

    def terms(target, strength):
        def one(key, x):
            point = training.point(
                training.Separate(MODEL, GUIDE), training.Parameters(theta, phi), x
            )
            return capacity(target, strength)(key, point, 4, jnp.int32(3))

        return jax.vmap(one, axis_name="batch")(keys, jnp.asarray(data()[:2]))

    free, fixed, ramp = quick_jit(
        lambda: (terms(0.0, 0.0), terms(0.7, 3.0), terms(lambda step: 0.1 * step, 3.0))
    )()
    kl = float((free.objective - free.bound).mean())  # `free` climbs the reconstruction alone
    for held, target in ((fixed, 0.7), (ramp, 0.3)):
        np.testing.assert_allclose(
            held.objective, free.objective - 3.0 * abs(kl - target), rtol=1e-4
        )
        np.testing.assert_allclose(held.bound, free.bound, rtol=1e-6)
    history = fit(objective=capacity(0.7, 3.0), num_epochs=2).history
    assert np.isfinite(history.bound).all()
    assert (history.bound != history.objective).all()
    for options, message in (((-1.0,), "nats: expected"), ((1.0, -2.0), "strength: expected")):
        with pytest.raises(ValueError, match=message):
            capacity(*options)
