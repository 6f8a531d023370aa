"""log Z where a Gaussian q is poor, against closed forms and quadrature."""

import threading
from math import gamma
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.dispatch import BACKEND_COMPILE_EVENT
from model_cases import quick_jit

from lvm_jax import problems, vi
from lvm_jax.compiling import BoundedJit
from lvm_jax.distributions import normal
from lvm_jax.evidence import Check, from_log_weights
from lvm_jax.vi import boosting, chains, far, quality
from lvm_jax.vi.adaptive import Drawn
from lvm_jax.vi.bridge import bridge
from lvm_jax.vi.density import check_density
from lvm_jax.vi.method import Task
from lvm_jax.vi.proposal import Defended, fit_scales

KEY = jax.random.key(5)


class Truncated(NamedTuple):
    """N(0, 1) below 2."""

    def log_prob(self, value):
        inside = -0.5 * (value**2).sum() - 0.5 * np.log(2 * np.pi) - np.log(0.97725)
        return jnp.where(value[0] < 2, inside, -jnp.inf)

    def sample(self, *, seed, sample_shape=()):
        return jax.random.truncated_normal(seed, -jnp.inf, 2.0, (*sample_shape, 1))


@pytest.mark.parametrize("dim", [2, 70])
def test_what_does_not_depend_on_q_compiles_once_while_q_is_fitted(store, monkeypatch, dim):
    """The programs that a thread compiled are those that the fit calls; no chains for D > 64."""
    ahead, compiled, scale = [], [], np.arange(1, dim + 1)
    compile_in = BoundedJit.compile_in

    def counted(program, *args):
        ahead.append(program.__name__)
        compile_in(program, *args)

    def note(event, duration, fun_name="", **_):
        if event == BACKEND_COMPILE_EVENT:
            compiled.append(fun_name)

    for thread in threading.enumerate():  # of an earlier test
        if thread.name.startswith("compile"):
            thread.join()
    monkeypatch.setattr(BoundedJit, "compile_in", counted)
    jax.monitoring.register_event_duration_secs_listener(note)
    density = lambda z: -0.5 * (z**2 / scale).sum()  # noqa: E731
    try:
        fit = vi.fit(KEY, density, jnp.ones(dim), family="mean_field")
        assert fit.log_evidence.reliable
        used = [compiled.count(f"jit({name})") for name in ahead]
        short = vi.fit(KEY, density, jnp.ones(dim), family="mean_field", max_evaluations=2_000)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    every = ["_hessian", "_slopes", *["run_chains"] * (dim == 2), "climb"]
    assert ahead == [*every, *(every[:2] if dim == 2 else every)]
    assert used == [1] * len(every)
    assert dim > 64 or not short.log_evidence.reliable  # no chains, hence no ascents


def test_the_evidence_of_a_funnel_from_a_poor_normal():
    """q misses both ends; the weights of q give -1, and the proposal with scales 0."""
    target = problems.funnel(4)
    density, _ = check_density(target.log_density, jnp.zeros(4))
    q = normal(jnp.array([0.5, 0.0, 0.0, 0.0]), jnp.array([1.0, 1.2, 1.2, 1.2]))
    first = quality.measure(KEY, q, density, 10)
    task = Task(density, "full_rank", 0.01, 100_000)
    found = quality.refine(KEY, q, task, first, 1_000_000)
    assert not first.importance.reliable
    assert found.evidence.reliable
    assert abs(found.evidence.log_evidence) < 4 * found.evidence.standard_error
    assert found.evidence.standard_error < 0.02
    for budget in (0, 60_000, 100_000):
        short = quality.refine(KEY, q, task, first, budget)
        assert short.evidence.failed & Check.BUDGET
        assert short.evaluations <= budget


def test_the_error_of_equal_weights_is_that_of_rounding():
    """q is exact: the weights differ by float32's rounding only."""
    scales = np.geomspace(1, 1e3, 20).astype(np.float32)
    exact = lambda z: -0.5 * (((z - 3) / scales) ** 2).sum()  # noqa: E731
    found = vi.fit(KEY, exact, jnp.ones(20), tolerance=1e-3).log_evidence
    truth = np.log(scales.astype(float)).sum() + 10 * np.log(2 * np.pi)
    assert abs(float(found.log_evidence) - truth) < 4 * found.standard_error < 1e-3
    assert found.reliable


def standard(z):
    return -0.5 * (z**2).sum()


def test_a_budget_that_does_not_pay_for_chains_withholds_the_verdict():
    """The log Z of an exact normal is exact, and no search was made."""
    found = vi.fit(KEY, standard, jnp.ones(3), max_evaluations=1_000, num_draws=1_000)
    assert found.log_evidence.failed == Check.BUDGET
    assert found.evidence_evaluations == 1_000
    assert found.importance.reliable
    assert float(found.log_evidence.log_evidence) == pytest.approx(
        1.5 * np.log(2 * np.pi), abs=1e-4
    )


def test_a_fit_of_exact_draws_recovers_the_scales_and_the_parent():
    """v_1 = 2 + 3 t, v_0 = v_1 + exp(v_1 / 2) e: the log-scale has slope 3 / 2 in units of sd."""
    rng = np.random.default_rng(0)
    parent = 2 + 3 * rng.normal(size=4_000)
    z = np.stack([parent + np.exp(parent / 2) * rng.normal(size=4_000), parent], 1)
    found = fit_scales(z, np.ones(4_000))
    assert list(found.order) == [1, 0]
    assert found.loc[0] == pytest.approx(2, abs=0.2)
    assert found.scale[0] == pytest.approx(3, abs=0.15)
    assert found.log_scale[1, 1] == pytest.approx(1.5, abs=0.1)
    assert found.mean[1, 1] == pytest.approx(3 / float(found.scale[1]), rel=0.1)


def ratios(g, h):
    """20,000 draws of g, and h / g there."""

    @quick_jit
    def draw(key):
        draws = g.sample(seed=key, sample_shape=(20_000,))
        return draws, jnp.exp(jax.vmap(lambda u: h.log_prob(u) - g.log_prob(u))(draws))

    return jax.device_get(draw(KEY))


def test_the_density_of_a_proposal_is_that_of_its_draws():
    """E_g[h / g] = 1 for a normal h inside of g."""
    rng = np.random.default_rng(1)
    parent = rng.normal(size=2_000)
    z = np.stack([parent, np.exp(parent) * rng.normal(size=2_000)], 1).astype(np.float32)
    proposal = fit_scales(z, np.ones(2_000))
    _, ratio = ratios(proposal, normal(jnp.zeros(2), jnp.array([0.7, 0.5])))
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(20_000)
    assert ratio.std() / np.sqrt(20_000) < 0.02


def test_reliable_weights_of_q_are_kept():
    found = vi.fit(KEY, standard, jnp.ones(3), num_draws=1_000)
    assert found.proposal.flat is found.q.flat
    assert found.log_evidence.log_evidence == found.importance.log_evidence
    assert found.evidence_evaluations > 1_000 + chains.NARROW.cost  # draws, chains and ascents
    assert found.evidence_evaluations < 1_000 + chains.NARROW.cost + 32 * 61


def student(z):
    """Student's t of 4 degrees of freedom in three dimensions, times its constant."""
    return -3.5 * jnp.log1p((z**2).sum() / 4)


STUDENT = 1.5 * np.log(4 * np.pi) - np.log(gamma(3.5) / gamma(2.0))


def two_modes(z):
    """Nine tenths and a tenth of the mass, 12 standard deviations apart."""
    near, far = -0.5 * (z**2).sum(), -0.5 * ((z - 12 / np.sqrt(2)) ** 2).sum()
    return jnp.logaddexp(near + np.log(0.9), far + np.log(0.1)) - np.log(2 * np.pi)


def log_gammas(z):
    """Logarithms of three gamma variables of shape 1 / 2."""
    return (0.5 * z - jnp.exp(z)).sum() - 1.5 * np.log(np.pi)


def hierarchy(z):
    """Four effects with a common log-normal scale, each observed at 1 with noise of 1."""
    scale = jnp.exp(z[0])
    prior = -0.5 * z[0] ** 2 - 0.5 * (z[1:] / scale) ** 2 @ jnp.ones(4) - 4 * z[0]
    return prior - 0.5 * ((z[1:] - 1) ** 2).sum() - 4.5 * np.log(2 * np.pi)


def hierarchy_log_z():
    """By quadrature of the scale, the effects in closed form."""
    line = np.linspace(-8, 8, 4_001)
    variance = 1 + np.exp(2 * line)
    log_p = -0.5 * line**2 - 2.5 * np.log(2 * np.pi) - 2 * np.log(variance) - 2 / variance
    return float(np.logaddexp.reduce(log_p) + np.log(line[1] - line[0]))


KINDS = {
    "tails": (student, 3, STUDENT),
    "modes": (two_modes, 2, 0.0),
    "skewness": (log_gammas, 3, 0.0),
    "scales": (hierarchy, 5, hierarchy_log_z()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_wrong_number_is_reliable(kind):
    """A log Z that misses the tails, a mode or a part of other scale is not called reliable."""
    log_density, dim, truth = KINDS[kind]
    with jax.enable_x64(kind == "scales"):
        found = vi.fit(KEY, log_density, jnp.zeros(dim), max_evaluations=50_000)
        evidence = found.log_evidence
        if kind == "modes":
            assert not evidence.reliable
            assert evidence.failed & Check.CONTRADICTED
            return
        assert evidence.reliable
        error = abs(float(evidence.log_evidence) - truth)
        assert error < 3.5 * evidence.standard_error
        assert error < 0.05


def test_chains_contradict_a_q_that_misses_a_tail():
    """N(0, 1) truncated at 2: 2.3% of the mass without draws, and weights without variance."""
    density, _ = check_density(
        lambda z: -0.5 * (z**2).sum() - 0.5 * np.log(2 * np.pi), jnp.zeros(1)
    )
    u = np.random.default_rng(0).normal(size=(30_000, 1))
    u = u[u[:, 0] < 2].astype(np.float32)[:20_000]
    log_w = np.full(20_000, np.log(0.97725), np.float32)
    drawn = Drawn(u, log_w, quick_jit(from_log_weights)(log_w))
    missing = Truncated()
    checked = boosting.check(KEY, missing, density, drawn)
    assert drawn.evidence.reliable
    assert checked.contradicted
    assert checked.share == pytest.approx(0.0228, abs=0.012)


def test_far_from_q_the_evidence_is_right_or_not_reliable():
    """Logarithms of 70 gamma variables: the bridge. A funnel: its chains drift, and no verdict."""
    curved = lambda z: (3 * z - jnp.exp(z)).sum() - 70 * np.log(2.0)  # noqa: E731
    density, _ = check_density(curved, jnp.ones(70))
    q = normal(jnp.full(70, -0.1), jnp.full(70, 0.6))
    found, evaluations = far.from_afar(KEY, q, density, 10**7)
    assert found.reliable
    assert abs(found.log_evidence) < 3.5 * found.standard_error < 0.5
    assert evaluations == 10_000 + chains.LONG.cost

    density, _ = check_density(problems.funnel(10).log_density, jnp.zeros(10))
    q = normal(jnp.zeros(10), jnp.ones(10))
    found, _ = far.from_afar(KEY, q, density, 10**7)
    assert not found.reliable or abs(found.log_evidence) < 3 * found.standard_error


def test_the_bridge_has_the_value_of_overlapping_normals():
    """log Z = 0.7 by N(0, 1) and chains of independent draws of N(1, 1)."""
    rng = np.random.default_rng(2)
    log_w = lambda z: 0.7 - 0.5 * (z - 1) ** 2 + 0.5 * z**2  # noqa: E731
    found = bridge(log_w(rng.normal(size=20_000)), log_w(1 + rng.normal(size=(200, 20))))
    assert abs(found.value - 0.7) < 4 * found.standard_error
    assert found.standard_error < 0.02


def test_parts_of_a_mixture_sum_to_one():
    """Draws have the density of the mixture: E_g[h / g] = 1 after a second part."""
    rng = np.random.default_rng(4)
    z = rng.normal(size=(2_000, 2)).astype(np.float32)
    first, second = (fit_scales(z + shift, np.ones(2_000)) for shift in (0, np.float32(3)))
    q = normal(jnp.zeros(2), jnp.ones(2))
    mixture = Defended.of(first, q, 0.1).extended(second, 0.3)
    np.testing.assert_allclose(np.exp(mixture.log_shares).sum(), 1, rtol=1e-5)
    draws, ratio = ratios(mixture, normal(jnp.full(2, 3.0), jnp.full(2, 0.7)))
    assert (draws.mean(1) > 1.5).mean() == pytest.approx(0.3, abs=0.03)
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(20_000)
