"""Certificates: intervals that hold, the method that answered, the budget that ends it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit
from scipy import stats

from lvm_jax import annealing, distributions, evidence
from lvm_jax.evidence import rounds, state
from lvm_jax.guides.base import Guide
from lvm_jax.models import Model

NUM_POINTS = 48
BUDGET = 3e4  # a larger one allows numbers of draws that need a second program
X = np.random.default_rng(0).normal(size=(NUM_POINTS, 2)).astype(np.float32)
X[:, 0] = np.where(np.arange(NUM_POINTS) < NUM_POINTS // 2, 1, -1) * np.abs(X[:, 0])


@pytest.fixture(scope="module")
def case():
    """z ~ N(0, I_2), x | z ~ N(z, I): a good q for half of the points, one too narrow for the rest.

    With `related` = 0 x is independent of z, and q is the prior.
    """
    model = Model(
        init=lambda key: (),
        prior=lambda related: distributions.normal(jnp.zeros(2), jnp.ones(2)),
        likelihood=lambda related, z: distributions.normal(related * z, jnp.ones(2)),
    )

    def posterior(related, x):
        scale = jnp.where(x[0] > 0, 0.75, 0.2) ** related
        return distributions.normal(0.5 * related * x, jnp.broadcast_to(scale, 2))

    guide = Guide(lambda key: (), posterior)
    truth = -(X**2).sum(1) / 4 - np.log(4 * np.pi)

    def run(factor=1, related=1.0, **options):
        related = np.float32(related)
        return evidence.certify(
            jax.random.key(0), model(related), guide(related), factor * X,
            transition=annealing.random_walk(2)._replace(cost=3),
            **{"num_scouts": 0, "budget": BUDGET, **options},
        )  # fmt: skip

    return run, truth, run(tolerance=0.25)


def test_every_point_is_answered_by_what_works(case):
    _, truth, found = case
    good = np.arange(NUM_POINTS) < NUM_POINTS // 2
    np.testing.assert_array_equal(found.method[good], np.full(good.sum(), "importance"))
    assert (found.method[~good] == "annealed").mean() > 0.8  # k-hat sees most of the narrow ones
    assert found.num_open <= 1  # 0.7 on average over 12 keys
    half = (found.high - found.low) / 2
    assert (half[found.within] <= 0.25).all()
    covered = (found.low <= truth) & (truth <= found.high)
    assert covered.mean() > 0.95 - 4 * (0.95 * 0.05 / NUM_POINTS) ** 0.5
    assert np.abs(found.log_evidence - truth).max() < 0.4


def test_the_cost_is_that_of_the_rounds(case):
    _, _, found = case
    total = 0.0
    for now in found.rounds:
        each = now.num_samples
        if now.method in ("annealed", "sequential"):
            pilot = 4 * (1 + (5 + min(now.num_temperatures, 50)) * 3)
            each = now.num_samples * (1 + now.num_temperatures * 3) + pilot
        total += now.num_points * each
    np.testing.assert_allclose(found.cost.sum(), total)
    # The pilot's draws decide how many the answer takes, and are not among them.
    assert found.rounds[0] == evidence.Round("pilot", NUM_POINTS, 1_000, 1)
    assert (found.cost >= 2_000).all()


def test_the_other_points_do_not_matter(case):
    run, _, found = case
    good = np.arange(NUM_POINTS) < NUM_POINTS // 2
    kept = [np.flatnonzero(good)[3], np.flatnonzero(found.method == "annealed")[2]]
    factor = np.full((NUM_POINTS, 1), 1.01, np.float32)
    factor[kept] = 1
    changed = run(factor, tolerance=0.25)
    for name in ("log_evidence", "low", "high"):
        same = np.isclose(getattr(found, name), getattr(changed, name), rtol=1e-5)
        np.testing.assert_array_equal(np.flatnonzero(same), kept)


def test_a_budget_leaves_points_open_with_the_interval_they_have(case):
    run, truth, _ = case
    found = run(tolerance=0.1, budget=1_500)
    assert found.num_open == NUM_POINTS
    np.testing.assert_array_equal(found.cost, np.full(NUM_POINTS, 1_000))
    good = np.arange(NUM_POINTS) < NUM_POINTS // 2
    assert (np.abs(found.log_evidence - truth)[good] < 0.1).all()
    assert (found.k_hat[~good] > 0.5).mean() > 0.8
    bad = ~found.reliable
    assert bad[~good].mean() > 0.8
    np.testing.assert_array_equal(found.low[bad], np.full(bad.sum(), -np.inf))
    np.testing.assert_array_equal(found.high[bad], np.full(bad.sum(), np.inf))
    assert np.isfinite(found.log_evidence).all()
    assert found.verdict().startswith(f"{bad.sum()} of {NUM_POINTS} not reliable: ")


def test_a_scout_contradicts_where_no_normal_can_be_put_in_its_place():
    # z in {0, 1}^8; x is z or its complement, each with probability 1/2, and every bit wrong with
    # probability 0.02. q covers one of the two.
    bits, rate = 8, 0.02

    def likelihood(theta, z):
        own = jnp.where(z == 1, 1 - rate, rate)

        class Either:
            def sample(self, *, seed, sample_shape=()):
                key_side, key_x = jax.random.split(seed)
                side = jax.random.bernoulli(key_side, 0.5, (*sample_shape, 1))
                p = jnp.where(side, 1 - own, own)
                return jax.random.bernoulli(key_x, p).astype(jnp.float32)

            def log_prob(self, x):
                sides = [jnp.where(x == 1, p, 1 - p) for p in (own, 1 - own)]
                return jnp.log(0.5) + jnp.logaddexp(*[jnp.log(side).sum() for side in sides])

        return Either()

    uniform = distributions.categorical(jnp.zeros((bits, 2)))
    model = Model(lambda key: (), lambda theta: uniform, likelihood)

    def posterior(phi, x):
        p = jnp.where(x == 1, 0.9, 0.1)
        return distributions.categorical(jnp.log(jnp.stack([1 - p, p], -1)))

    guide = Guide(lambda key: (), posterior)
    x = (np.random.default_rng(0).uniform(size=(16, bits)) < 0.5).astype(np.float32)
    truth = -bits * np.log(2)  # as z is uniform, so is x

    def run(scouts, budget):
        return evidence.certify(
            jax.random.key(5), model(()), guide(()), x, tolerance=0.1,
            num_scouts=scouts, transition=annealing.gibbs(2, bits),
            budget=budget,
        )  # fmt: skip

    blind, seen = run(0, 1.5e4), run(32, 1e5)  # the former pays for no chains
    answered = blind.within
    assert (blind.method == "importance").all()
    assert answered.sum() > 8
    np.testing.assert_allclose(blind.log_evidence[answered], truth - np.log(2), atol=0.1)
    assert seen.contradicted.mean() > 0.5  # 2% of the draws, of the prior, reach it for the others
    assert (seen.method != "importance").all()
    errors = seen.log_evidence - truth  # blind: log(1/2)
    assert (np.abs(errors) <= 2 * (seen.high - seen.low)).all()
    assert abs(np.median(errors)) < 0.2


DIM = 4  # the share of the space that a mode attracts falls with it
NOISE = 0.3
FEW = slice(15, 32)  # of 32 points, in the same bucket


def squares(z):
    """(z_1^2, z_2^2, z_3, ...)."""
    return jnp.where(jnp.arange(DIM) < 2, z**2, z)


def prior_or_mode(of_mode, x):
    """q: the prior N(0, 4 I), or about the mode of positive z_1 and z_2, a little wider."""
    mode = jnp.where(jnp.arange(DIM) < 2, jnp.sqrt(jnp.abs(x)), x * 4 / (4 + NOISE**2))
    slope = jnp.where(jnp.arange(DIM) < 2, 2 * mode, 1.0)
    scale = 1.1 / jnp.sqrt(0.25 + (slope / NOISE) ** 2)  # equal weights have no k-hat
    return distributions.normal(of_mode * mode, jnp.where(of_mode > 0, scale, 2.0))


FOUR_MODES = Model(
    lambda key: (),
    lambda theta: distributions.normal(jnp.zeros(DIM), jnp.full(DIM, 2.0)),
    lambda theta, z: distributions.normal(squares(z), jnp.full(DIM, NOISE)),
)(())
PRIOR_OR_MODE = Guide(lambda key: (), prior_or_mode)


@pytest.fixture(scope="module")
def of_four_modes():
    """Certificates of z ~ N(0, 4 I), x | z ~ N(squares(z), 0.3^2 I), of four equal modes."""
    rng = np.random.default_rng(DIM)
    x = np.concatenate([rng.uniform(3, 29, (32, 2)), rng.normal(0, 2, (32, DIM - 2))], 1)
    x[:12, :2], x[12:20, :2] = (28.6, 4.6), (9, 9)
    # A fine grid for each of the squared coordinates, the others exact.
    z = np.linspace(-14, 14, 20_001)
    each = stats.norm.pdf(z, 0, 2) * stats.norm.pdf(x[:, :2, None], z**2, NOISE)
    others = stats.norm.logpdf(x[:, 2:], 0, (4 + NOISE**2) ** 0.5)
    truth = np.log(each.sum(-1) * (z[1] - z[0])).sum(1) + others.sum(1)

    def run(of_mode, rows, **options):
        found = evidence.certify(
            jax.random.key(DIM), FOUR_MODES, PRIOR_OR_MODE(np.float32(of_mode)),
            x[rows].astype(np.float32), tolerance=0.1, **{"budget": 3e4, **options},
        )  # fmt: skip
        low, high = found.low <= truth[rows], truth[rows] <= found.high
        return found, found.log_evidence - truth[rows], low & high

    return run


def test_q_alone_certifies_what_is_wrong(of_four_modes):
    dear = annealing.random_walk(2)._replace(cost=30)  # 64 chains cost more than the budget
    found, _, holds = of_four_modes(1.0, FEW, num_scouts=0, transition=dear)
    assert found.within.all()
    assert not holds.any()  # the weights of q do not show that a share of 3/4 is missing


def test_scouts_find_the_modes_that_q_misses(of_four_modes, without_tails):
    found, _, holds = of_four_modes(1.0, FEW, budget=2e5)
    assert found.within.all()
    assert holds.mean() > 0.95 - 4 * (0.95 * 0.05 / holds.size) ** 0.5
    # 512 of the prior, 16 of q, and 16 of simulated pairs; several modes are searched for again.
    searches = [now for now in found.rounds if now.method == "search"]
    assert searches[:2] == [evidence.Round("search", 17, 544, 1)] * 2
    assert len(searches) <= 4
    assert (found.search.starts % 544 == 0).all()
    assert (found.search.starts >= 2 * 544).all()
    np.testing.assert_array_equal(found.search.scouts * 17, found.search.starts * 16)
    searched = sum(now.num_points for now in searches)
    assert found.search.starts.sum() == searched * 544
    assert found.search.scouts.sum() == searched * 512
    assert (found.search.num_modes == 4).all()
    assert not found.contradicted.any()  # as they get their share of the draws


def test_every_mode_that_scouts_reach_is_covered(of_four_modes):
    found, errors, holds = of_four_modes(0.0, slice(None))
    # One mode of four that is missed makes log(3/4) = -0.29; three make -1.39.
    assert found.within.mean() > 0.8
    assert np.abs(errors[found.within]).max() < 0.2
    assert holds[found.within].mean() > 0.95 - 4 * (0.95 * 0.05 / found.within.sum()) ** 0.5


def test_an_answer_is_contradicted_beyond_the_tolerance():
    book = state.State(3, tolerance=0.1, level=0.95)
    book.answer["log_evidence"][:], book.num_samples[:] = (-2.0, -5.0, -2.0), (1_000, 4_000, 1_000)
    # A weight w as one draw more of S moves log p by w / (S p): to 0.099, 0.101 and NaN.
    moves = np.array([0.099, 0.101, np.nan])
    book.reach = book.answer["log_evidence"] + np.log(book.num_samples * moves)
    assert book.contradicted().tolist() == [False, True, True]


def test_the_error_counts_two_more_draws_of_weight_zero():
    # 12 of 1,000 weights are 0 and the others 1: with 14 of 1,000 the relative variance is
    # 0.014 / 0.986, and the error is that of 14 zeros to first order.
    log_w = np.where(np.arange(1_000) < np.array([[12], [0]]), -np.inf, 0.0).astype(np.float32)
    found = jax.device_get(quick_jit(jax.vmap(evidence.from_log_weights))(log_w))
    error, own = state._with_zeros(found).standard_error, found.standard_error
    np.testing.assert_allclose(own[0], (0.012 / 0.988 / 999) ** 0.5, rtol=1e-4)
    np.testing.assert_allclose(error[0], (0.014 / 1_000) ** 0.5, rtol=0.01)
    assert error[1] == 0  # equal weights


def test_equal_weights_have_no_tail_and_no_error(case):
    run, *_ = case
    found = run(related=0.0, tolerance=0.1)
    np.testing.assert_allclose(found.log_evidence, stats.norm.logpdf(X).sum(1), rtol=1e-6)
    assert (found.high - found.low < 1e-6).all()
    assert found.within.all()


def test_a_budget_too_small_for_the_scouts_certifies_nothing(case):
    run, *_ = case
    found = run(tolerance=0.25, num_scouts=4_096, budget=4_050)
    assert found.num_open == NUM_POINTS
    assert not found.contradicted.any()
    assert {now.method for now in found.rounds} == {"pilot", "importance"}
    assert (found.failed & evidence.Check.BUDGET != 0).all()
    # 4,096 gradients and those of four batches of 32 are half of it.
    assert found.statement(0).endswith("; the search takes a budget of about 8,448")
    assert found.search is None


def test_without_scouts_chains_start_from_the_prior(case, monkeypatch):
    run, *_ = case
    starts, chains = [], rounds.Runner.chains

    def watch(self, points, setting_chains, temperatures, from_prior, *others):
        starts.append(from_prior)
        return chains(self, points, setting_chains, temperatures, from_prior, *others)

    monkeypatch.setattr(rounds.Runner, "chains", watch)
    run(tolerance=0.25)
    assert starts
    assert all(starts)


def test_refusals(case):
    run, *_ = case
    with pytest.raises(ValueError, match="tolerance: expected a number > 0"):
        run(tolerance=0.0)
    with pytest.raises(ValueError, match="budget: expected a number > 0"):
        run(tolerance=0.1, budget=0.0)
    with pytest.raises(ValueError, match="num_scouts: expected an integer >= 0"):
        run(tolerance=0.1, num_scouts=-1)
    with pytest.raises(ValueError, match="level: expected a probability"):
        run(tolerance=0.1, level=1.0)


def test_a_prior_that_cannot_be_sampled_is_refused():
    class Flat:
        def sample(self, *, seed, sample_shape=()):
            raise NotImplementedError("improper")

        def log_prob(self, z):
            return jnp.zeros(())

    class NoSample:
        log_prob = Flat.log_prob

    for prior, words in (
        (Flat(), "p: .* that can be sampled, .*: improper"),
        (NoSample(), "prior"),
    ):
        model = Model(
            lambda key: (),
            lambda theta, own=prior: own,
            lambda theta, z: distributions.normal(z, 1),
        )
        guide = Guide(lambda key: (), lambda phi, x: distributions.normal(x, jnp.ones(1)))
        with pytest.raises(TypeError, match=words):
            evidence.certify(
                jax.random.key(0), model(()), guide(()), np.ones((1, 1)), tolerance=0.1
            )


def test_open_points_of_a_certificate_have_no_error():
    """Half-widths of 95% are 1.96 standard errors."""
    found = evidence.Certificate(
        log_evidence=np.array([-3.0, -4.0]), low=np.array([-3.5, -np.inf]),
        high=np.array([-2.5, np.inf]), within=np.array([True, False]), failed=np.array([0, 32]),
        method=np.array(["importance", "annealed"]), contradicted=np.array([False, True]),
        k_hat=np.array([0.1, 0.6]), cost=np.ones(2), tolerance=0.5, level=0.95, rounds=(), proposal=None,
    )  # fmt: skip
    points = found.as_evidence()
    np.testing.assert_allclose(points.standard_error, [0.5 / 1.959964, np.inf], rtol=1e-6)
