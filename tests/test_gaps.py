"""Approximation and amortisation gaps on a linear-Gaussian model, where both are closed forms."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from decomposition_cases import quick_programs  # noqa: F401
from model_cases import CASES, quick_jit

from lvm_jax import distributions, evidence, guides, weights
from lvm_jax._core import keys as host_keys
from lvm_jax.decomposition import Ascent, decompose_exactly, fit_local, gaps
from lvm_jax.decomposition.gaps import _safe_elbo
from lvm_jax.decomposition.local import _express, _starts
from lvm_jax.estimate import Estimate
from lvm_jax.models import Model

MODEL, THETA, ROWS, *_ = CASES["diagonal"]()  # two latent dimensions, x in three
ROWS = ROWS * jnp.array([[1.0], [0.5]])
THETA = THETA._replace(loadings=jnp.array([[1.2, 0.9], [-0.5, -0.8], [0.7, 0.9]]))
REPEATS = 50
X = jnp.repeat(ROWS, REPEATS, axis=0)  # [100, 3]: repeats show the true error of everything
GUIDE = guides.linear(guides.mean_field(2), 3)
PHI = guides.Amortized(
    guides.families.MeanField(jnp.array([0.2, -0.4]), jnp.array([-0.9, -0.2])),
    0.15 * jnp.asarray(np.random.default_rng(1).standard_normal((4, 3)), jnp.float32),
)
FAMILIES = {
    "mean-field": guides.mean_field(2),
    "full covariance": guides.full_rank(2),
    "flow": guides.flow_family("coupling", 2, 2, (4,)),
}
SIZES = {"ascent": Ascent(num_steps=400), "num_samples": 400}


def run(seed, families, **options):
    key = jax.random.key(seed)
    return jax.device_get(
        gaps(key, MODEL(THETA), GUIDE(PHI), X, families=families, **SIZES | options)
    )


@pytest.fixture(scope="module")
def truth():
    """log p and KL(q || posterior) of the two points, [2, 1], and the mean-field gap."""

    def exact(x):
        posterior = MODEL.posterior(THETA, x)
        kl = distributions.kl_divergence(GUIDE.posterior(PHI, x), posterior)
        return MODEL.log_evidence(THETA, x), kl, posterior.cholesky

    log_p, kl, lower = (np.asarray(part, float) for part in quick_jit(jax.vmap(exact))(ROWS))
    precision = np.linalg.inv(lower[0] @ lower[0].T)
    # The best mean-field q has the posterior's mean and the variances 1 / Lambda_dd.
    best = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    return log_p[:, None], kl[:, None], best


@pytest.fixture(scope="module")
def found():
    return run(0, FAMILIES)


def grouped(measured):
    """Mean over the repeats of a point and its error, [2, 1] each."""
    value, error = (leaf.reshape(2, REPEATS) for leaf in measured)
    return value.mean(1, keepdims=True), np.sqrt((error**2).sum(1, keepdims=True)) / REPEATS


def check(measured, want, atol=0.0, share=0.02):
    """Within 5 errors of the truth, and the error at most a share of it."""
    value, error = grouped(measured)
    assert (np.abs(value - want) < 5 * error + atol).all()
    assert (error < share * np.abs(want)).all()


def test_gaps_are_the_closed_forms(found, truth):
    log_p, kl, best = truth
    assert best > 0.2
    assert (kl - best > 0.3).all()
    # log p from 400 draws is low by half its variance, which vanishes with the best q's gap.
    check(found.log_evidence, log_p, 2e-4)
    check(found.elbo, log_p - kl)
    check(found.inference, kl, 2e-4)
    field, full = found.families["mean-field"], found.families["full covariance"]
    # 400 steps of Adam leave q* within a thousandth of a nat of the best of its family.
    check(field.approximation, best, 1e-3)
    check(field.amortization, kl - best, 1e-3)
    check(full.amortization, kl, 2e-4)
    for one in found.families.values():
        total = one.approximation.value + one.amortization.value
        np.testing.assert_allclose(total, found.inference.value, atol=2e-5)
        rise = one.elbo.value - found.elbo.value
        np.testing.assert_allclose(one.amortization.value, rise, atol=2e-5)


def test_errors_are_those_of_repeats(found):
    field = found.families["mean-field"]
    for one in (found.elbo, found.inference, field.elbo, field.approximation, field.amortization):
        spread = one.value.reshape(2, REPEATS).var(1, ddof=1)
        stated = (one.standard_error.reshape(2, REPEATS) ** 2).mean(1)
        assert (np.abs(spread / stated - 1) < 5 * np.sqrt(2 / (REPEATS - 1))).all()
    mean = found.elbo.average()
    np.testing.assert_allclose(mean.value, found.elbo.value.mean(), rtol=1e-6)
    error = np.sqrt((found.elbo.standard_error**2).sum()) / (2 * REPEATS)
    np.testing.assert_allclose(mean.monte_carlo_error, error, rtol=1e-5)
    error = found.elbo.value.std(ddof=1) / np.sqrt(2 * REPEATS)
    np.testing.assert_allclose(mean.sampling_error, error, rtol=1e-5)


def test_the_family_that_holds_the_posterior_has_no_gap(found):
    # Sticking to the landing: the gradient's noise vanishes there, and so does the error.
    full = found.families["full covariance"]
    assert (np.abs(full.approximation.value) < 1e-4).all()
    assert (full.approximation.standard_error < 1e-3).all()
    assert found.source == "importance"
    assert (found.k_hat < 0.7).mean() > 0.9


def test_a_flow_comes_nearer_than_the_mean_field(found, truth):
    value, error = grouped(found.families["flow"].approximation)
    assert (value + 5 * error < 0.5 * truth[2]).all()
    assert (value > -5 * error - 1e-4).all()


def test_the_ascent_says_whether_it_arrived(found):
    for one in found.families.values():
        value, error = grouped(one.gain)
        assert (np.abs(value) < 5 * error + 2e-3).all()
        assert set(one.start) <= {0, 1}


def test_log_evidence_may_be_given(found, truth):
    log_p, kl, _ = truth
    family = {"full covariance": FAMILIES["full covariance"]}
    exact = run(0, family, log_evidence=np.repeat(log_p, REPEATS).astype(np.float32))
    assert exact.source == "given"
    assert np.isnan(exact.k_hat).all()
    check(exact.inference, kl)
    # The best q, one for each point, weighs for any other method too.
    eta = found.families["mean-field"].eta
    guide = guides.per_point(FAMILIES["mean-field"], 2 * REPEATS)
    key = jax.random.key(2)
    known = evidence.evaluate(key, MODEL(THETA), guide(eta), X, 100, q_per_point=True)
    check(Estimate(known.log_evidence, known.standard_error), log_p, 5e-3)
    measured = run(0, family, log_evidence=known)
    np.testing.assert_array_equal(measured.log_evidence.value, known.log_evidence)
    np.testing.assert_array_equal(measured.k_hat, known.k_hat)
    both = np.hypot(exact.inference.standard_error, known.standard_error)
    np.testing.assert_allclose(measured.inference.standard_error, both, rtol=1e-5)


def test_without_families_the_gap_stays_whole(truth):
    whole = run(0, {})
    assert whole.families == {}
    value, error = grouped(whole.elbo)
    assert (np.abs(value - (truth[0] - truth[1])) < 5 * error).all()
    # log p is by importance sampling from the guide itself.
    inference = whole.log_evidence.value - whole.elbo.value
    np.testing.assert_allclose(whole.inference.value, inference, atol=1e-5)
    assert grouped(whole.inference)[0][0] > 0.5 * truth[1][0]


def test_starts_find_the_larger_mode():
    """x = 4 of N(z^2, 1/4): modes near -2 and 2, and the prior N(1, 1) prefers the second."""
    model = Model(
        lambda key: (),
        lambda theta: distributions.normal(jnp.ones(1), jnp.ones(1)),
        lambda theta, z: distributions.normal(z**2, jnp.full(1, 0.5)),
    )
    family = guides.mean_field(1)
    phi = guides.families.MeanField(jnp.array([-2.0]), jnp.array([-2.0]))
    arguments = model(()), guides.shared(family)(phi), jnp.array([[4.0]]), family
    found = fit_local(
        jax.random.key(0),
        *arguments,
        ascent=Ascent(num_steps=40, num_starts=4, optimizer=optax.adam(0.05)),
    )
    assert found.eta.loc[0, 0] > 1.5
    assert found.start[0] > 0
    # 40 steps are too few, and the gain of the last ones shows it.
    assert found.gain.value[0] > 3 * found.gain.standard_error[0]
    assert found.gain.value[0] > 0.5


@pytest.fixture
def seen(monkeypatch):
    """The keys of all draws and splits, in numbers, from inside compiled loops too.

    `note` adds one by hand.
    """
    keys, draw, split = [], weights.draw, jax.random.split

    def note(key, place=0.0):  # of each q that a mapped key serves
        record = lambda data, _: keys.append(tuple(np.ravel(data).tolist()))  # noqa: E731
        jax.debug.callback(record, jax.random.key_data(key), place)

    def noted(key, q, num_samples):
        gaussian = distributions.gaussian_parts(q)
        note(key, 0.0 if gaussian is None else gaussian[0])
        return draw(key, q, num_samples)

    def noted_split(key, num=2):
        note(key)
        return split(key, num)

    monkeypatch.setattr(weights, "draw", noted)
    monkeypatch.setattr(jax.random, "split", noted_split)
    monkeypatch.setattr(host_keys, "MOST", 0)  # `split` of the host calls that of jax
    return keys, note


def times(keys, result):
    """How often each key was used, in rising order."""
    jax.block_until_ready(result)
    jax.effects_barrier()
    return sorted(collections.Counter(keys).values())


class Student:
    """A q that is no pytree and has no closed moments: its own come from draws."""

    def sample(self, *, seed, sample_shape=()):
        return jax.random.t(seed, 5.0, (*sample_shape, 2))

    def log_prob(self, z):
        return jax.scipy.stats.t.logpdf(z, 5.0).sum()


def test_fit_local_uses_no_key_twice(seen):
    keys, note = seen

    def init(key):
        note(key)
        return guides.families.MeanField(jax.random.normal(key, (2,)), jnp.zeros(2))

    guide = guides.Guide(lambda key: (), lambda phi, x: Student())
    family = guides.Family(init, guides.mean_field(2).build)
    found = fit_local(
        jax.random.key(5), MODEL(THETA), guide(()), X[:1], family, ascent=Ascent(num_steps=2, num_draws=3, num_starts=3, optimizer=optax.sgd(1e-3)), )  # fmt: skip
    # One evaluation of the family; of the point 3 starts, q's moments, the prior, 3 x 2 steps; the gain,
    # which compares two q by one key; and the choice among the starts, by one key for the three.
    # 4 keys are split.
    assert times(keys, found) == [1] * (12 + 4) + [2, 3]


def test_gaps_choose_and_measure_by_different_draws(seen):
    keys, _ = seen
    guide = guides.Guide(lambda key: (), lambda phi, x: Student())
    found = gaps(
        jax.random.key(5), MODEL(THETA), guide(()), X[:16], num_samples=3, ascent=Ascent(num_steps=2, optimizer=optax.sgd(1e-3), num_starts=1),
        families={"mean-field": guides.mean_field(2)}, )  # fmt: skip
    # fit_local: the prior, q's moments, 2 steps, the choice, its gain (2); then the guide and q*
    # share the draws that choose between them, and others that measure both. 6 keys are split, one
    # for all points. A bucket of 16 points has no padding, which would use a point's keys again.
    assert times(keys, found) == [1] * (1 + 16 * 10) + [2] * (16 * 3)


def test_the_gain_is_that_of_the_last_tenth():
    # loc moves by 0.05 a step, in a line: after 27 and after 30 steps.
    family, start = guides.mean_field(2), guides.families.MeanField(jnp.zeros(2), jnp.zeros(2))
    guide = guides.Guide(lambda key: (), lambda phi, x: family.build(start))

    def straight(key, joint, build, eta, num_samples):
        return eta.loc.sum()

    found = fit_local(
        jax.random.key(0), MODEL(THETA), guide(()), X[:1], family, ascent=Ascent(num_steps=30, num_starts=1, estimate=straight, optimizer=optax.sgd(0.05)), )  # fmt: skip
    np.testing.assert_allclose(found.eta.loc[0], [1.5, 1.5], rtol=1e-5)
    joint = MODEL(THETA).log_joint(X[0])

    @quick_jit
    def elbo(at):
        q = family.build(start._replace(loc=jnp.broadcast_to(at, 2)))
        return decompose_exactly(joint, q).elbo.value

    elbos = [elbo(np.float32(at)) for at in (1.35, 1.5)]
    error = found.gain.standard_error[0]
    assert abs(found.gain.value[0] - (elbos[1] - elbos[0])) < 5 * error
    assert error < 0.1 * abs(elbos[1] - elbos[0])


def test_a_start_that_is_nan_is_not_chosen():
    base = guides.mean_field(2)
    broken = base._replace(init=lambda key: guides.families.MeanField(*jnp.full((2, 2), jnp.nan)))
    found = fit_local(
        jax.random.key(0),
        MODEL(THETA),
        GUIDE(PHI),
        X[:3],
        broken,
        ascent=Ascent(num_steps=5, num_starts=2),
    )
    assert found.start.tolist() == [0, 0, 0]
    assert np.isfinite(found.eta.loc).all()


def test_the_first_start_has_the_moments_of_the_guide():
    full = distributions.FullRankNormal(
        jnp.array([0.4, -1.0]), jnp.array([[0.5, 0.0], [-0.7, 1.3]])
    )
    sd = np.sqrt([0.25, 0.49 + 1.69])
    field, whole = guides.mean_field(2), guides.full_rank(2)

    @quick_jit
    def express(key):
        start = field.init(jax.random.key(1))
        each = _express(key, start, full), _express(key, start, Student())
        return *each, whole.build(_express(key, whole.init(jax.random.key(1)), full)).cholesky

    of_normal, eta, cholesky = express(jax.random.key(0))
    np.testing.assert_allclose(of_normal.loc, full.mean, rtol=1e-6)
    np.testing.assert_allclose(np.exp(of_normal.log_scale), sd, rtol=1e-5)
    np.testing.assert_allclose(cholesky, full.cholesky, rtol=1e-5)
    # Draws of a Student of 5 degrees: variance 5/3 by coordinate, known to about a tenth.
    np.testing.assert_allclose(np.exp(eta.log_scale), np.full(2, (5 / 3) ** 0.5), rtol=0.25)
    assert (np.abs(eta.loc) < 5 * (5 / 3 / 200) ** 0.5).all()


def test_starts_are_the_guide_the_family_and_draws_of_the_prior():
    family = guides.mean_field(2)
    own = family.init(jax.random.key(1))
    q = distributions.normal(jnp.array([0.4, -1.0]), jnp.array([0.5, 2.0]))
    prior = distributions.normal(jnp.full(2, 30.0), jnp.ones(2))
    starts = quick_jit(lambda key: _starts(key, family, q, prior, 4))
    etas = jax.device_get(starts(jax.random.key(0)))
    np.testing.assert_allclose(etas.loc[0], [0.4, -1.0], rtol=1e-6)
    np.testing.assert_allclose(etas.loc[1], own.loc)
    assert (np.abs(etas.loc[2:] - 30) < 5).all()
    assert (etas.loc[2] != etas.loc[3]).all()
    np.testing.assert_allclose(etas.log_scale[1:], np.tile(own.log_scale, (3, 1)))


def test_the_judge_takes_four_errors_off():
    joint, key = MODEL(THETA).log_joint(X[0]), jax.random.key(4)
    q = distributions.normal(jnp.zeros(2), jnp.full(2, 0.7))

    @quick_jit
    def judge(key):
        broken = _safe_elbo(key, lambda z: z[0] * jnp.nan, q)
        return weights.log_weights(key, joint, q, 200), _safe_elbo(key, joint, q), broken

    log_w, found, broken = jax.device_get(judge(key))
    expected = log_w.mean() - 4 * log_w.std(ddof=1) / 200**0.5
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert broken == -np.inf


def test_refusals():
    with pytest.raises(ValueError, match=r"log_evidence: expected shape \(100,\), got \(3,\)"):
        run(0, FAMILIES, log_evidence=jnp.zeros(3))
    with pytest.raises(ValueError, match="num_starts: expected an integer >= 1, got 0"):
        run(0, FAMILIES, ascent=Ascent(num_starts=0))
    with pytest.raises(ValueError, match="family: expected a q that draws z as the model's prior"):
        run(0, {"other": guides.mean_field(3)})
    mixture, theta, x, *_ = CASES["mixture"]()
    label = guides.label(3)
    phi = label.init(jax.random.key(0))
    with pytest.raises(TypeError, match="sticking_the_landing: expected a reparameterised q"):
        fit_local(jax.random.key(0), mixture(theta), guides.shared(label)(phi), x, label)


def test_another_number_of_points_in_a_bucket_compiles_nothing():
    traces = []

    def likelihood(theta, z):
        traces.append(None)
        return MODEL.likelihood(theta, z)

    model, x = MODEL._replace(likelihood=likelihood), np.asarray(X[::4])
    families = {"own": guides.mean_field(2)}

    def run(number):
        where = jax.random.key(0), model(THETA), GUIDE(PHI), x[:number]
        options = {"num_samples": 30, "ascent": Ascent(num_steps=5, num_starts=1)}
        return gaps(*where, families=families, **options)

    every, before = run(23), len(traces)
    fewer = run(19)
    assert len(traces) == before
    for whole, part in zip(jax.tree.leaves(every), jax.tree.leaves(fewer), strict=True):
        same = whole == part if isinstance(whole, str) else np.array_equal(whole[:19], part)
        assert same or np.isnan(part).all()
