"""The pages on what p and q are made of, on problems, data and benchmarks pass their tables."""

import json
from types import SimpleNamespace

import guide_cases
import jax
import jax.numpy as jnp
import model_cases
import numpy as np
import pytest
import test_data_curved as curved_tests
import test_distributions as distribution_tests
import test_em_fit as em_tests
import test_guides as guide_tests
import test_guides_families as family_tests
import test_likelihood_densities as densities
import test_likelihood_draws as draws_of
import test_likelihoods as likelihood_tests
import test_models as model_tests
import test_networks as network_tests
import test_priors_contract as prior_tests
import test_problems as problem_tests
from extending_pages import names_of
from model_cases import grid
from scipy import stats
from scipy.special import expit

from benchmarks import harness
from lvm_jax import data, em
from lvm_jax.likelihoods import LIKELIHOODS


def test_the_family_of_em_passes_its_table():
    """With the row that the page names: the law in SciPy, as a function of the mean."""
    family = names_of("em_family")["Exponential"]()
    law = SimpleNamespace(
        rvs=lambda mean, random_state: random_state.exponential(mean),
        logpmf=lambda x, mean: stats.expon.logpdf(x, scale=mean),
        std=lambda mean: mean,
    )
    with jax.enable_x64(True):
        level = np.array([0.5, 2.0, 7.0])
        em_tests.test_other_families_follow_the_same_equations(None, family, law, level)
        with pytest.raises(ValueError, match="x: expected waiting times >= 0, got -1"):
            em.fit(jax.random.key(0), np.array([[-1.0], [2.0], [3.0]]), 1, family=family)


def test_the_model_passes_its_table(monkeypatch):
    names, name = names_of("model"), "noisy_means"

    def case():
        theta = names["NoisyMeans"](jnp.array([0.3, -0.7]), jnp.array([0.4, -0.9]))
        scale = np.exp([0.4, -0.9])

        def reference(x):
            def joint(z):
                prior = jax.scipy.stats.norm.logpdf(z, jnp.array([0.3, -0.7]), jnp.asarray(scale))
                return prior.sum() + jax.scipy.stats.norm.logpdf(x, z).sum()

            return joint

        x = jnp.array([[0.7, -1.5], [4.0, 2.0]])
        return model_cases.Case(
            names["noisy_means"](2), theta, x, grid(12.0, 0.1, 2), 0.01, reference
        )

    monkeypatch.setitem(model_tests.CASES, name, case)
    for x64 in (False, True):
        model_tests.test_evidence_and_posterior_follow_from_the_joint(name, x64)
        model_tests.test_every_log_weight_is_log_p_at_the_posterior(name, x64)
    model_tests.test_gradient_of_the_evidence_is_that_of_the_elbo_at_the_posterior(name)
    model_tests.test_samples_have_the_density_of_the_evidence(name)
    model_tests.test_init_gives_a_theta_of_the_same_shapes(name)
    with pytest.raises(ValueError, match="dim: expected an integer >= 1, got 0"):
        names["noisy_means"](0)


def test_the_distribution_passes_its_table(monkeypatch):
    laplace, name = names_of("distribution")["Laplace"], "laplace"
    loc, scale = distribution_tests.LOC, distribution_tests.SCALE
    law = stats.laplace(loc, scale)
    z = np.random.default_rng(0).normal(size=(5, 3)) * 2
    own = {
        "values": (z, law.logpdf(z).sum(1)),
        "exact_entropy": law.entropy().sum(),
        "moments": (loc, np.diag(law.var())),
    }
    for function, answer in own.items():
        monkeypatch.setattr(distribution_tests, function, lambda name, answer=answer: answer)
    monkeypatch.setattr(distribution_tests, "CONTINUOUS", (name,))
    monkeypatch.setitem(distribution_tests.FAMILIES, name, (laplace, (loc, scale)))
    distribution_tests.test_log_prob_and_entropy(name, False, 2e-5)
    distribution_tests.test_log_prob_and_entropy(name, True, 1e-12)
    distribution_tests.test_samples_have_the_moments(name)
    distribution_tests.test_support_lists_every_value_once(name)
    distribution_tests.test_which_families_carry_gradients_through_their_draws(name)
    distribution_tests.test_the_distrax_trap_is_shut(name)


def test_the_guide_passes_its_table(monkeypatch):
    spherical, name = names_of("guide")["spherical"], "spherical"
    monkeypatch.setitem(guide_cases.FAMILIES, name, spherical(2))
    monkeypatch.setitem(guide_cases.NUM_OUTPUTS, name, 3)
    monkeypatch.setattr(family_tests, "GAUSSIAN", (name,))
    with jax.enable_x64(True):
        guide_tests.test_every_q_has_mass_one_and_draws_with_its_density(name, "linear", None)
    guide_tests.test_nothing_leaves_single_precision(name, "linear")
    guide_tests.test_a_batch_is_its_points_apart(name, "amortized")
    guide_tests.test_the_number_of_outputs_is_the_number_of_parameters(name)
    family_tests.test_every_family_starts_at_the_standard_member(name)
    family_tests.test_a_stopped_phi_stops_every_gradient_and_a_live_one_none(name)


def test_the_likelihood_passes_its_tables(monkeypatch):
    """With the rows that the page names, against SciPy's binomial."""
    name, n = "binomial", 16
    binomial, grid = names_of("likelihood")["binomial"], [0.0, 1.0, 5.0, 15.0, 16.0]
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


def test_the_prior_passes_its_table(monkeypatch):
    names, name = names_of("prior"), "logistic"
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


def test_the_network_passes_its_table(monkeypatch):
    make, name = names_of("network")["residual_mlp"], "residual_mlp"
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


def test_the_density_has_the_truth_that_it_states(x64):
    """Draws undone by SciPy's normal, density by the change of variables, log Z by a grid."""
    target = names_of("problem")["twisted"](3, 0.1)
    assert (target.dim, target.log_evidence) == (3, 0.0)
    z = np.array(target.sample(jax.random.key(0), 2_000))
    y = z.copy()
    y[:, 1] -= 0.1 * (z[:, 0] ** 2 - 100)
    want = stats.norm(0, [10, 1, 1]).logpdf(y).sum(1)
    np.testing.assert_allclose(jax.vmap(target.log_density)(jnp.asarray(z)), want, rtol=1e-9)
    for column, scale in zip(y.T, (10, 1, 1), strict=True):
        assert stats.kstest(column / scale, "norm").pvalue > 1e-3
    plane = names_of("problem")["twisted"](2, 0.1)
    nodes = np.stack(np.meshgrid(np.arange(-60, 60, 0.4), np.arange(-20, 360, 0.4)), -1)
    log_p = jax.jit(jax.vmap(plane.log_density))(jnp.asarray(nodes.reshape(-1, 2)))
    np.testing.assert_allclose(np.exp(log_p).sum() * 0.16, 1, atol=1e-6)


def test_the_problem_passes_its_table(monkeypatch, x64):
    monkeypatch.setitem(problem_tests.PROBLEMS, "line", names_of("problem")["problem"])
    problem_tests.test_the_posterior_is_bayes_rule_at_every_z("line", None)


def test_the_data_set_passes_its_table(monkeypatch):
    monkeypatch.setitem(data.CURVED, "ring", names_of("data_set")["made"])
    monkeypatch.setitem(curved_tests.WINDOWS, "ring", ((-3.5, -3.5), (3.5, 3.5)))
    curved_tests.test_known_densities_integrate_to_one_and_are_their_samplers("ring")


def test_the_benchmark_prints_its_table_and_its_contestants_agree(monkeypatch, tmp_path, capsys):
    names = names_of("benchmark")
    case = {"points": 20, "samples": 5, "seed": 0, "repeats": 1}
    own, log_w = (
        names["child"](case | {"contestant": "lvm_jax"}),
        jax.random.normal(jax.random.key(0), (20, 5)),
    )
    want = np.log(np.exp(np.asarray(log_w, float)).mean(1)).mean()
    assert own["value"] == pytest.approx(want, rel=1e-5)
    # In this process: that each measurement has one of its own is the harness's.
    monkeypatch.setattr(harness, "measure", lambda module, case: names["child"](case))
    options = ["--points", "20", "--rounds", "1", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["reduction", *options])
    names["main"]()
    printed = capsys.readouterr().out
    assert "contestant" in printed
    assert "floor" in printed
    found = json.loads((tmp_path / "reduction.json").read_text(encoding="utf-8"))
    assert set(found["results"][0]["found"]) == {"lvm_jax", "floor"}
