"""Wrong calls, and the words of their errors: the argument, what was expected, what came, the cure.

A refusal compiles nothing: `refused` fails where the call has compiled a program.
"""

import inspect
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import optax
import pandas as pd
import pytest

from lvm_jax import (
    annealing,
    data,
    decomposition,
    diagnostics,
    distributions,
    em,
    evidence,
    gradients,
    guides,
    likelihoods,
    models,
    networks,
    plotting,
    priors,
    training,
    vae,
    weights,
)
from lvm_jax._core import checks
from lvm_jax._core.support import BITS, COUNTS, REAL, UNIT, whole_numbers
from lvm_jax.distributions import chain, flows
from lvm_jax.gradients.base import find_estimate

PACKAGES = (
    annealing, chain, data, decomposition, diagnostics, em, evidence, flows, gradients, guides,
    likelihoods, models, networks, plotting, priors, training, vae, weights,
)  # fmt: skip
KEY = jax.random.key(3)
OLD = jax.random.PRNGKey(3)
DIM, LATENT, ROWS = 7, 3, 11
X = (np.arange(ROWS * DIM).reshape(ROWS, DIM) ** 2 % 5 % 2).astype(np.float32)
GREY = 255 * X
FAMILY = guides.mean_field(LATENT)
DECODER = networks.mlp(LATENT, (), DIM)
MODEL = models.deep_latent_gaussian(
    priors.standard_normal(LATENT), DECODER, likelihoods.bernoulli(DIM)
)
GUIDE = guides.linear(FAMILY, DIM)
THETA, PHI = MODEL.init(KEY), GUIDE.init(KEY)
PLAN = annealing.plan(annealing.sigmoid(5))
EACH = jax.tree.map(lambda leaf: np.zeros((ROWS, *leaf.shape)), FAMILY.init(KEY))
BETAS = np.array([0.0, 0.5, 1.0])
OPTIMIZER = optax.sgd(0.1)
COMPILED = "/jax/core/compile/backend_compile_duration"


def fit(key=KEY, model=MODEL, guide=GUIDE, x=X, **options):
    settings = {
        "estimate": "reparameterized", "num_samples": 1, "optimizer": OPTIMIZER, "batch_size": 5,
        "num_epochs": 1,
    }  # fmt: skip
    return training.fit(key, model, guide, x, **settings | options)


def certify(*given):
    return evidence.certify(*given, tolerance=0.5, budget=10)


def gaps(*given, **options):
    return decomposition.gaps(*given, families={"own": FAMILY}, **options)


def account(*given):
    return decomposition.account(*given, families={"own": FAMILY})


def bound(part, params):
    """A model or a guide with its parameters; anything else as it is."""
    return part(params) if callable(part) else part


def of_bound(entry):
    """An entry point of (key, p, q, x) by (key, model, guide, theta, phi, x)."""

    def call(key, model, guide, theta, phi, x):
        return entry(key, bound(model, theta), bound(guide, phi), x)

    return call


# Entry points by (key, p, q, x).
BY_BOUND = {
    "evaluate": lambda *given: evidence.evaluate(*given, 9),
    "evaluate_annealed": lambda *given: evidence.evaluate_annealed(*given, 9, PLAN),
    "certify": certify,
    "gaps": gaps,
    "fit_local": lambda *given: decomposition.fit_local(
        *given, FAMILY, ascent=decomposition.Ascent(num_steps=3)
    ),
    "surgery": lambda *given: decomposition.surgery(*given, 2),
    "channel": lambda *given: decomposition.channel(*given, 9),
    "account": account,
}
# The same by (key, model, guide, theta, phi, x).
BY_PROBLEM = {name: of_bound(entry) for name, entry in BY_BOUND.items()}
# Those that take the data without a guide, or neither theta nor phi yet.
BY_DATA = {
    "fit": lambda key, model, guide, theta, phi, x: fit(key, model, guide, x),
    "fit, validation": lambda key, model, guide, theta, phi, x: fit(
        key, model, guide, X, validation=x
    ),
    "from the prior": lambda key, model, guide, theta, phi, x: evidence.evaluate_annealed(
        key, model(theta), None, x, 9, PLAN
    ),
    "rate_distortion": lambda key, model, guide, theta, phi, x: decomposition.rate_distortion(
        key, model(theta), x, 9, betas=BETAS
    ),
    "per point": lambda key, model, guide, theta, phi, x: evidence.evaluate(
        key, model(theta), guides.per_point(FAMILY, ROWS)(EACH), x, 9, q_per_point=True
    ),
}  # fmt: skip
# Those that simulate their data.
BY_SIMULATION = {
    "bidirectional": lambda key, model, guide, theta, phi, x: evidence.bidirectional(
        key, bound(model, theta), bound(guide, phi), 2, 9, PLAN
    ),
    "calibrate": lambda key, model, guide, theta, phi, x: decomposition.calibrate(
        key, bound(model, theta), bound(guide, phi), 100
    ),
}
PAIR = training.Separate(MODEL, GUIDE)
PROBLEM = {"key": KEY, "model": MODEL, "guide": GUIDE, "theta": THETA, "phi": PHI, "x": X}


@contextmanager
def refused(error, words):
    """The block must raise `error` with these words, and compile nothing."""
    compiled = []

    def note(event, duration, **_):
        if event == COMPILED:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        with pytest.raises(error, match=words):
            yield
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert not compiled


def compile_and_fail():
    jax.jit(lambda v: 3 * v + 17)(np.float32(1.0))
    raise ValueError("late")


def test_the_watch_on_the_compiler_sees_a_program():
    with pytest.raises(AssertionError), refused(ValueError, "late"):
        compile_and_fail()


def test_a_transform_that_does_not_make_data_of_the_model_is_refused():
    """Which has to run to be seen."""
    with pytest.raises(ValueError, match=r"transform\(x\[0\]\): expected bits, 0 or 1, got 255"):
        fit(x=1 + 0 * X, transform=lambda key, x: 255 * x)
    bad = np.where(np.arange(ROWS)[:, None] == ROWS - 1, 2.0, X)
    with pytest.raises(ValueError, match=r"transform\(validation\[10\]\): expected bits"):
        fit(validation=bad, transform=lambda key, x: x)


def call(entry, **changed):
    return entry(*(PROBLEM | changed).values())


off = X.copy()
off[6, 4], off[8, 1] = 0.5, -1.0
lost = X.copy()
lost[9, 2] = np.nan
BAD_X = {
    "grey": (GREY, ValueError, "expected bits, 0 or 1, got 255 at row .*; binarise the data"),
    "two": (off, ValueError, r"got 0\.5 at row 6, column 4 \(2 of 77 numbers are not\)"),
    "nan": (lost, ValueError, "expected finite .* 1 NaN and 0 inf, the first at row 9, column 2"),
    "device": (jnp.asarray(off), ValueError, r"got 0\.5 at row 6, column 4"),
    "integers": (GREY.astype(np.uint8), ValueError, "expected bits, 0 or 1, got 255"),
    "narrow": (X[:, :5], ValueError, r"expected shape \[N, 7\], as the model draws .* \[11, 5\]"),
    "frame": (pd.DataFrame(off), ValueError, r"got 0\.5 at row 6, column 4"),
    "text": (pd.DataFrame(X).assign(name="a"), TypeError, "in column 'name'"),
    "no rows": (X[:0], ValueError, r"expected an array of at least .* \[N, ...\], got"),
}


@pytest.mark.parametrize(
    "entry", [*BY_PROBLEM.values(), *BY_DATA.values()], ids=[*BY_PROBLEM, *BY_DATA]
)
@pytest.mark.parametrize("bad", BAD_X)
def test_every_entry_point_refuses_data_outside_the_model(entry, bad):
    x, error, words = BAD_X[bad]
    with refused(error, f"^(x|validation): .*{words}"):
        call(entry, x=x)


LINEAR = models.linear_gaussian(LATENT, DIM)
SWAPPED = {
    "theta and phi": ({"theta": PHI, "phi": THETA}, ValueError, "p: .*; swap theta and phi"),
    "model and guide": ({"model": GUIDE, "guide": MODEL}, TypeError, "p: .*swap p and q"),
    "family": ({"guide": FAMILY}, TypeError, r"q: expected a guide .*, got a Family; use guides\.sh"),
    "likelihood": ({"model": likelihoods.bernoulli(DIM)}, TypeError, "p: .* got a Likelihood"),
    "another theta": (
        {"theta": LINEAR.init(KEY)}, ValueError,
        r"theta: expected parameters as model\.init makes them, .*decoder.*, got LinearGaussian",
    ),
    "another phi": (
        {"phi": FAMILY.init(KEY)}, ValueError,
        r"phi: expected parameters as guide\.init makes them, Amortized.*, got MeanField",
    ),
    "latent dimension": (
        {"guide": guides.linear(guides.mean_field(2), DIM),
         "phi": guides.linear(guides.mean_field(2), DIM).init(KEY)},
        ValueError, r"q: expected a q that draws z as .*prior does, f\[3\], got f\[2\]",
    ),
    "data dimension": (
        {"guide": guides.linear(FAMILY, 4), "phi": guides.linear(FAMILY, 4).init(KEY)},
        ValueError, r"q: expected q\(z \| x\) of an x of shape \[7\], .*\(4,\)",
    ),
    "key": ({"key": OLD}, TypeError, r"key: .* use jax\.random\.key\(seed\)"),
    "keys": ({"key": jax.random.split(KEY)}, ValueError, "key: expected one key"),
}  # fmt: skip


@pytest.mark.parametrize(
    "entry", [*BY_PROBLEM.values(), *BY_SIMULATION.values()], ids=[*BY_PROBLEM, *BY_SIMULATION]
)
@pytest.mark.parametrize("change", SWAPPED)
def test_every_entry_point_refuses_incompatible_parts(entry, change):
    changed, error, words = SWAPPED[change]
    with refused(error, f"^{words}"):
        call(entry, **changed)


class Plain:
    def log_joint(self, x):
        return MODEL(THETA).log_joint(x)


PLAIN = Plain()
UNBOUND = {
    "model": (
        (MODEL, GUIDE(PHI)),
        r"p: expected a model with its .*got a Model; use model\(theta\)",
    ),
    "guide": (
        (MODEL(THETA), GUIDE),
        r"q: expected a guide with its .*got a Guide; use guide\(phi\)",
    ),
    "parameters": ((THETA, GUIDE(PHI)), r"p: .* got a DeepLatentGaussian; use model\(theta\)"),
    "plain class": ((PLAIN, GUIDE(PHI)), "p: expected a pytree, got a Plain.*a NamedTuple"),
    "function": (
        (MODEL(THETA), lambda x: GUIDE(PHI)(x)),
        "q: expected a pytree, got a function, .*use a guide",
    ),
}


@pytest.mark.parametrize("entry", BY_BOUND.values(), ids=BY_BOUND)
@pytest.mark.parametrize("wrong", UNBOUND)
def test_what_has_no_parameters_yet_is_refused_at_every_entry_point(entry, wrong):
    given, words = UNBOUND[wrong]
    with refused(TypeError, f"^{words}"):
        entry(KEY, *given, X)


def no_q(key, x):
    return weights.log_weights(key, lambda z: -(z**2).sum(), x, 5)


MIXTURE = em.gaussian_mixture(np.ones(2) / 2, np.zeros((2, 3)), np.ones(2), "spherical")
LINE = em.gaussian_mixture(np.ones(2) / 2, np.zeros((2, 1)), np.ones(2), "spherical")
NUMPYRO = numpyro.Normal(0.0, 1.0)
PRIOR = priors.standard_normal(LATENT)


def parts(num_labels, dim):
    """q(y) q(z): y a label, or where `num_labels` is None three real numbers."""
    first = PRIOR.build(())
    if num_labels is not None:
        first = distributions.Categorical(logits=np.zeros(num_labels, np.float32))
    second = priors.standard_normal(dim).build(())
    return distributions.Successive(first, lambda y: second)


def of_parts(num_labels, dim):
    return guides.Guide(lambda key: (), lambda phi, x: parts(num_labels, dim))(())


MIXED = models.Model(
    lambda key: (), lambda theta: parts(5, 2),
    lambda theta, z: distributions.normal(z["z"].sum() * jnp.ones(DIM), jnp.ones(DIM)),
)(())  # fmt: skip
OTHER = {
    # a pair and its parameters
    "params swapped": (
        lambda: fit(KEY, PAIR, (PHI, THETA)), ValueError, "p: .*swap theta and phi"
    ),
    "params alone": (
        lambda: fit(KEY, PAIR, THETA.decoder), TypeError, r"params: .*\(theta, phi\)"
    ),
    "params of another": (
        lambda: fit(KEY, PAIR, (LINEAR.init(KEY), PHI)), ValueError, "theta: .*got LinearGaussian"
    ),
    "params of another pair": (
        lambda: fit(KEY, lambda params: PAIR(params["both"]), (THETA, PHI)), ValueError,
        "params: expected the parameters of the pair, which fails on them",
    ),
    "pair without q": (
        lambda: fit(KEY, lambda params: MODEL(params[0]), (THETA, PHI)), TypeError,
        r"pair: expected a function of params to p and q, \(p, q\), got Joint",
    ),
    "pair turned round": (
        lambda: fit(KEY, lambda params: PAIR(params)[::-1], training.Parameters(THETA, PHI)),
        TypeError, "p: .*swap p and q",
    ),
    "pair of three": (
        lambda: fit(KEY, lambda params: (*PAIR(params), 1), training.Parameters(THETA, PHI)),
        TypeError, r"pair: .*, got tuple of 3; return model\(theta\), guide\(phi\)",
    ),
    "pair of functions": (
        lambda: fit(KEY, lambda params: (MODEL, GUIDE), training.Parameters(THETA, PHI)),
        TypeError, r"p: expected a model with its .*got a Model; use model\(theta\)",
    ),
    "pair of a distribution": (
        lambda: fit(
            KEY, lambda params: (MODEL(params[0]), PRIOR.build(())), training.Parameters(THETA, PHI)
        ),
        TypeError, "q: expected a guide with its .*got a Independent",
    ),
    # z, by its parts
    "a part's shape": (
        lambda: evidence.evaluate(KEY, MIXED, of_parts(5, 3), X, 9), ValueError,
        r"q: expected a q that draws z\['z'\] as the model's prior does, f\[2\], got f\[3\]; make",
    ),
    "a part's numbers": (
        lambda: evidence.evaluate(KEY, MIXED, of_parts(None, 2), X, 9), ValueError,
        r"q: expected a q that draws z\['y'\] as the model's prior does, i\[\], got f\[3\]",
    ),
    "no parts": (
        lambda: evidence.evaluate(KEY, MIXED, GUIDE(PHI), X, 9), ValueError,
        r"q: expected a q that draws z as .*'y': 'i\[\]', 'z': 'f\[2\]'.*, got f\[3\]; make that part",
    ),
    "pair of no trees": (
        lambda: fit(KEY, lambda params: (PLAIN, PAIR(params)[1]), training.Parameters(THETA, PHI)),
        TypeError, "p: expected a pytree, got a Plain",
    ),
    # estimators and objectives
    "name": (lambda: fit(estimate="vimc"), ValueError, "estimate: .* did you mean 'vimco'"),
    "factory": (
        lambda: fit(estimate=gradients.vimco), TypeError,
        r"estimate: expected a function of \(key, log_joint, guide, phi, num_samples\), got vimco"
        r".*; call vimco\(\.\.\.\)",
    ),
    "number": (lambda: fit(estimate=3), TypeError, r"estimate: .* got a int; use a name in grad"),
    "objective's factory": (
        lambda: fit(estimate=training.free_bits), TypeError, r"estimate: .*call free_bits\("
    ),
    "objective elsewhere": (
        lambda: training.global_latents(9, training.free_bits(0.1)), TypeError,
        "local: .* only training.fit and fit_many take an objective",
    ),
    "no estimate": (lambda: fit(estimate=None), TypeError, "estimate: .* got a NoneType"),
    "in gaps": (
        lambda: gaps(KEY, MODEL(THETA), GUIDE(PHI), X, ascent=decomposition.Ascent(estimate=gradients.disarm)), TypeError, r"ascent\.estimate: .* call disarm"
    ),
    "guide as family": (
        lambda: decomposition.fit_local(KEY, MODEL(THETA), GUIDE(PHI), X, GUIDE), TypeError,
        "family: expected a Family, got a Guide",
    ),
    # distributions
    "guide as q": (lambda: no_q(KEY, GUIDE), TypeError, r"q: .* a Guide; use guide\.posterior\("),
    "family as q": (lambda: no_q(KEY, FAMILY), TypeError, r"q: .* a Family; use family\.build\("),
    "numpyro": (
        lambda: no_q(KEY, NUMPYRO), TypeError,
        r"q: expected .*sample\(seed=key, sample_shape=\(\)\).* got numpyro\..*Normal .*use the dist",
    ),
    "array as q": (lambda: no_q(KEY, X), TypeError, "q: .* sample and log_prob, got ndarray"),
    "estimator's q": (
        lambda: gradients.vimco()(KEY, lambda z: z, lambda phi: GUIDE, PHI, 3), TypeError,
        r"q: .* a Guide; use guide\.posterior",
    ),
    "numpyro prior": (
        lambda: evidence.evaluate(
            KEY, MODEL._replace(prior=lambda theta: NUMPYRO)(THETA), GUIDE(PHI), X, 9
        ),
        TypeError, r"model\.prior: expected .* got numpyro",
    ),
    "fixed": (lambda: guides.fixed(NUMPYRO), TypeError, "distribution: expected .* got numpyro"),
    # mixtures
    "model by em": (lambda: em.fit(OLD, X, 2), TypeError, r"key: .* use jax\.random\.key\(seed\)"),
    "ellipses": (
        lambda: plotting.ellipses(None, MIXTURE), ValueError,
        r"mixture: expected dimension 2, got 3; .*Plane\.mixture",
    ),
    "density": (lambda: plotting.density(KEY, None, LINE), ValueError, "mixture: .* 2, got 1"),
    "entropy map": (lambda: plotting.entropy_map(None, MIXTURE), ValueError, "mixture: .* got 3"),
    "histogram": (
        lambda: plotting.histogram(None, X[:, 0], MIXTURE), ValueError, "mixture: .* 1, got 3"
    ),
    "scatter": (lambda: plotting.scatter(None, X), ValueError, r"points: .*\[N, 2\], got \[11, 7\]"),
    # one data point
    "grey point": (
        lambda: MODEL(THETA).log_joint(GREY[1]), ValueError, "x: expected bits, 0 or 1"
    ),
    # a transform
    "transform's shape": (
        lambda: fit(transform=lambda key, x: x[:4]), ValueError,
        r"transform: expected .* shape \[7\] of a row of x, got \[4\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", OTHER)
def test_wrong_calls_name_their_cure(wrong):
    run, error, words = OTHER[wrong]
    with refused(error, f"^{words}"):
        run()


TRACED = {
    "training.fit": lambda x: fit(x=x),
    "evidence.evaluate": lambda x: call(BY_PROBLEM["evaluate"], x=x),
    "evidence.evaluate_annealed": lambda x: call(BY_PROBLEM["evaluate_annealed"], x=x),
    "evidence.certify": lambda x: call(BY_PROBLEM["certify"], x=x),
    "evidence.bidirectional": lambda x: call(BY_SIMULATION["bidirectional"], phi=x),
    "decomposition.gaps": lambda x: call(BY_PROBLEM["gaps"], x=x),
    "decomposition.fit_local": lambda x: call(BY_PROBLEM["fit_local"], x=x),
    "decomposition.surgery": lambda x: call(BY_PROBLEM["surgery"], x=x),
    "decomposition.channel": lambda x: call(BY_PROBLEM["channel"], x=x),
    "decomposition.account": lambda x: call(BY_PROBLEM["account"], x=x),
    "decomposition.calibrate": lambda x: call(BY_SIMULATION["calibrate"], theta=x),
    "decomposition.rate_distortion": lambda x: call(BY_DATA["rate_distortion"], x=x),
    "diagnostics.posterior_means": lambda x: diagnostics.posterior_means(KEY, GUIDE(PHI), x, 5),
    "em.fit": lambda x: em.fit(KEY, x, 2),
    "em.initialize": lambda x: em.initialize(KEY, x, 2),
    "models.ppca": lambda x: models.ppca(x, 2),
    "models.factor_analysis": lambda x: models.factor_analysis(x, 2),
}


@pytest.mark.parametrize("name", TRACED)
@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad], ids=["jit", "vmap", "grad"])
def test_host_functions_are_refused_under_transformations(name, transform):
    x = np.stack([X, X]) if transform is jax.vmap else X
    with refused(TypeError, f"^{name}: .*it is a host function, .* outside jax.jit.* or use .* in"):
        transform(TRACED[name])(x)


def test_a_data_frame_is_data_everywhere():
    frame = pd.DataFrame(X, columns=list("abcdefg"))
    for name, entry in {"fit": BY_DATA["fit"], "evaluate": BY_PROBLEM["evaluate"]}.items():
        of_array, of_frame = call(entry, x=X), call(entry, x=frame)
        if name == "fit":  # whose history has seconds
            of_array, of_frame = (found[:2] for found in (of_array, of_frame))
        leaves = zip(jax.tree.leaves(of_array), jax.tree.leaves(of_frame), strict=True)
        for one, other in leaves:
            np.testing.assert_array_equal(one, other, err_msg=name)


def test_a_row_a_name_and_an_estimator_are_one():
    row = gradients.ESTIMATORS["vimco"]
    for given in ("vimco", row, row.estimate):
        assert find_estimate(given) is row.estimate
    own = lambda *everything: 0.0  # noqa: E731
    assert find_estimate(own) is own
    assert distributions.is_reparameterized(FAMILY.build(FAMILY.init(KEY)))


def functions_of_a_key():
    """Every public function of the library whose first argument is `key`."""
    found = {}
    for room in PACKAGES:
        names = getattr(room, "__all__", [name for name in vars(room) if name[0].islower()])
        for name in names:
            function = getattr(room, name)
            own = hasattr(room, "__all__") or getattr(function, "__module__", "") == room.__name__
            if inspect.isfunction(function) and own:
                parameters = list(inspect.signature(function).parameters.values())
                if parameters and parameters[0].name == "key":
                    found[f"{function.__module__}.{name}"] = function, parameters[1:]
    return found


FUNCTIONS = functions_of_a_key()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_refuses_a_legacy_key_first(name):
    function, parameters = FUNCTIONS[name]
    needed = [p for p in parameters if p.default is p.empty]
    by_place = [None for p in needed if p.kind is p.POSITIONAL_OR_KEYWORD]
    by_name = {p.name: None for p in needed if p.kind is p.KEYWORD_ONLY}
    with refused(TypeError, r"^key: .* uint32, .* use jax\.random\.key\(seed\)"):
        function(OLD, *by_place, **by_name)


@pytest.mark.parametrize("name", gradients.ESTIMATORS)
def test_every_estimator_refuses_a_legacy_key(name):
    row = gradients.ESTIMATORS[name]
    family = guides.bernoulli(3) if row.latent != "reparameterized" else guides.mean_field(3)
    with refused(TypeError, r"^key: .* use jax\.random\.key\(seed\)"):
        row.estimate(OLD, lambda z: -(z**2).sum(), family.build, family.init(KEY), 4)


INITS = {
    "linear_gaussian": models.linear_gaussian(2, 3),
    "gaussian_mixture": models.gaussian_mixture(2, 3),
    "deep_gaussian": models.deep_gaussian(2, 3),
    "two_layer_gaussian": models.two_layer_gaussian(2, 3, 4),
    "deep_latent_gaussian": MODEL,
    "mlp": DECODER,
    "mixture": priors.mixture(2, 3),
    "linear": GUIDE,
    "flow": guides.flow_family("coupling", 3, 2, (4,)),
    "low_rank": guides.low_rank(3, 1),
    "per_point": guides.per_point(FAMILY, 5),
}


@pytest.mark.parametrize("name", INITS)
def test_every_init_that_draws_refuses_a_legacy_key(name):
    with refused(TypeError, r"^key: .* use jax\.random\.key\(seed\)"):
        INITS[name].init(OLD)


def test_grey_levels_beyond_one_are_not_binarised():
    with refused(ValueError, r"x: expected numbers in \[0, 1\], got 255"):
        data.BINARIZATIONS["dynamic"].transform(KEY, GREY[1])
    with refused(ValueError, r"x: expected numbers in \[0, 1\], got 255"):
        data.BINARIZATIONS["dynamic"].heldout(3, GREY)
    with refused(ValueError, r"x: expected numbers in \[0, 1\], got 255 .*divide by the largest"):
        fit(x=GREY, transform=data.BINARIZATIONS["dynamic"].transform)


def test_supports_are_read_from_the_type_of_the_likelihood():
    """The exact models whose x is discrete, without a word of their author."""
    theta = jnp.zeros((2, 3))
    cases = {
        "bits": (lambda p, z: distributions.Bernoulli(z @ p), BITS),
        "counts": (lambda p, z: likelihoods.Poisson(z @ p), COUNTS),
        "labels": (lambda p, z: distributions.categorical(jnp.zeros((3, 5))), whole_numbers(5)),
        "one-hot": (lambda p, z: distributions.one_hot(jnp.zeros((3, 5))), BITS),
        "unit": (lambda p, z: likelihoods.ContinuousBernoulli(z @ p), UNIT),
        "levels": (lambda p, z: likelihoods.CategoricalLevels(jnp.zeros((4, 3))), whole_numbers(4)),
        "real": (lambda p, z: distributions.normal(z @ p, jnp.ones(3)), REAL),
    }
    for name, (likelihood, support) in cases.items():
        model = models.bernoulli(2, likelihood, lambda key: theta)
        found = models.base.data_point(model(model.init(KEY)))
        assert found.support == support, name
        own = model._replace(support=UNIT)  # the model's own support has priority
        assert models.base.data_point(own(model.init(KEY))).support == UNIT
    poisson = models.bernoulli(2, cases["counts"][0], lambda key: theta)
    guide = guides.shared(guides.bernoulli(2))
    with refused(ValueError, r"^x: expected counts 0, 1, 2, \.\.\., got 1\.5 at row 1, column 0"):
        evidence.evaluate(
            KEY, poisson(poisson.init(KEY)), guide(guide.init(KEY)),
            np.array([[1.0, 0, 7], [1.5, 0, 2]]), 9,
        )  # fmt: skip


def test_a_memory_map_is_checked_in_blocks_to_its_last_row(tmp_path, monkeypatch):
    monkeypatch.setattr(checks.arrays, "BLOCK", 23)  # three rows of seven
    stored = np.memmap(tmp_path / "x", np.uint8, "w+", shape=(ROWS, DIM))
    stored[:] = X
    read = []
    blocks = checks.arrays.blocks
    monkeypatch.setattr(
        checks, "blocks", lambda x: (read.append(b[1].shape) or b for b in blocks(x))
    )
    stored[10, 6] = 3
    with refused(ValueError, r"^x: expected bits, 0 or 1, got 3 at row 10, column 6 \(1 of 77"):
        fit(x=stored, placement=training.Placement(on_device=False))
    assert max(read) == (3, 7), "a block holds three rows"
    on_device = jnp.asarray(stored)
    with refused(ValueError, r"^x: .* got 3 at row 10"):
        fit(x=on_device)
