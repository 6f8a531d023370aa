"""Digits with a few Bernoulli latents: gradient estimates compared with exact gradients.

z_k ~ Bernoulli(sigmoid(l_k)), k < K, and each of 64 pixels x_d | z ~ Bernoulli(sigmoid(W z + c)_d);
q(z | x) = Bernoulli(sigmoid(A x + a)). theta = (l, W, c), phi = (A, a).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from experiments.discrete_gradients import toy
from experiments.discrete_gradients.config import Config
from lvm_jax import bounds, data, diagnostics, distributions, gradients, guides, models, training
from lvm_jax.gradients.accuracy import ROUNDING
from lvm_jax.report import Check, Run, near
from lvm_jax.typing import Array, Float, Key, Params, Scalar

DIM = 64  # pixels
BLOCKS = 20  # independent blocks of gradients, for the standard errors
GROUPS = ("theta", "phi")
BIASED = {  # estimators with a bias, and the groups that it affects
    "concrete": GROUPS,
    "concrete, τ = 0.5": GROUPS,
    "straight-through": ("phi",),
    "straight-through Gumbel": ("phi",),
}
RECORDED = {  # default options, phi: a field of `Accuracy`, its value and its standard error
    "RLOO": ("variance", 17.29, 0.29),
    "DisARM": ("variance", 13.7, 0.27),
    "VIMCO": ("variance", 66.26, 0.79),
    "concrete, τ = 0.5": ("bias", 0.630, 0.014),
    "straight-through": ("bias", 1.487, 0.012),
}


class Setting(NamedTuple):
    """The parameters and data of the measurement, and the exact gradients."""

    theta: Params
    phi: Params
    x: Float[Array, "N D"]
    exact: dict[str, dict[str, np.ndarray]]  # by bound, then group
    elbo: float  # mean over the N images, exact, nats
    log_evidence: float
    control: Params  # of RELAX, adapted

    @property
    def norms(self) -> dict[str, dict[str, float]]:
        """Length of the exact gradient, nats, by bound and group."""
        return jax.tree.map(lambda g: float(np.linalg.norm(g)), self.exact)


class Entry(NamedTuple):
    """An estimator, as a function of its temperature, and its cost."""

    make: Callable[[Scalar], gradients.Surrogate]
    num_samples: int
    evaluations: int  # of log p(x, z), for one image
    bound: str = "elbo"


class Measured(NamedTuple):
    """Errors of one estimator, by group, and its cost."""

    groups: dict[str, gradients.Accuracy]
    microseconds: float  # for one gradient of all images, theta and phi; median over blocks
    evaluations: int
    bound: str


@dataclass(frozen=True)
class Result:
    """The result of the run."""

    config: Config
    toy: dict[float, dict[str, toy.ToyRow]]  # by target, then estimator
    losses: dict[str, np.ndarray]  # [seeds, steps + 1], the toy's exact loss in each descent
    setting: Setting
    measured: dict[str, Measured]  # by estimator
    relaxed: dict[str, list[Measured]]  # by estimator, one for each temperature

    @property
    def numbers(self) -> dict[str, Any]:
        """The content of results.json."""
        ends = {name: losses[:, -1] for name, losses in self.losses.items()}
        return {
            "toy": self.toy,
            "toy_final_loss": {n: {"mean": v.mean(), "sd": v.std()} for n, v in ends.items()},
            "digits": {
                "elbo": self.setting.elbo,
                "log_evidence": self.setting.log_evidence,
                "size_of_gradient": self.setting.norms,
                "estimators": {name: numbers_of(one) for name, one in self.measured.items()},
                "temperatures": {
                    name: [numbers_of(one) for one in several]
                    for name, several in self.relaxed.items()
                },
            },
        }


def measure(config: Config, run: Run) -> Result:
    """Measure the toy, its descents, the digits, and the temperatures."""
    key_toy, key_descend, *key_train, key_draws = jax.random.split(jax.random.key(config.seed), 5)
    run.begin(len(estimators(config, None)) + len(RELAXED) + 3)
    with jax.enable_x64(True):  # float32 rounding would hide variances that are zero
        rows = run.stage("toy: gradients", toy.measure, key_toy, config)
        losses = run.stage("toy: descents", toy.descend, key_descend, config)
    setting = run.stage("digits: training", prepare, *key_train, config)
    measured, relaxed = {}, {}
    for place, (name, entry) in enumerate(estimators(config, setting).items()):
        key = jax.random.fold_in(key_draws, place)
        (measured[name],) = run.stage(name, sweep, key, setting, entry, (0.0,), config)
    for place, (name, (make, work)) in enumerate(RELAXED.items(), len(measured)):
        entry = Entry(make, config.num_samples, work * config.num_samples)
        key = jax.random.fold_in(key_draws, place)
        stage = f"temperatures of {name}"
        relaxed[name] = run.stage(stage, sweep, key, setting, entry, config.temperatures, config)
    result = Result(config, rows, losses, setting, measured, relaxed)
    for name, temperature, found in every(result):
        for group, part in numbers_of(found)["groups"].items():
            run.log(estimator=name, temperature=temperature, group=group, **part)
    return result


def numbers_of(found: Measured) -> dict[str, Any]:
    """The entry of one estimator in results.json."""
    groups = {
        group: {
            "bias": part.bias.value,
            "error": part.bias.standard_error,
            "z": part.z,
            "limit": part.limit,
            "variance": part.variance.value,
            "variance_error": part.variance.standard_error,
        }
        for group, part in found.groups.items()
    }
    return {**found._asdict(), "groups": groups}


def every(result: Result) -> list[tuple[str, float | None, Measured]]:
    """Name, temperature and errors of every measurement on the digits."""
    taus = result.config.temperatures
    return [(name, None, found) for name, found in result.measured.items()] + [
        (name, tau, found)
        for name, several in result.relaxed.items()
        for tau, found in zip(taus, several, strict=True)
    ]


def checks(result: Result) -> list[Check]:
    """Derived values of the toy, unbiased estimators, and recorded numbers."""
    config = result.config
    found = [
        near(f"toy, t = {t:g}: gradient of {name}", got.measured_mean, got.mean, 1e-10, "exact")
        for t, rows in result.toy.items()
        for name, got in rows.items()
        if name in ("enumeration", "DisARM")  # without noise at l = 0
    ]
    z = [abs(z) for rows in result.toy.values() for row in rows.values() for z in row.z]
    found.append(Check("toy: largest |z| of measured against derived", max(z), 0, 8, "below 8"))
    gap = result.setting.log_evidence - result.setting.elbo
    found.append(Check("digits: log p less exact ELBO", gap, -1e-3, np.inf, "at least 0"))
    unbiased = [
        (part.z, f" ({name}{'' if tau is None else f', τ = {tau:g}'}, {group})")
        for name, tau, one in every(result)
        for group, part in one.groups.items()
        if group not in BIASED.get(name, ()) and part.bias.value >= 10 * ROUNDING
    ]
    worst, where = max(unbiased, default=(0.0, ""))
    words = "below 8: squared bias in standard errors"
    found.append(Check(f"largest z of an unbiased estimator{where}", worst, 0, 8, words))
    for name, (field, value, error) in RECORDED.items() if config == Config() else ():
        got = getattr(result.measured[name].groups["phi"], field).value
        found.append(near(f"{field} of {name}, phi", got, value, 7 * error, "recorded"))
    return found


def make_model(num_latents: int) -> tuple[models.Model, guides.Guide]:
    """The model and its linear guide."""

    def init(key: Key[Array, ""]) -> Params:
        return 0.5 * jax.random.normal(key, (DIM, num_latents)), jnp.zeros(DIM)

    def likelihood(parameters: Params, z: Array) -> distributions.Bernoulli:
        weight, bias = parameters
        return distributions.Bernoulli(weight @ z + bias)

    model = models.bernoulli(num_latents, likelihood, init)
    return model, guides.linear(guides.bernoulli(num_latents), DIM)


def estimators(config: Config, setting: Setting | None) -> dict[str, Entry]:
    """The estimators by name; without a setting, for their names only."""
    size, pairs = config.num_samples, config.num_samples // 2
    baseline = setting.elbo if setting else 0.0
    control = make_control(setting.control) if setting else gradients.rebar_control()
    rows = {
        "enumeration": (gradients.enumerated(), 1, 2**config.num_latents),
        "score function": (gradients.score_function(), size, size),
        "score function, baseline": (gradients.score_function(baseline=baseline), size, size),
        "RLOO": (gradients.leave_one_out(), size, size),
        "ARM": (gradients.arm(), pairs, size),
        "DisARM": (gradients.disarm(), pairs, size),
        "REBAR, τ = 0.5": (gradients.rebar(0.5), size, 3 * size),
        "RELAX, adapted": (gradients.relax(control), size, 3 * size),
        "concrete, τ = 0.5": (gradients.concrete(0.5), size, size),
        "straight-through": (gradients.straight_through(), size, size),
        "score function, IWAE": (gradients.score_function(bounds.iwae), size, size, "iwae"),
        "VIMCO": (gradients.vimco(), size, size, "iwae"),
    }
    return {name: Entry(lambda tau, e=e: e, *rest) for name, (e, *rest) in rows.items()}


RELAXED = {  # estimators of a temperature, and their evaluations of log p(x, z) for each draw
    "concrete": (gradients.concrete, 1),
    "straight-through Gumbel": (gradients.straight_through, 1),
    "REBAR": (gradients.rebar, 3),
}


def make_control(parameters: Params) -> Callable[..., Scalar]:
    """RELAX's control: the relaxed log-weight with free temperature and scale, and a line."""
    relaxed = gradients.rebar_control(jnp.exp(parameters["log_temperature"]), parameters["scale"])

    def control(log_weight: Callable, soften: Callable, z: Array) -> Scalar:
        return relaxed(log_weight, soften, z) + parameters["line"] @ soften(z)

    return control


def prepare(key_train: Key[Array, ""], key_adapt: Key[Array, ""], config: Config) -> Setting:
    """Train on the exact ELBO, adapt RELAX, and compute the exact gradients by summing over z."""
    model, guide = make_model(config.num_latents)
    elbo, iwae = (summed(model, guide, size) for size in (1, config.num_samples))
    x = jnp.asarray(data.digits().x[: max(200, config.num_points)] > 7.5, jnp.float32)
    key_theta, key_phi = jax.random.split(key_train)
    start = model.init(key_theta), guide.init(key_phi)
    objective = lambda step, both: elbo(*both, x)  # noqa: E731
    theta, phi = training.ascend(objective, start, optax.adam(0.05), config.train_steps)
    x = x[: config.num_points]
    exact = {}
    for bound, objective in (("elbo", elbo), ("iwae", iwae)):
        pair = jax.jit(jax.grad(objective, (0, 1)))(theta, phi, x)
        flat = [np.asarray(ravel_pytree(g)[0], np.float64) for g in pair]
        exact[bound] = dict(zip(GROUPS, flat, strict=True))
    log_evidence = jax.jit(jax.vmap(model.log_evidence, (None, 0)))(theta, x).mean()
    value = float(jax.jit(elbo)(theta, phi, x))
    control = adapt(key_adapt, averaged(model, guide, x), theta, phi, config)
    return Setting(theta, phi, x, exact, value, float(log_evidence), control)


def summed(
    model: models.Model, guide: guides.Guide, num_samples: int
) -> Callable[[Params, Params, Array], Scalar]:
    """The exact E[IWAE] with S samples (the ELBO for 1), averaged over x, by summing all z."""

    def one(theta: Params, phi: Params, x: Array) -> Scalar:
        q = guide.posterior(phi, x)
        z = distributions.support(q)
        log_q = jax.vmap(q.log_prob)(z)
        log_w = jax.vmap(model(theta).log_joint(x))(z) - log_q
        tuples = distributions.digits(len(z), num_samples)
        odds = jnp.exp(log_q[tuples].sum(1))
        return odds @ jax.vmap(bounds.iwae)(log_w[tuples])

    return lambda theta, phi, x: jax.vmap(one, (None, None, 0))(theta, phi, x).mean()


def averaged(model: models.Model, guide: guides.Guide, x: Array) -> Callable[..., Scalar]:
    """(estimate, S, key, theta, phi) -> the mean over the images x of an estimate."""

    def average(
        estimate: gradients.Surrogate, size: int, key: Key[Array, ""], theta: Params, phi: Params
    ) -> Scalar:
        def one(key: Key[Array, ""], x: Array) -> Scalar:
            joint = model(theta).log_joint(x)
            return estimate(key, joint, lambda phi: guide.posterior(phi, x), phi, size)

        return jax.vmap(one)(jax.random.split(key, len(x)), x).mean()

    return average


def adapt(
    key: Key[Array, ""], average: Callable[..., Scalar], theta: Params, phi: Params, config: Config
) -> Params:
    """RELAX's control with minimal variance of phi's gradient, by Adam."""
    line = jnp.zeros(config.num_latents)
    start = {"log_temperature": jnp.log(0.5), "scale": jnp.ones(()), "line": line}

    def objective(index: Array, parameters: Params) -> Scalar:
        variance = gradients.variance_objective(make_control(parameters))
        return -jnp.log(average(variance, 16, jax.random.fold_in(key, index), theta, phi))

    return training.ascend(objective, start, optax.adam(0.03), config.adapt_steps)


def sweep(
    key: Key[Array, ""],
    setting: Setting,
    entry: Entry,
    temperatures: tuple[float, ...],
    config: Config,
) -> list[Measured]:
    """Bias, variance and time of one estimator at every temperature, in one program."""
    repeats = config.num_repeats // BLOCKS
    average = averaged(*make_model(config.num_latents), setting.x)

    def draw(key: Key[Array, ""], temperature: Scalar) -> dict[str, Array]:
        # Add a random zero to the parameters. Otherwise XLA computes what depends on them only
        # once for a batch of keys, and enumeration appears to cost nothing.
        key_zero, key = jax.random.split(key)
        zero = 0.0 * jax.random.uniform(key_zero)
        theta, phi = jax.tree.map(lambda leaf: leaf + zero, (setting.theta, setting.phi))
        own = entry.make(temperature), entry.num_samples
        pair = jax.grad(average, (3, 4))(*own, key, theta, phi)
        return {name: ravel_pytree(g)[0] for name, g in zip(GROUPS, pair, strict=True)}

    def block(key: Key[Array, ""], temperature: Scalar) -> tuple[dict, dict]:
        found = diagnostics.gradient_statistics(
            key, lambda key: draw(key, temperature), repeats, chunk_size=repeats
        )
        return found.mean.value, found.variance

    compiled = jax.jit(block).lower(key, jnp.float32(0)).compile()
    measured = []
    for place, temperature in enumerate(temperatures):
        blocks, seconds = [], []
        for one in jax.random.split(jax.random.fold_in(key, place), BLOCKS):
            start = time.perf_counter()
            blocks.append(jax.block_until_ready(compiled(one, jnp.float32(temperature))))
            seconds.append(time.perf_counter() - start)
        groups = {}
        for name, exact in setting.exact[entry.bound].items():
            means = np.array([mean[name] for mean, _ in blocks], np.float64)
            variances = np.array([variance[name].sum() for _, variance in blocks], np.float64)
            groups[name] = gradients.accuracy(means, variances, exact)
        microseconds = 1e6 * float(np.median(seconds)) / repeats
        measured.append(Measured(groups, microseconds, entry.evaluations, entry.bound))
    return measured
