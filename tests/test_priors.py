import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from deep_cases import linear
from model_cases import quick_jit
from scipy.special import log_softmax, logsumexp

from lvm_jax import bounds, distributions, guides, likelihoods, models, networks, priors
from lvm_jax.priors import Mixture, MixturePrior, Vamp
from lvm_jax.weights import log_weights

LOGITS = np.array([0.3, -1.0, 1.2])
LOCS = np.array([[0.5, -2.0], [3.0, 0.1], [-1.0, 1.0]])
SCALES = np.array([[0.4, 1.5], [1.0, 0.2], [0.7, 0.7]])
Z = np.array([[0.0, 0.0], [3.1, 0.3], [-40.0, 25.0]])  # between, upon one, and far from all
START = np.array([[0.1, 1.0, -0.5], [2.0, 0.3, 0.0], [-1.0, 0.5, 0.8], [0.4, 0.4, 2.0]])


def log_mixture(z, logits, locs, scales):
    each = st.norm.logpdf(z[:, None], locs, scales).sum(2)
    return logsumexp(log_softmax(logits) + each, axis=1)


def learned():
    params = MixturePrior(*map(jnp.asarray, (LOGITS, LOCS, np.log(SCALES))))
    return priors.mixture(2, 3).build(params)


def encoder():
    """q(z | x) = N(A x + a, diag(exp(B x + b))^2), 3 -> 2, in numbers and as a guide with phi."""
    weight = np.array([[0.7, -0.3, 0.2], [-0.5, 0.4, 1.0], [0.2, 0.1, -0.3], [0.0, -0.4, 0.1]])
    bias = np.array([0.3, -0.6, -0.5, 0.2])
    network = networks.mlp(3, (), 4)
    guide = guides.amortized(guides.mean_field(2), network.init, network.apply)
    phi = guide.init(jax.random.key(0))._replace(network=linear(weight, bias))
    return guide, phi, weight, bias


def aggregate(z, logits, pseudo_inputs, weight, bias):
    """The explicit sum, log sum_k pi_k q(z | u_k), in NumPy."""
    loc, log_scale = np.split(pseudo_inputs @ weight.T + bias, 2, axis=1)
    return log_mixture(z, logits, loc, np.exp(log_scale))


@pytest.mark.parametrize(("x64", "rtol"), [(False, 1e-5), (True, 1e-12)])
def test_the_densities_are_sums_of_components(x64, rtol):
    with jax.enable_x64(x64):
        z = jnp.asarray(Z, float)
        found = quick_jit(jax.vmap(learned().log_prob))(z)
        np.testing.assert_allclose(found, log_mixture(Z, LOGITS, LOCS, SCALES), rtol=rtol)
        standard = priors.standard_normal(2)
        assert standard.init(jax.random.key(0)) == ()
        want = st.norm.logpdf(Z).sum(1)
        np.testing.assert_allclose(jax.vmap(standard.build(()).log_prob)(z), want, rtol=rtol)


def test_draws_of_a_mixture_have_its_moments():
    num = 20_000
    q = learned()
    draw = quick_jit(
        lambda key: (q.sample(seed=key), q.sample(seed=key, sample_shape=(num // 2, 2)))
    )
    one, draws = draw(jax.random.key(1))
    assert one.shape == (2,)
    assert draws.shape == (num // 2, 2, 2)
    draws, pi = np.asarray(draws, float).reshape(num, 2), np.exp(log_softmax(LOGITS))
    mean = pi @ LOCS
    second = np.einsum("k,ki,kj->ij", pi, LOCS, LOCS) + np.diag(pi @ SCALES**2)
    products = draws[:, :, None] * draws[:, None]
    for got, want in ((draws, mean), (products, second)):
        assert (np.abs(got.mean(0) - want) <= 5 * got.std(0) / np.sqrt(num)).all()
    # Not only the moments: the share of each component's own region, a box about it.
    inside = (np.abs(draws[:, None] - LOCS) < SCALES).all(2).mean(0)
    box = st.norm.cdf((LOCS[:, None] + SCALES[:, None] - LOCS) / SCALES)
    box = (box - st.norm.cdf((LOCS[:, None] - SCALES[:, None] - LOCS) / SCALES)).prod(2) @ pi
    assert (np.abs(inside - box) <= 5 * np.sqrt(box * (1 - box) / num)).all()


def test_a_mixture_is_safe_under_every_transformation():
    """And is never taken for reparameterised: the choice of a component has no derivative."""
    prior, z = priors.mixture(2, 3), jnp.asarray(Z[0], float)
    params = MixturePrior(*(jnp.asarray(v, jnp.float32) for v in (LOGITS, LOCS, np.log(SCALES))))
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.9 * leaf]), params)

    @quick_jit
    def compute(params, both):
        live = jax.grad(lambda p: prior.build(p).log_prob(z))(params)
        stopped = jax.grad(lambda p: jax.lax.stop_gradient(prior.build(p)).log_prob(z))(params)
        crossed = jax.vmap(lambda q: q.log_prob(z))(jax.vmap(prior.build)(both))
        return live, stopped, crossed, prior.build(params)

    live, stopped, crossed, q = compute(params, both)
    responsibility = np.exp(
        log_softmax(LOGITS)
        + st.norm.logpdf(Z[0], LOCS, SCALES).sum(1)
        - log_mixture(Z[:1], LOGITS, LOCS, SCALES)
    )
    np.testing.assert_allclose(live.logits, responsibility - np.exp(log_softmax(LOGITS)), atol=1e-6)
    slope = responsibility[:, None] * (Z[0] - LOCS) / SCALES**2
    np.testing.assert_allclose(live.locs, slope, rtol=1e-5, atol=1e-6)
    assert not any(leaf.any() for leaf in jax.tree.leaves(stopped))
    want = [log_mixture(Z[:1], c * LOGITS, c * LOCS, SCALES**c)[0] for c in (1.0, 0.9)]
    np.testing.assert_allclose(crossed, want, rtol=1e-5)
    assert not distributions.is_reparameterized(q)
    assert distributions.support(q) is None
    assert distributions.entropy(q) is None
    assert distributions.kl_divergence(distributions.normal(z, z + 1), q) is None


def test_a_fresh_mixture_is_spread_like_the_standard_normal():
    num = 4_000
    params = priors.mixture(2, num).init(jax.random.key(2))
    second = (np.asarray(params.locs, float) ** 2 + np.exp(2 * params.log_scales)).mean(0)
    assert (np.abs(second - 1) < 5 * 0.75 * np.sqrt(2 / num)).all()  # var of 3/4 e^2 is 9/8
    assert len(np.unique(params.locs, axis=0)) == num
    assert not params.logits.any()


def test_components_may_be_of_any_shape():
    """Draws and densities of a mixture over a pair z, of two unlike parts."""

    class Pair:
        def __init__(self, loc):
            self.a, self.b = (
                distributions.normal(loc[:1], jnp.ones(1)),
                distributions.normal(loc[1:], jnp.full(2, 0.5)),
            )

        def log_prob(self, value):
            return self.a.log_prob(value[0]) + self.b.log_prob(value[1])

        def sample(self, *, seed, sample_shape=()):
            return self.a.sample(seed=seed), self.b.sample(seed=seed)

    locs = jnp.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    q = Mixture(jnp.log(jnp.array([0.25, 0.75])), (), locs, lambda shared, loc: Pair(loc))

    @quick_jit
    def compute(key):
        draws = q.sample(seed=key, sample_shape=(3,))
        return draws, q.log_prob(jax.tree.map(lambda leaf: leaf[0], draws))

    (a, b), found = compute(jax.random.key(0))
    assert (a.shape, b.shape) == ((3, 1), (3, 2))
    each = (
        st.norm.logpdf(a[0], locs[:, :1]) + st.norm.logpdf(b[0], locs[:, 1:], 0.5).sum(1)[:, None]
    )
    want = logsumexp(np.log([0.25, 0.75]) + each[:, 0])
    np.testing.assert_allclose(found, want, rtol=1e-5)


def vamp(params, q):
    return priors.mixture_of(q, params.pseudo_inputs, params.logits)


def test_vamp_is_the_explicit_sum_over_pseudo_inputs(x64):
    guide, phi, weight, bias = encoder()
    params = Vamp(jnp.asarray(START[:3]), jnp.asarray(LOGITS))

    def density(params, q):
        return jax.vmap(vamp(params, q).log_prob)(jnp.asarray(Z))

    found = quick_jit(density)(params, guide(phi))
    np.testing.assert_allclose(found, aggregate(Z, LOGITS, START[:3], weight, bias), rtol=1e-12)
    equal = quick_jit(jax.vmap(priors.mixture_of(guide(phi), params.pseudo_inputs).log_prob))(Z)
    want = aggregate(Z, np.zeros(3), START[:3], weight, bias)
    np.testing.assert_allclose(equal, want, rtol=1e-12)


def test_vamp_starts_at_rows_of_the_data():
    prior = priors.vamp(3, START)
    params = quick_jit(prior.init)(jax.random.key(3))
    distance = np.abs(np.asarray(params.pseudo_inputs)[:, None] - START).max(2)
    assert (distance.min(1) < 0.05 * START.std()).all()
    assert len(set(distance.argmin(1))) == 3  # without replacement
    assert params.pseudo_inputs.dtype == jnp.float32
    # Two equal rows of the data do not make two equal components.
    twice = priors.vamp(3, np.repeat(START[:3], 2, axis=0))
    pseudo_inputs = quick_jit(twice.init)(jax.random.key(4)).pseudo_inputs
    assert len(np.unique(pseudo_inputs, axis=0)) == 3


def test_vamp_of_as_many_pseudo_inputs_as_rows_takes_every_row_once():
    rows = np.arange(33.0).reshape(11, 3) ** 1.1
    init = quick_jit(priors.vamp(11, rows).init)
    for seed in range(3):
        found = np.asarray(init(jax.random.key(seed)).pseudo_inputs)
        distance = np.abs(found[:, None] - rows).max(2)
        assert sorted(distance.argmin(1)) == list(range(11))


DEEP = models.deep_latent_gaussian(
    priors.vamp(3, START), networks.mlp(2, (), 3), likelihoods.gaussian(3)
)


def pair_of(guide):
    def pair(theta, phi):
        q = guide(phi)
        return DEEP(theta, vamp(theta.prior, q)), q

    return pair


def test_gradients_reach_phi_through_the_prior_of_a_pair(x64):
    """d log p(z) / d phi by central differences of the explicit sum."""
    guide, phi, weight, bias = encoder()
    theta = DEEP.init(jax.random.key(1))
    theta = theta._replace(prior=Vamp(jnp.asarray(START[:3]), jnp.asarray(LOGITS)))

    def log_prior(theta, phi):
        return pair_of(guide)(theta, phi)[0].prior().log_prob(jnp.asarray(Z[1]))

    in_theta, in_phi = quick_jit(jax.grad(log_prior, (0, 1)))(theta, phi)
    step = 1e-6
    for i, j in np.ndindex(*weight.shape):
        shift = step * (np.arange(weight.size).reshape(weight.shape) == weight.shape[1] * i + j)
        up, down = (
            aggregate(Z[1:2], LOGITS, START[:3], weight + sign * shift, bias)[0] for sign in (1, -1)
        )
        found = in_phi.network["output"]["kernel"][j, i]
        assert float(found) == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-8)
    assert np.abs(in_theta.prior.pseudo_inputs).max() > 0.1


def test_an_elbo_under_a_vamp_prior_is_unbiased_for_its_quadrature():
    """The whole way: deep model, pair, log-weights, bound; against a grid over z in NumPy."""
    guide, phi, weight, bias = encoder()
    theta = DEEP.init(jax.random.key(1))
    p, q = pair_of(guide)(theta, phi)
    x, num = jnp.array([0.4, -0.2, 1.0]), 20_000
    log_w = quick_jit(lambda key: log_weights(key, p.log_joint(x), q(x), num))(jax.random.key(2))
    log_w = np.asarray(log_w, float)
    loc, log_scale = np.split(weight @ np.asarray(x, float) + bias, 2)
    nodes, mass = np.polynomial.hermite_e.hermegauss(40)
    noise = np.stack([a.ravel() for a in np.meshgrid(nodes, nodes)], 1)
    z, mass = loc + np.exp(log_scale) * noise, np.outer(mass, mass).ravel() / (2 * np.pi)
    output = theta.decoder["output"]
    mean = z @ np.asarray(output["kernel"], float) + np.asarray(output["bias"], float)
    pseudo_inputs = np.asarray(theta.prior.pseudo_inputs, float)
    joint = aggregate(z, np.zeros(3), pseudo_inputs, weight, bias)
    joint += st.norm.logpdf(np.asarray(x, float), mean).sum(1)
    want = mass @ (joint - st.norm.logpdf(z, loc, np.exp(log_scale)).sum(1))
    assert abs(float(bounds.elbo(jnp.asarray(log_w))) - want) < 5 * log_w.std() / np.sqrt(num)


def test_a_vamp_prior_without_its_guide_is_refused():
    theta = DEEP.init(jax.random.key(1))
    with pytest.raises(ValueError, match=r"prior: expected the VampPrior built from q.*mixture_of"):
        DEEP(theta).prior()


def test_settings_that_make_no_prior_are_refused():
    with pytest.raises(ValueError, match="dim: expected an integer >= 1, got 0"):
        priors.standard_normal(0)
    with pytest.raises(ValueError, match="num_components: expected an integer >= 1, got 0"):
        priors.mixture(2, 0)
    with pytest.raises(ValueError, match="start: expected at least 5 rows, got shape"):
        priors.vamp(5, START)
    with pytest.raises(ValueError, match="start: expected at least 2 distinct rows"):
        priors.vamp(2, np.ones((4, 3)))
    with pytest.raises(ValueError, match="start: expected finite numbers"):
        priors.vamp(2, np.where(START > 1, np.nan, START))
