"""Evidence of a data set: every point once, compiled once, and its summary."""

import importlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit

from lvm_jax import annealing, distributions, em, evidence
from lvm_jax._core.batching import LONG
from lvm_jax.guides.base import Guide
from lvm_jax.models import Model, gaussian_mixture


class Case(NamedTuple):
    model: Model
    theta: dict
    guide: Guide
    phi: dict
    x: np.ndarray
    log_evidence: np.ndarray
    traces: list


@pytest.fixture(scope="module")
def case():
    """z ~ N(0, I_2), x | z ~ N(z + b, I), with an amortised q that is nearly the posterior."""
    traces = []

    def prior(theta):
        traces.append(None)
        return distributions.normal(jnp.zeros(2), jnp.ones(2))

    def likelihood(theta, z):
        return distributions.normal(z + theta["bias"], jnp.ones(2))

    def posterior(phi, x):
        return distributions.normal(phi["slope"] * x, jnp.full(2, 0.8))

    x = np.random.default_rng(0).normal(size=(23, 2)).astype(np.float32) * [2.0, 0.5]
    theta, phi = {"bias": jnp.array([0.2, -0.1])}, {"slope": jnp.array([0.45, 0.6])}
    squares = ((x - np.asarray(theta["bias"])) ** 2).sum(1)
    truth = -squares / 4 - np.log(4 * np.pi)
    unused = lambda key: {}  # noqa: E731
    model, guide = Model(unused, prior, likelihood), Guide(unused, posterior)
    return Case(model, theta, guide, phi, x.astype(np.float32), truth, traces)


def test_evaluate_every_point(case):
    key = jax.random.key(0)
    found = evidence.evaluate(key, case.model(case.theta), case.guide(case.phi), case.x, 400)
    assert {leaf.shape for leaf in found} == {(23,)}
    wrong_by = np.abs(found.log_evidence - case.log_evidence) / found.standard_error
    assert wrong_by.max() < 4.5
    # The other points do not matter to a point.
    other = np.where(np.arange(23)[:, None] == 7, case.x, -case.x)
    changed = evidence.evaluate(key, case.model(case.theta), case.guide(case.phi), other, 400)
    assert changed.log_evidence[7] == found.log_evidence[7]
    assert (changed.log_evidence != found.log_evidence).sum() == 22
    # Nor does the batch, of two points here: it is `importance` of that point.
    prior, x = distributions.normal(jnp.zeros(2), jnp.ones(2)), jnp.asarray(case.x[7])

    def joint(z):
        return prior.log_prob(z) + case.model.likelihood(case.theta, z).log_prob(x)

    q = case.guide.posterior(case.phi, x)
    alone = quick_jit(lambda key: evidence.importance(key, joint, q, 400))(
        jax.random.fold_in(key, 7)
    )
    np.testing.assert_allclose(alone.log_evidence, found.log_evidence[7], rtol=1e-5)


def test_evaluate_compiles_once(case):
    def run(seed, scale, x):
        theta = jax.tree.map(lambda leaf: leaf * scale, case.theta)
        before = len(case.traces)
        evidence.evaluate(jax.random.key(seed), case.model(theta), case.guide(case.phi), x, 400)
        return len(case.traces) - before

    run(0, 1.0, case.x)
    # Nor are the shapes traced again, which the checks on the host need.
    assert [run(1, 1.0, case.x), run(2, 0.5, case.x + 1)] == [0, 0]


def test_evaluate_with_the_exact_posterior():
    weights, means = np.array([0.3, 0.7]), np.array([[0.0, 1.0], [3.0, -2.0]])
    mixture = em.gaussian_mixture(weights, means, np.stack([np.eye(2), np.diag([0.5, 2.0])]))
    model, theta = gaussian_mixture(2, 2), mixture.as_theta()
    x = np.array([[0.1, 0.2], [2.0, -1.0], [9.0, 9.0]], np.float32)
    guide = Guide(lambda key: theta, model.posterior)
    found = evidence.evaluate(jax.random.key(0), model(theta), guide(theta), x, 100)
    np.testing.assert_allclose(found.log_evidence, mixture.log_prob(x), rtol=1e-5)
    assert (found.standard_error < 1e-6).all()


def test_evaluate_with_a_phi_for_each_point(case):
    # Means half-way to x - b and the posterior's scale: exact for every point, of one phi for none.
    own = {"loc": (jnp.asarray(case.x) - case.theta["bias"][None]) / 2}
    scale = jnp.full(2, 0.5**0.5)
    guide = Guide(case.guide.init, lambda phi, x: distributions.normal(phi["loc"], scale))

    def run(phi):
        return evidence.evaluate(
            jax.random.key(0), case.model(case.theta), guide(phi), case.x, 100, q_per_point=True
        )

    found = run(own)
    np.testing.assert_allclose(found.log_evidence, case.log_evidence, rtol=1e-5)
    assert (found.standard_error < 1e-6).all()
    with pytest.raises(ValueError, match=r"q: expected leaves of shape \[23, ...\]"):
        run({"loc": jnp.zeros(2)})


def test_summary_has_both_errors_apart():
    values, errors = np.array([-1.0, -3.0, -2.5, -1.5]), np.array([0.1, 0.2, 0.1, 0.4])
    k_hat = jnp.array([0.2, 0.71, 0.7, jnp.nan])
    count = jnp.zeros(4, jnp.int32)
    found = evidence.summarize(
        evidence.Evidence(
            jnp.asarray(values),
            jnp.asarray(errors),
            count + 9.0,
            k_hat,
            count,
            count,
            count,
            count,
            jnp.array([128, 2, 0, 6]),  # of the first the error alone is not reliable
        )
    )
    np.testing.assert_allclose(found.log_evidence, -2.0)
    np.testing.assert_allclose(found.monte_carlo_error, np.sqrt(0.22) / 4, rtol=1e-6)
    np.testing.assert_allclose(found.sampling_error, values.std(ddof=1) / 2, rtol=1e-6)
    assert found.num_untrusted == 2
    assert not found.reliable
    assert found.verdict() == (
        "2 of 4 points not reliable: Pareto k-hat is above 0.7 or not known: the tail of the "
        "weights is heavy; the effective sample size is too small"
    )
    assert np.isnan(found.worst_k_hat)
    assert found.num_points == 4


def test_another_number_of_points_in_a_bucket_compiles_nothing(case):
    def run(number):
        where = jax.random.key(0), case.model(case.theta), case.guide(case.phi)
        return evidence.evaluate(*where, case.x[:number], 400)

    every, before = run(23), len(case.traces)
    fewer = run(17)
    assert len(case.traces) == before
    for whole, part in zip(every, fewer, strict=True):
        np.testing.assert_array_equal(part, whole[:17])
    # Alone, in a bucket and a batch of another size, a point has the same draws.
    for whole, part in zip(every, run(1), strict=True):
        np.testing.assert_allclose(part, whole[:1], rtol=1e-5)
    assert len(case.traces) > before


def test_long_chains_run_in_other_batches_with_the_same_results(case, monkeypatch):
    module = importlib.import_module("lvm_jax.evidence.annealed")
    size, sizes = module.costly_batch_size, []

    def costly(*args):
        sizes.append(size(*args[:-1], cost))
        return sizes[-1]

    monkeypatch.setattr(module, "costly_batch_size", costly)
    plan = annealing.plan(annealing.linear(3), annealing.random_walk(1), num_pilot=0)
    where = jax.random.key(0), case.model(case.theta), case.guide(case.phi), case.x[:19], 30, plan
    found = {}
    for cost in (LONG, LONG + 1):
        found[cost] = evidence.evaluate_annealed(*where, num_scouts=0).log_weights
    assert sizes == [32, 19]
    np.testing.assert_allclose(found[LONG], found[LONG + 1], rtol=1e-5)


def test_another_number_of_points_compiles_no_chains(case):
    plan = annealing.plan(annealing.linear(3), annealing.random_walk(1), num_pilot=0)

    def run(number):
        where = jax.random.key(0), case.model(case.theta), case.guide(case.phi)
        return evidence.evaluate_annealed(*where, case.x[:number], 30, plan, num_scouts=0)

    every, before = run(23), len(case.traces)
    fewer = run(19)
    assert len(case.traces) == before
    for whole, part in zip(jax.tree.leaves(every), jax.tree.leaves(fewer), strict=True):
        np.testing.assert_array_equal(part, whole[:19])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_samples": 0}, "num_samples: expected an integer >= 1, got 0"),
        ({"chunk_size": 0}, "chunk_size: expected an integer >= 1, got 0"),
        ({"x": np.full((3, 2), np.nan)}, "x: expected finite numbers, got 6 NaN"),
        ({"x": np.zeros(2)}, r"x: expected shape \[N, 2\], as the model draws its data, got \[2\]"),
        ({"x": np.zeros((4, 3))}, r"x: expected shape \[N, 2\]"),
        ({"x": np.zeros((0, 2))}, "x: expected an array of at least one data point"),
        ({"x": 3.0}, "x: expected an array of at least one data point"),
        (
            {"guide": lambda phi, x: distributions.normal(jnp.zeros(3), jnp.ones(3))},
            r"q: expected a q that draws z as the model's prior does, f\[2\], got f\[3\]",
        ),
        (
            {"guide": lambda phi, x: distributions.categorical(jnp.zeros((2, 2)))},
            r"q: .* f\[2\], got i\[2\]",
        ),
    ],
)
def test_evaluate_refuses(case, change, message):
    given = {"x": case.x, "num_samples": 10, **change}
    guide = Guide(case.guide.init, given.pop("guide", case.guide.posterior))
    with pytest.raises(ValueError, match=message):
        evidence.evaluate(jax.random.key(0), case.model(case.theta), guide(case.phi), **given)


def test_other_refusals(case):
    with pytest.raises(TypeError, match="key: expected a typed key"):
        evidence.evaluate(0, case.model(case.theta), case.guide(case.phi), case.x, 10)
    single = evidence.importance(
        jax.random.key(0), lambda z: 0.0, distributions.Bernoulli(jnp.zeros(2)), 3
    )
    with pytest.raises(ValueError, match=r"evidence: expected leaves of shape \[N\]"):
        evidence.summarize(single)
