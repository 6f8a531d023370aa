"""The pages on bounds, gradients, evidence and training pass the tables that they name."""

import functools
import re

import extending_pages as pages
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_annealing as annealing_tests
import test_bounds as bound_tests
import test_bounds_facts as facts_tests
import test_evidence as evidence_tests
import test_gradients_contract as gradient_tests
import test_one_point as one_point_tests
import test_training_objectives as objective_tests
from exact_problems import bits, linear_gaussian, mixture, prior_of
from extending_pages import names_of
from model_cases import quick_jit
from training_cases import GUIDE, KEY, MODEL, data, fit

from lvm_jax import bounds, gradients, training


@pytest.mark.parametrize("page", pages.PAGES)
def test_a_page_runs_and_gives_what_it_says(page):
    claims = pages.run(page)[1]
    assert claims
    for line, obtained, expected in claims:
        assert obtained == expected, line


def test_the_index_links_every_page_and_names_files_that_exist():
    text = pages.text_of("index")
    linked = set(re.findall(r"\((\w+)\.md", text))
    assert set(pages.PAGES) | {"experiment"} <= linked
    for page in ("index", "experiment", *pages.PAGES):
        for name in re.findall(r"`((?:tests/)?test_\w+\.py|tests/\w+\.py)`", pages.text_of(page)):
            path = pages.FOLDER.parents[1] / "tests" / name.removeprefix("tests/")
            assert path.exists() or name == "tests/test_NAME.py", (page, name)


@pytest.mark.parametrize(("page", "limit"), [("bound", 10), ("gradient_estimator", 25)])
def test_a_skeleton_is_as_short_as_it_says(page, limit):
    """Of lines that are not blank, imports and docstring included."""
    assert sum(bool(line.strip()) for line in pages.blocks_of(page)[0].splitlines()) <= limit


def test_the_bound_passes_its_table(monkeypatch):
    """With the row and the formula that the page names, together with the ELBO."""
    truncated, name = names_of("bound")["truncated"], "truncated"
    rows = {"elbo": bounds.BOUNDS["elbo"], name: bounds.Bound(truncated, "lower", "exact")}

    def formula(log_w):
        w = np.exp(log_w)
        return np.log(np.minimum(w, len(w) ** 0.5 * w.mean()).mean())

    monkeypatch.setattr(bounds, "BOUNDS", rows)
    monkeypatch.setattr(bound_tests, "REFERENCE", {"elbo": np.mean, name: formula})
    monkeypatch.setitem(one_point_tests.REDUCTIONS, name, truncated)
    for cached in ("_reduce_all", "gradients"):  # compiled for the library's rows elsewhere
        traced = getattr(bound_tests, cached).__wrapped__
        monkeypatch.setattr(bound_tests, cached, quick_jit(lambda log_w, own=traced: own(log_w)))
    expectations = functools.cache(bound_tests.expectations.__wrapped__)
    monkeypatch.setattr(bound_tests, "expectations", expectations)
    with jax.enable_x64(True):
        bound_tests.test_values_are_the_formulas(None)
    for problem in bound_tests.PROBLEMS:
        bound_tests.test_exact_at_the_posterior(problem)
        bound_tests.test_limits(problem)
    for problem in bound_tests.FINITE:
        bound_tests.test_sides_by_enumeration(problem)
    bound_tests.test_sides_of_a_gaussian_by_sampling(name)
    for x64 in (False, True):
        bound_tests.test_shift_equivariance_gradient_and_precision(x64)
    bound_tests.test_nan_is_never_masked()
    facts_tests.test_shift_far_from_zero_in_float32()
    facts_tests.test_no_weight_but_zeros_is_minus_infinity()
    with jax.enable_x64(True):
        facts_tests.test_the_gradient_beside_a_zero_weight_is_the_limit(None)
    one_point_tests.test_log_weights_of_one_axis(name, (15, 3))


def test_the_estimator_passes_its_table(monkeypatch):
    """With the row that the page names: unbiased in theta, and a bias in phi that shows."""
    name, biased = "mean_baseline", names_of("gradient_estimator")["mean_baseline"]()
    row = gradients.Estimator(biased, "elbo", True, False, "any")
    monkeypatch.setitem(gradient_tests.ROWS, name, row)
    names = list(gradient_tests.problems_of(name))
    assert names == list(gradient_tests.PROBLEMS_OF_ANY)
    for problem_name in names:
        gradient_tests.test_estimator_keeps_its_promise(name, problem_name)
    gradient_tests.test_a_declared_bias_shows(name)


def test_the_estimator_has_the_bias_that_it_states():
    biased, problem = names_of("gradient_estimator")["mean_baseline"](), mixture()
    joint = problem.log_joint(problem.theta, problem.x)

    @jax.jit
    def slopes(key):
        return [
            jax.grad(lambda phi, e=e: e(key, joint, problem.guide, phi, 2))(problem.phi)["logits"]
            for e in (biased, gradients.leave_one_out())
        ]

    for seed in range(5):  # (S - 1) / S of the unbiased one, draw by draw
        half, whole = slopes(jax.random.key(seed))
        np.testing.assert_allclose(half, whole / 2, rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="num_samples: expected an integer >= 2, got 1"):
        biased(KEY, joint, problem.guide, problem.phi, 1)


def test_the_evidence_method_passes_its_table(monkeypatch):
    """On a problem of real and one of discrete z, with the row that the page names."""
    defensive, name, size = names_of("evidence_method")["defensive"], "defensive", 500

    def row(key, problem, joint):
        return defensive(key, joint, problem.guide(problem.phi), prior_of(problem), size)

    monkeypatch.setitem(evidence_tests.METHODS, name, (row, "p", size))
    for problem in (linear_gaussian(), bits()):
        answers = evidence_tests.ask(problem, {name: (row, "p", size)})
        evidence_tests.test_unbiased(answers, name)
        evidence_tests.test_the_standard_error_is_the_spread(answers, name)
    problem = linear_gaussian()
    with pytest.raises(ValueError, match=r"share: expected a number in \(0, 1\), got 1"):
        defensive(
            KEY,
            problem.log_joint(problem.theta, problem.x),
            problem.guide(problem.phi),
            None,
            9,
            share=1,
        )


def test_the_transition_passes_its_table(monkeypatch):
    barker = names_of("transition")["barker"]
    monkeypatch.setattr(annealing_tests, "MOVES", {"linear_gaussian": {"barker": barker()}})
    found = {"linear_gaussian": annealing_tests.travel("linear_gaussian")}
    annealing_tests.test_both_directions_are_unbiased(found, "linear_gaussian", "barker")
    annealing_tests.test_annealing_helps(found)
    monkeypatch.setattr(annealing_tests, "CONTINUOUS", {"barker": barker()})
    annealing_tests.test_moves_leave_the_posterior_invariant("barker")
    accepted = found["linear_gaussian"][2]["barker"].acceptance
    np.testing.assert_allclose(accepted[2:].mean(), 0.4, atol=0.1)  # what the pilot aims at


def test_the_objective_passes_its_table(monkeypatch):
    capacity = names_of("objective")["capacity"]
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
    kl = float((free.objective - free.bound).mean())  # `free` is the reconstruction alone
    for held, target in ((fixed, 0.7), (ramp, 0.3)):
        np.testing.assert_allclose(
            held.objective, free.objective - 3.0 * abs(kl - target), rtol=1e-4
        )
        np.testing.assert_allclose(held.bound, free.bound, rtol=1e-6)
    history = fit(estimate=capacity(0.7, 3.0), num_epochs=2).history
    assert np.isfinite(history.bound).all()
    assert (history.bound != history.objective).all()
    for options, message in (((-1.0,), "nats: expected"), ((1.0, -2.0), "strength: expected")):
        with pytest.raises(ValueError, match=message):
            capacity(*options)
