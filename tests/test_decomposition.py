import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_problems import PROBLEMS, prior_of
from model_cases import quick_jit

from lvm_jax import distributions, evidence
from lvm_jax.decomposition import (
    decompose,
    decompose_exactly,
    elbo_energy_entropy,
    elbo_reconstruction_kl,
)

SAMPLES, REPEATS = 401, 1_009
NORMAL = distributions.normal(jnp.zeros(2), jnp.ones(2))


def wide(z):
    return -2 * jnp.log1p(z @ z)


@pytest.mark.parametrize(
    "problem_name, x64",
    [*((name, True) for name in PROBLEMS), ("linear_gaussian", False), ("bits", False)],
)
def test_exact_identity(problem_name, x64):
    # log p, the ELBO and the posterior come from the problem, the terms from the product.
    with jax.enable_x64(x64):
        problem = PROBLEMS[problem_name]()
        atol = 1e-10 if x64 else 1e-5

        @quick_jit
        def run(theta, phi, x):
            joint, posterior = problem.log_joint(theta, x), problem.posterior(theta, x)
            prior = prior_of(problem._replace(theta=theta))
            found = decompose_exactly(joint, problem.guide(phi), prior=prior, posterior=posterior)
            return found, problem.log_evidence(theta, x), problem.elbo(theta, phi, x)

        found, log_p, elbo = run(problem.theta, problem.phi, problem.other_x)
        value = {name: term.value for name, term in found._asdict().items()}
        np.testing.assert_allclose(value["elbo"], elbo, atol=atol)
        np.testing.assert_allclose(value["elbo"] + value["kl_posterior"], log_p, atol=atol)
        np.testing.assert_allclose(value["energy"] + value["entropy"], elbo, atol=atol)
        np.testing.assert_allclose(value["reconstruction"] - value["kl_prior"], elbo, atol=atol)
        assert all(term.standard_error == 0 for term in found)
        assert value["kl_posterior"] > 0.1


def test_closing_the_gap(x64):
    # q moves to the posterior: KL falls to 0 and the ELBO rises to log p, which stays.
    problem = PROBLEMS["linear_gaussian"]()
    joint, posterior = (
        problem.log_joint(problem.theta, problem.x),
        problem.posterior(problem.theta, problem.x),
    )
    log_p = problem.log_evidence(problem.theta, problem.x)

    @quick_jit
    def run(distance):
        scale = 1 + distance
        mean = posterior.mean + distance
        q = distributions.FullRankNormal(mean, posterior.cholesky * scale)
        return decompose_exactly(joint, q, log_evidence=log_p), decompose_exactly(
            joint, q, posterior=posterior
        )

    gaps = []
    for distance in (1.0, 0.3, 0.01, 0.0):
        from_evidence, from_posterior = run(distance)
        gap = from_evidence.kl_posterior.value
        np.testing.assert_allclose(gap, from_posterior.kl_posterior.value, atol=1e-10)
        gaps.append(float(gap))
    assert gaps[0] > gaps[1] > gaps[2] > abs(gaps[3])
    assert abs(gaps[3]) < 1e-12


def test_the_toy_gap(x64):
    # z ~ N(mu, I_20), x | z ~ N(z, I), q = N((x + mu) / 2, 2/3 I).
    one, mu, x = jnp.ones(20), jnp.linspace(-1, 2, 20), jnp.linspace(3, -1, 20)
    prior = distributions.normal(mu, one)
    found = decompose_exactly(
        lambda z: prior.log_prob(z) + distributions.normal(z, one).log_prob(x),
        distributions.normal((x + mu) / 2, one * (2 / 3) ** 0.5),
        posterior=distributions.normal((x + mu) / 2, one * 0.5**0.5),
    )
    np.testing.assert_allclose(found.kl_posterior.value, 10 * (1 / 3 - np.log(4 / 3)), rtol=1e-10)
    log_p = distributions.normal(mu, one * 2**0.5).log_prob(x)
    np.testing.assert_allclose(found.log_evidence.value, log_p, rtol=1e-12)


@pytest.fixture(scope="module", params=["linear_gaussian", "one_hot"])
def sampled(request):
    """A problem and REPEATS decompositions from draws, given the posterior, log p, or neither."""
    problem = PROBLEMS[request.param]()
    joint, q = problem.log_joint(problem.theta, problem.x), problem.guide(problem.phi)
    posterior, prior = problem.posterior(problem.theta, problem.x), prior_of(problem)
    log_p = problem.log_evidence(problem.theta, problem.x)

    def run(key):
        return {
            "posterior": decompose(key, joint, q, SAMPLES, prior=prior, posterior=posterior),
            "evidence": decompose(key, joint, q, SAMPLES, log_evidence=log_p),
            "neither": decompose(key, joint, q, SAMPLES),
        }

    def both(keys):
        exact = decompose_exactly(joint, q, prior=prior, posterior=posterior)
        return exact, jax.vmap(run)(keys)

    keys = jax.random.split(jax.random.key(0), REPEATS)
    return *jax.device_get(quick_jit(both)(keys)), float(log_p)


@pytest.mark.parametrize("told", ["posterior", "evidence", "neither"])
def test_terms_agree_with_the_exact_ones(sampled, told):
    exact, found, _ = sampled
    for name, term in found[told]._asdict().items():
        truth = getattr(exact, name).value
        if term is None:
            assert name in ("reconstruction", "kl_prior")
            assert told != "posterior"
        elif (term.standard_error == 0).all():
            np.testing.assert_allclose(term.value, np.full(REPEATS, truth), atol=1e-5)
        else:
            spread = float(term.value.std())
            # Importance sampling's log p, and the KL from it, are low by about s.e.^2 / 2.
            bias = 0.5 * spread**2 if told == "neither" else 0.0
            assert abs(term.value.mean() - truth) < 5 * spread / REPEATS**0.5 + bias + 1e-5, name
            reported = np.sqrt((term.standard_error**2).mean())
            np.testing.assert_allclose(reported, spread, rtol=0.1, atol=1e-5, err_msg=name)


def test_same_draws_make_the_identity_hold(sampled):
    _, found, log_p = sampled
    told = found["posterior"]
    total = told.elbo.value + told.kl_posterior.value
    np.testing.assert_allclose(total, np.full(REPEATS, log_p), atol=2e-5)
    assert (told.log_evidence.standard_error < 1e-6).all()  # p(x, z) / p(z | x) is p(x), always
    for terms in (found["evidence"], found["neither"]):
        total = terms.elbo.value + terms.kl_posterior.value
        np.testing.assert_allclose(total, terms.log_evidence.value, atol=1e-5)
    assert not found["evidence"].log_evidence.standard_error.any()
    assert found["neither"].kl_posterior.standard_error.all()


def test_an_evidence_lends_its_error():
    problem = PROBLEMS["bits"]()
    joint, q = problem.log_joint(problem.theta, problem.x), problem.guide(problem.phi)

    @quick_jit
    def run(key, other):
        estimate = evidence.importance(key, joint, q, 500)
        exact = decompose_exactly(joint, q, log_evidence=estimate)
        return estimate, decompose(other, joint, q, 500, log_evidence=estimate), exact

    estimate, found, exact = run(jax.random.key(0), jax.random.key(1))
    gap = estimate.log_evidence - found.elbo.value
    np.testing.assert_allclose(found.kl_posterior.value, gap, rtol=1e-6)
    both = np.hypot(estimate.standard_error, found.elbo.standard_error)
    np.testing.assert_allclose(found.kl_posterior.standard_error, both, rtol=1e-6)
    assert exact.kl_posterior.standard_error == estimate.standard_error


def test_log_evidence_that_is_known_stays_beside_a_posterior():
    # A wrong posterior moves the KL, not log p(x).
    problem = PROBLEMS["linear_gaussian"]()
    joint, q = problem.log_joint(problem.theta, problem.x), problem.guide(problem.phi)
    both = {
        "posterior": problem.posterior(problem.theta, problem.other_x),
        "log_evidence": jnp.float32(-4.5),
    }
    found = decompose(jax.random.key(0), joint, q, 7, **both)
    exact = decompose_exactly(joint, q, **both)
    for one in (found, exact):
        assert one.log_evidence.value == -4.5
        assert one.log_evidence.standard_error == 0
    kl = distributions.kl_divergence(q, both["posterior"])
    np.testing.assert_allclose(exact.kl_posterior.value, kl, rtol=1e-5)
    assert abs(found.kl_posterior.value - kl) < 5 * found.kl_posterior.standard_error


def test_a_wrong_posterior_shows():
    problem = PROBLEMS["linear_gaussian"]()
    joint, q = problem.log_joint(problem.theta, problem.x), problem.guide(problem.phi)
    wrong = problem.posterior(problem.theta, problem.other_x)
    found = quick_jit(lambda key: decompose(key, joint, q, 200, posterior=wrong))(jax.random.key(0))
    assert found.log_evidence.standard_error > 0.1


def test_three_forms_of_the_elbo_and_their_gradients():
    problem = PROBLEMS["linear_gaussian"]()

    def forms(phi, key):
        joint, q = problem.log_joint(problem.theta, problem.x), problem.guide(phi)
        return jnp.stack(
            [
                decompose(key, joint, q, 10).elbo.value,
                elbo_energy_entropy(key, joint, q, 10),
                elbo_reconstruction_kl(key, joint, q, 10, prior=prior_of(problem)),
            ]
        )

    def both(key):
        return forms(problem.phi, key), jax.jacrev(forms)(problem.phi, key)

    def exact(phi):
        return problem.elbo(problem.theta, phi, problem.x)

    run = quick_jit(lambda keys: (jax.vmap(both)(keys), jax.value_and_grad(exact)(problem.phi)))
    found = run(jax.random.split(jax.random.key(0), 4_000))
    (values, gradients), (truth, slope) = jax.device_get(found)
    assert (abs(values.mean(0) - truth) < 5 * values.std(0) / 4_000**0.5).all()
    for name, draws in gradients.items():  # [4_000, 3, 2]
        error = draws.std(0) / 4_000**0.5
        assert (abs(draws.mean(0) - slope[name][None]) < 5 * error).all(), name
        assert (error < 0.05 * abs(slope[name]).max()).all(), name


def test_zero_mass_and_zero_density():
    # A value of z that q never takes has no weight; one that p forbids makes the ELBO -inf.
    values = jnp.arange(3)
    q = distributions.Table(jnp.log(jnp.array([0.5, 0.5, 0.0])), values)

    def joint(where):
        return lambda z: jnp.where(z == where, -jnp.inf, -1.0)

    free = decompose_exactly(joint(2), q)
    np.testing.assert_allclose(free.elbo.value, -1 + np.log(2), rtol=1e-6)
    assert decompose_exactly(joint(0), q).elbo.value == -np.inf
    assert free.kl_posterior is None
    assert free.log_evidence is None


BATCHED = distributions.Normal(jnp.zeros(2), jnp.ones(2))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda key: decompose(key, wide, NORMAL, 0), ValueError, "num_samples: expected"),
        (
            lambda key: decompose(key, jnp.exp, NORMAL, 3),
            ValueError,
            "log_joint: expected one real",
        ),
        (
            lambda key: decompose(key, jnp.sum, BATCHED, 3),
            ValueError,
            "q: expected one log-density",
        ),
        (
            lambda key: decompose_exactly(jnp.exp, NORMAL),
            ValueError,
            "log_joint: expected one real",
        ),
        (
            lambda key: decompose_exactly(wide, distributions.uniform(jnp.zeros(2), jnp.ones(2))),
            TypeError,
            "q: expected a Gaussian",
        ),
        (
            lambda key: decompose_exactly(
                wide, NORMAL, prior=distributions.uniform(jnp.zeros(2), jnp.ones(2))
            ),
            TypeError,
            "prior: expected q's family",
        ),
        (
            lambda key: elbo_reconstruction_kl(
                key, wide, NORMAL, 5, prior=distributions.uniform(jnp.zeros(2), jnp.ones(2))
            ),
            TypeError,
            "prior: expected q's family",
        ),
        (
            lambda key: elbo_energy_entropy(key, wide, NORMAL, 0),
            ValueError,
            "num_samples: expected",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call(jax.random.key(0))
