import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from model_cases import CASES, quick_jit

from lvm_jax import distributions, evidence, guides
from lvm_jax.training import Parameters

MODEL, THETA, X, *_ = CASES["diagonal"]()  # two latent dimensions, x in three
KEY = jax.random.key(0)
SGD = optax.sgd(0.05)


@pytest.fixture
def problem(x64):
    """theta and one x, in double precision."""
    return CASES["diagonal"]()[1:3]


def place(family):
    """eta_0(x) = offset + A x."""
    return guides.linear(family, 3)


def start_of(family, seed=3):
    """phi of that place, at random."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(place(family).init, KEY)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape)), shapes)


def curvature(theta):
    """The precision of the posterior, I + W^T Psi^-1 W."""
    w, precision = theta.loadings, jnp.exp(-2 * theta.log_noise)
    return jnp.eye(2) + w.T @ (w * precision[:, None])


def test_one_step_is_the_gradient_step_by_hand(problem):
    """d ELBO/dm = W^T Psi^-1 (x - b - W m) - (m - m_0), d ELBO/dlog s_d = 1 - s_d^2 Lambda_dd."""
    theta, x = problem
    family = guides.mean_field(2)
    eta = guides.families.MeanField(jnp.array([0.8, -0.1]), jnp.array([-0.6, 0.3]))
    step = functools.partial(guides.refine, MODEL(theta).log_joint(x[0]), family, eta)
    found = quick_jit(lambda: step(guides.cubature_elbo, SGD, 1))()
    residual = (x[0] - theta.offset - theta.loadings @ eta.loc) * jnp.exp(-2 * theta.log_noise)
    slope = theta.loadings.T @ residual - (eta.loc - theta.prior_mean)
    spread = 1 - jnp.exp(2 * eta.log_scale) * jnp.diag(curvature(theta))
    np.testing.assert_allclose(found.loc, eta.loc + 0.05 * slope, rtol=1e-12)
    np.testing.assert_allclose(found.log_scale, eta.log_scale + 0.05 * spread, rtol=1e-12)
    for one, other in zip(step(guides.cubature_elbo, SGD, 0), eta, strict=True):
        np.testing.assert_array_equal(one, other)


def test_steps_climb_to_the_exact_posterior(problem):
    theta, x = problem
    family, start = guides.full_rank(2), start_of(guides.full_rank(2))
    exact = MODEL.posterior(theta, x[1])

    @quick_jit
    def climb(start):
        joint = MODEL(theta).log_joint(x[1])
        eta = place(guides.Family(family.init, lambda eta: eta)).posterior(start, x[1])

        def step(eta, _):
            q = family.build(eta)
            gap = distributions.kl_divergence(q, exact)
            elbo = guides.cubature_elbo(joint, q)
            return guides.refine(joint, family, eta, guides.cubature_elbo, SGD, 1), (gap, elbo)

        last, trace = jax.lax.scan(step, eta, length=400)
        ten = guides.refine(joint, family, eta, guides.cubature_elbo, SGD, 400)
        return trace, last, ten, MODEL.log_evidence(theta, x[1])

    (gap, elbo), last, all_at_once, log_p = climb(start)
    assert gap[0] > 1
    assert gap[-1] < 1e-12
    assert (np.diff(elbo) > -1e-12).all()  # never worse than before, nor than the start
    np.testing.assert_allclose(elbo + gap, np.full(400, log_p), rtol=1e-12)
    for one, other in zip(jax.tree.leaves(last), jax.tree.leaves(all_at_once), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def full_rank_guide(objective, num_steps, optimizer=SGD, **options):
    return guides.refined(guides.full_rank(2), place, objective, optimizer, num_steps, **options)


def test_draws_of_one_key_refine_as_well(problem):
    theta, x = problem
    guide = full_rank_guide(guides.sampled_elbo(jax.random.key(5), 64), 200)
    p, phi = MODEL(theta), start_of(guides.full_rank(2))

    @quick_jit
    def gap(phi, x):
        first = place(guides.full_rank(2))(phi)
        exact = p.posterior(x)
        return [distributions.kl_divergence(q(x), exact) for q in (first, guide(p, phi))]

    for row in x:
        before, after = gap(phi, row)
        # The optimum for 64 fixed draws: m and L are off by O(64^-1/2), the divergence by 5/128.
        assert after < 5 * 5 / 128 < 0.2 < before
        assert gap(phi, row)[1] == after  # no draw but those of the key


def test_the_evidence_of_a_refined_guide_is_exact(problem):
    theta, x = problem
    guide = full_rank_guide(guides.cubature_elbo, 400)
    q = guide(MODEL(theta), start_of(guides.full_rank(2)))
    found = evidence.evaluate(jax.random.key(1), MODEL(theta), q, x, 20)
    want = quick_jit(jax.vmap(MODEL.log_evidence, (None, 0)))(theta, x)
    np.testing.assert_allclose(found.log_evidence, want, rtol=1e-6)
    assert (found.standard_error < 1e-5).all()


def elbo_of(guide, x):
    def elbo(params):
        p = MODEL(params.theta)
        return guides.cubature_elbo(p.log_joint(x), guide(p, params.phi)(x))

    return elbo


def test_gradients_pass_through_the_steps(problem):
    theta, x = problem
    elbo = elbo_of(full_rank_guide(guides.cubature_elbo, 3), x[0])
    flat, unravel = ravel_pytree(Parameters(theta, start_of(guides.full_rank(2))))
    step = 1e-5

    @quick_jit
    def compute(flat):
        slope = jax.grad(lambda flat: elbo(unravel(flat)))(flat)
        shifts = step * jnp.eye(flat.size)
        up, down = (jax.vmap(lambda d: elbo(unravel(flat + d)))(d) for d in (shifts, -shifts))
        return slope, (up - down) / (2 * step)

    slope, difference = compute(flat)
    np.testing.assert_allclose(slope, difference, atol=1e-7)


def test_stopped_steps_shift_the_start(problem):
    """phi gets the gradient at eta_T, and theta that of the joint alone."""
    theta, x = problem
    family = guides.full_rank(2)
    through, stopped = (
        full_rank_guide(guides.cubature_elbo, 3, through=flag) for flag in (True, False)
    )
    params = Parameters(theta, start_of(family))

    @quick_jit
    def compute(params):
        eta_guide = place(guides.Family(family.init, lambda eta: eta))
        eta, pull = jax.vjp(lambda start: eta_guide.posterior(start, x[0]), params.phi)
        joint = MODEL(theta).log_joint(x[0])
        last = guides.refine(joint, family, eta, guides.cubature_elbo, SGD, 3)

        def value(last, theta):
            return guides.cubature_elbo(MODEL(theta).log_joint(x[0]), family.build(last))

        at_last, of_theta = jax.grad(value, (0, 1))(last, theta)
        found = [jax.value_and_grad(elbo_of(guide, x[0]))(params) for guide in (through, stopped)]
        return found, Parameters(of_theta, pull(at_last)[0])

    ((same, full), (value, found)), want = compute(params)
    np.testing.assert_allclose(value, same, rtol=1e-13)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)
    assert np.abs(full.phi.network - found.phi.network).max() > 0.1


def test_adam_has_no_slope_at_the_optimum_without_its_eps_root():
    """There sqrt(v) has none: NaN. With eps_root r one step moves by -rate g / (sqrt(g^2 + r) + eps)."""

    def last(loc, optimizer):
        family = guides.location(1, 1.0)
        eta = family.init(KEY)._replace(loc=loc)
        joint = lambda z: -0.5 * (z[0] - 0.5) ** 2  # noqa: E731
        return guides.refine(joint, family, eta, guides.cubature_elbo, optimizer, 1).loc[0]

    @quick_jit
    def slopes(loc):
        kinds = optax.adam(0.1), optax.adam(0.1, eps_root=1e-8)
        return [jax.grad(last)(loc, optimizer)[0] for optimizer in kinds]

    plain, rooted = slopes(jnp.array([0.5]))
    assert np.isnan(plain)
    np.testing.assert_allclose(rooted, 1 - 0.1 / (1e-4 + 1e-8), rtol=1e-5)


def test_a_flow_is_refined_from_draws():
    """Steps that start at the standard normal, for a point far from the prior's middle."""
    family = guides.flow_family("iaf", 2, 2, (8,))
    joint = MODEL(THETA).log_joint(X[1])
    objective = guides.sampled_elbo(jax.random.key(5), 16)

    @quick_jit
    def compute(key):
        eta = family.init(key)
        last = guides.refine(joint, family, eta, objective, optax.adam(0.1), 100)
        return [guides.sampled_elbo(KEY, 2_000)(joint, family.build(e)) for e in (eta, last)]

    before, after = compute(KEY)
    log_p = MODEL.log_evidence(THETA, X[1])
    assert log_p - before > 5
    assert -0.05 < log_p - after < 0.5


def test_refusals():
    flow = guides.flow_family("iaf", 2, 1, (4,))
    joint = MODEL(THETA).log_joint(X[0])
    with pytest.raises(ValueError, match="num_steps: expected an integer >= 0, got -1"):
        full_rank_guide(guides.cubature_elbo, -1)
    with pytest.raises(TypeError, match="q: expected a Gaussian, got Flow"):
        guides.cubature_elbo(joint, jax.eval_shape(flow.init, KEY))
    with pytest.raises(ValueError, match="num_samples: expected an integer >= 1"):
        guides.sampled_elbo(KEY, 0)
    with pytest.raises(TypeError, match="key: expected a typed key"):
        guides.sampled_elbo(0, 5)
