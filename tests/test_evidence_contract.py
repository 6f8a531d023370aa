"""Evidence methods on models: certificates of bits, order, compilation and precision."""

import jax
import jax.numpy as jnp
import model_cases
import numpy as np
import pytest
from exact_problems import PROBLEMS
from model_cases import quick_jit
from scipy import stats
from test_evidence import METHODS

from lvm_jax import annealing, distributions, evidence
from lvm_jax.guides import Guide
from lvm_jax.models import Model

NUM_POINTS, TOLERANCE = 32, 0.4
PRECISION = 1e-12


def counting(model):
    """The model, and a list that grows when its likelihood is traced."""
    traces = []

    def likelihood(theta, z):
        traces.append(None)
        return model.likelihood(theta, z)

    return model._replace(likelihood=likelihood), traces


def simulate(key, model, theta, num_points):
    def one(key):
        key_z, key_x = jax.random.split(key)
        return model.likelihood(theta, model.prior(theta).sample(seed=key_z)).sample(seed=key_x)

    return np.asarray(quick_jit(jax.vmap(one))(jax.random.split(key, num_points)))


@pytest.fixture(scope="module")
def certified():
    """Bits with q of three kinds by x: the posterior, one a little off, one that is wrong.

    In float64; tests/test_certified.py has bits in float32.
    """
    with jax.enable_x64(True):
        case = model_cases.bits()
        model, traces = counting(case.model)

        def posterior(phi, x):
            shift = jnp.where(x[0] > 1, 0.0, jnp.where(x[0] > 0, 0.3, 4.0))
            return case.model.posterior(case.theta, x + shift)

        guide = Guide(lambda key: (), posterior)
        x = simulate(jax.random.key(0), case.model, case.theta, NUM_POINTS)

        def run(x):
            before = len(traces)
            with jax.enable_x64(True):
                found = evidence.certify(
                    jax.random.key(1), model(case.theta), guide(()), x, tolerance=TOLERANCE,
                    num_scouts=0, transition=annealing.gibbs(2, 6)._replace(cost=3),
                )  # fmt: skip
            return found, len(traces) - before

        truth = quick_jit(jax.vmap(case.model.log_evidence, (None, 0)))(case.theta, x)
        return x, np.asarray(truth), run, run(x)[0]


def test_a_certificate_covers_the_truth_and_names_its_method(certified):
    x, truth, _, found = certified
    assert x.dtype == truth.dtype == np.float64
    exact = x[:, 0] > 1
    assert 3 <= exact.sum() <= NUM_POINTS - 10
    np.testing.assert_allclose(found.log_evidence[exact], truth[exact], rtol=PRECISION)
    assert (found.method[exact] == "importance").all()
    assert (found.high - found.low)[exact].max() < 10 * PRECISION
    rest = ~exact
    covered = ((found.low <= truth) & (truth <= found.high))[rest]
    assert covered.mean() > 0.95 - 4 * (0.95 * 0.05 / rest.sum()) ** 0.5
    assert set(found.method) == {"importance", "annealed"}
    assert found.num_open == 0
    assert ((found.high - found.low) / 2 <= TOLERANCE).all()
    assert (np.abs(found.log_evidence - truth) < 2 * TOLERANCE).all()


def test_a_point_of_a_certificate_does_not_depend_on_the_others(certified):
    x, _, run, found = certified
    kept = [int(np.flatnonzero(found.method == name)[0]) for name in ("importance", "annealed")]
    others = np.setdiff1d(np.arange(NUM_POINTS), kept)
    mixed = x.copy()
    mixed[others] *= 1.001
    changed, traces = run(mixed)
    assert traces == 0  # the shapes of a known model are kept, and nothing compiles
    for name in ("log_evidence", "low", "high"):
        both = getattr(found, name), getattr(changed, name)
        np.testing.assert_allclose(*(one[kept] for one in both), rtol=10 * PRECISION)
        assert (both[0][others] != both[1][others]).all()
    np.testing.assert_array_equal(found.method[kept], changed.method[kept])


def test_a_certificate_counts_regions_without_density(without_tails):
    # z ~ |N(0, 1)|, x | z ~ N(z, 1): p(x) = 2 N(x; 0, 2) Phi(x / sqrt(2)), and q's draws below 0
    # weigh nothing.
    class Half:
        def sample(self, *, seed, sample_shape=()):
            return jnp.abs(jax.random.normal(seed, (*sample_shape, 1)))

        def log_prob(self, z):
            log_p = distributions.normal(jnp.zeros(1), jnp.ones(1)).log_prob(z)
            return jnp.where(z[0] >= 0, jnp.log(2.0) + log_p, -jnp.inf)

    model = Model(
        lambda key: (), lambda theta: Half(), lambda theta, z: distributions.normal(z, jnp.ones(1))
    )
    guide = Guide(lambda key: (), lambda phi, x: distributions.normal(0.5 * x, jnp.full(1, 0.8)))
    x = np.linspace(-1.5, 2.5, 16, dtype=np.float32)[:, None]
    found = evidence.certify(
        jax.random.key(0), model(()), guide(()), x, tolerance=0.25,
        transition=annealing.random_walk(3),
    )  # fmt: skip
    truth = stats.norm(0, 2**0.5).logpdf(x[:, 0]) + stats.norm.logcdf(x[:, 0] / 2**0.5) + np.log(2)
    covered = (found.low <= truth) & (truth <= found.high)
    assert covered.sum() >= 13  # of 16 at 95 %: 4 standard errors
    assert found.num_open == 0
    assert (found.method == "importance").sum() >= 12


def test_annealing_every_point_keeps_order_and_compiles_once():
    case = model_cases.diagonal()
    model, traces = counting(case.model)
    plan = annealing.plan(annealing.linear(6), annealing.random_walk(2), num_pilot=0)

    def run(x, index=None, theta=case.theta, plan=plan):
        key = jax.random.key(2)
        return evidence.evaluate_annealed(
            key, model(theta), None, x, 200, plan, index=index, num_scouts=0
        ).evidence

    found = run(case.x)
    exact = quick_jit(jax.vmap(case.model.log_evidence, (None, 0)))
    truth = np.asarray(exact(case.theta, case.x))
    assert (np.abs(found.log_evidence - truth) < 5 * found.standard_error).all()
    assert (found.standard_error < 0.5).all()
    before = len(traces)
    turned = run(case.x[::-1], index=np.array([1, 0]))
    run(case.x + 0.5, None, jax.tree.map(lambda leaf: 0.9 * leaf, case.theta),
        annealing.plan(annealing.sigmoid(6), plan.transition, num_pilot=0))  # fmt: skip
    assert len(traces) == before
    np.testing.assert_array_equal(turned.log_evidence[::-1], found.log_evidence)
    with pytest.raises(ValueError, match=r"index: expected shape \(2,\), got \(3,\)"):
        run(case.x, np.arange(3))


def test_a_point_of_bidirectional_is_the_sandwich_of_it():
    case = model_cases.mixture()
    model, traces = counting(case.model)

    def run(seed, plan):
        return evidence.bidirectional(jax.random.key(seed), model(case.theta), None, 5, 40, plan)

    plan = annealing.plan(annealing.linear(4), annealing.gibbs(3))
    found, before = run(4, plan), len(traces)
    run(5, annealing.plan(annealing.sigmoid(4), annealing.gibbs(3)))
    assert len(traces) == before

    @quick_jit
    def alone(key):
        key_z, key_x, key_chains = jax.random.split(key, 3)
        z = case.model.prior(case.theta).sample(seed=key_z)
        x = case.model.likelihood(case.theta, z).sample(seed=key_x)
        joint, q = case.model(case.theta).log_joint(x), case.model.prior(case.theta)
        return x, evidence.sandwich(key_chains, joint, q, z, 40, plan)

    for place in (1, 4):  # the last is the rest of a batch
        x, one = alone(jax.random.fold_in(jax.random.key(4), place))
        np.testing.assert_allclose(found.x[place], x, rtol=1e-6)
        for side in ("lower", "upper"):
            np.testing.assert_allclose(
                getattr(found.sandwich, side).log_evidence[place],
                getattr(one, side).log_evidence,
                rtol=1e-5,
            )


@pytest.mark.parametrize("name", ["linear_gaussian", "bits"])
def test_float64_in_float64_out(x64, name):
    problem = PROBLEMS[name]()
    joint = problem.log_joint(problem.theta, problem.x)
    for method in set(METHODS) - {"annealed"}:  # it is a part of the sandwich
        run = METHODS[method][0]
        found = jax.eval_shape(lambda key, run=run: run(key, problem, joint), jax.random.key(0))
        kinds = {leaf.dtype for leaf in jax.tree.leaves(found) if leaf.dtype.kind == "f"}
        assert kinds == {np.dtype(np.float64)}, method


@pytest.mark.parametrize("problem_name", ["linear_gaussian", "one_hot"])
def test_exact_at_the_posterior(problem_name):
    problem = PROBLEMS[problem_name]()
    joint, q = (
        problem.log_joint(problem.theta, problem.x),
        problem.posterior(problem.theta, problem.x),
    )
    found = quick_jit(lambda key: evidence.importance(key, joint, q, 200))(jax.random.key(0))
    np.testing.assert_allclose(
        found.log_evidence, problem.log_evidence(problem.theta, problem.x), rtol=2e-6
    )
    np.testing.assert_allclose(found.ess, 200, rtol=1e-6)
    assert found.standard_error < 1e-7
    assert found.k_hat == 0  # equal to rounding: no tail
