"""Digits with a few Bernoulli latents: exact gradients by enumeration, and the noisy ones beside.

z_k ~ Bernoulli(sigmoid(l_k)), k < K, and each of 64 pixels x_d | z ~ Bernoulli(sigmoid(W z + c)_d);
q(z | x) = Bernoulli(sigmoid(A x + a)). theta = (l, W, c), phi = (A, a).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from lvm_jax import bounds, data, distributions, gradients, guides, models
from lvm_jax.typing import Array, Float, Key, Params, Scalar

if TYPE_CHECKING:
    from experiments.discrete_gradients import Config

GROUPS = ("theta", "phi")


class Setting(NamedTuple):
    """Where the gradients are measured, and what they are exactly."""

    theta: Params
    phi: Params
    x: Float[Array, "N D"]
    exact: dict[str, dict[str, np.ndarray]]  # by bound, then group
    elbo: float  # mean over the N images, exact, nats
    log_evidence: float
    control: Params  # adapted, of RELAX

    @property
    def norms(self) -> dict[str, dict[str, float]]:
        """Length of the exact gradient, nats, by bound and group."""
        return {
            bound: {group: float(np.linalg.norm(g)) for group, g in groups.items()}
            for bound, groups in self.exact.items()
        }


class Entry(NamedTuple):
    """An estimator as it is used here."""

    estimate: gradients.Estimate
    num_samples: int
    evaluations: int  # of log p(x, z), for one image
    bound: str = "elbo"


def make_model(config: "Config") -> tuple[models.Model, guides.Guide]:
    """The model and its linear guide."""
    dim = 64

    def init(key: Key[Array, ""]) -> Params:
        return 0.5 * jax.random.normal(key, (dim, config.num_latents)), jnp.zeros(dim)

    def likelihood(parameters: Params, z: Array) -> distributions.Bernoulli:
        weight, bias = parameters
        return distributions.Bernoulli(weight @ z + bias)

    model = models.bernoulli(config.num_latents, likelihood, init)
    return model, guides.linear(guides.bernoulli(config.num_latents), dim)


def estimators(config: "Config", setting: Setting | None) -> dict[str, Entry]:
    """By name; without a setting, for the names only."""
    size, pairs = config.num_samples, config.num_samples // 2
    baseline = setting.elbo if setting else 0.0
    control = make_control(setting.control) if setting else gradients.rebar_control()
    return {
        "enumeration": Entry(gradients.enumerated(), 1, 2**config.num_latents),
        "score function": Entry(gradients.score_function(), size, size),
        "score function, baseline": Entry(
            gradients.score_function(baseline=baseline), size, size
        ),
        "RLOO": Entry(gradients.leave_one_out(), size, size),
        "ARM": Entry(gradients.arm(), pairs, size),
        "DisARM": Entry(gradients.disarm(), pairs, size),
        "REBAR, τ = 0.5": Entry(gradients.rebar(0.5), size, 3 * size),
        "RELAX, adapted": Entry(gradients.relax(control), size, 3 * size),
        "concrete, τ = 0.5": Entry(gradients.concrete(0.5), size, size),
        "straight-through": Entry(gradients.straight_through(), size, size),
        "score function, IWAE": Entry(gradients.score_function(bounds.iwae), size, size, "iwae"),
        "VIMCO": Entry(gradients.vimco(), size, size, "iwae"),
    }  # fmt: skip


RELAXED: dict[str, Callable[[Scalar], gradients.Estimate]] = {
    "concrete": gradients.concrete,
    "straight-through Gumbel": gradients.straight_through,
    "REBAR": gradients.rebar,
}


def make_control(parameters: Params) -> Callable[..., Scalar]:
    """RELAX's control: the relaxed log-weight with a free temperature and scale, and a free line."""
    relaxed = gradients.rebar_control(jnp.exp(parameters["log_temperature"]), parameters["scale"])

    def control(log_weight: Callable, soften: Callable, z: Array) -> Scalar:
        return relaxed(log_weight, soften, z) + parameters["line"] @ soften(z)

    return control


def prepare(key_train: Key[Array, ""], key_adapt: Key[Array, ""], config: "Config") -> Setting:
    """Train for a while on the exact ELBO, adapt RELAX, and sum out z at the images to measure."""
    model, guide = make_model(config)
    x = jnp.asarray(data.digits().x[: max(200, config.num_points)] > 7.5, jnp.float32)
    theta, phi = train(key_train, model, guide, x, config)
    x = x[: config.num_points]
    exact = {
        bound: {
            group: np.asarray(ravel_pytree(g)[0], np.float64)
            for group, g in zip(GROUPS, gradient, strict=True)
        }
        for bound, size in (("elbo", 1), ("iwae", config.num_samples))
        for gradient in [jax.jit(jax.grad(summed(model, guide, size), (0, 1)))(theta, phi, x)]
    }
    log_evidence = jax.jit(jax.vmap(model.log_evidence, (None, 0)))(theta, x).mean()
    elbo = jax.jit(summed(model, guide, 1))(theta, phi, x)
    control = adapt(key_adapt, model, guide, theta, phi, x, config)
    return Setting(theta, phi, x, exact, float(elbo), float(log_evidence), control)


def summed(
    model: models.Model, guide: guides.Guide, num_samples: int
) -> Callable[[Params, Params, Array], Scalar]:
    """The exact E[IWAE] with S samples (the ELBO for 1), averaged over x: all tuples of z."""

    def one(theta: Params, phi: Params, x: Array) -> Scalar:
        q = guide.posterior(phi, x)
        z = distributions.support(q)
        log_q = jax.vmap(q.log_prob)(z)
        log_w = jax.vmap(models.log_joint(model, theta, x))(z) - log_q
        tuples = distributions.digits(len(z), num_samples)
        odds = jnp.exp(log_q[tuples].sum(1))
        return odds @ jax.vmap(bounds.iwae)(log_w[tuples])

    return lambda theta, phi, x: jax.vmap(one, (None, None, 0))(theta, phi, x).mean()


def climb(objective: Callable[[Array, Any], Scalar], start: Params, steps: int, rate: float) -> Any:
    """Parameters after some steps of Adam up `objective(step, parameters)`."""
    optimizer = optax.adam(rate)

    def step(state: Any, index: Array) -> tuple[Any, None]:
        parameters, inner = state
        gradient = jax.grad(lambda p: -objective(index, p))(parameters)
        updates, inner = optimizer.update(gradient, inner)
        return (optax.apply_updates(parameters, updates), inner), None

    @jax.jit
    def run(start: Params) -> Params:
        return jax.lax.scan(step, (start, optimizer.init(start)), jnp.arange(steps))[0][0]

    return run(start)


def train(
    key: Key[Array, ""], model: models.Model, guide: guides.Guide, x: Array, config: "Config"
) -> tuple[Params, Params]:
    """theta and phi on their way to the optimum, as an estimator meets them."""
    key_theta, key_phi = jax.random.split(key)
    start = model.init(key_theta), guide.init(key_phi)
    elbo = summed(model, guide, 1)
    return climb(lambda index, both: elbo(*both, x), start, config.train_steps, 0.05)


def adapt(
    key: Key[Array, ""],
    model: models.Model,
    guide: guides.Guide,
    theta: Params,
    phi: Params,
    x: Array,
    config: "Config",
) -> Params:
    """RELAX's control after minimising the variance of phi's gradient, by Adam."""
    start = {
        "log_temperature": jnp.log(0.5),
        "scale": jnp.ones(()),
        "line": jnp.zeros(config.num_latents),
    }

    def objective(index: Array, parameters: Params) -> Scalar:
        objective = gradients.variance_objective(make_control(parameters))

        def one(key: Key[Array, ""], x: Array) -> Scalar:
            joint = models.log_joint(model, theta, x)
            return objective(key, joint, lambda phi: guide.posterior(phi, x), phi, 16)

        keys = jax.random.split(jax.random.fold_in(key, index), len(x))
        return -jnp.log(jax.vmap(one)(keys, x).mean())

    return climb(objective, start, config.adapt_steps, 0.03)


Draw = Callable[[Key[Array, ""]], dict[str, Array]]


def gradient_of(
    setting: Setting, estimate: gradients.Estimate, size: int, config: "Config"
) -> Draw:
    """key -> the gradient averaged over the images, flat, by group.

    The parameters carry a zero that the key makes: what depends on them only would otherwise be
    computed once for a whole batch of keys, and enumeration seem to cost nothing.
    """
    model, guide = make_model(config)

    def surrogate(theta: Params, phi: Params, key: Key[Array, ""]) -> Scalar:
        def one(key: Key[Array, ""], x: Array) -> Scalar:
            joint = models.log_joint(model, theta, x)
            return estimate(key, joint, lambda phi: guide.posterior(phi, x), phi, size)

        return jax.vmap(one)(jax.random.split(key, len(setting.x)), setting.x).mean()

    def draw(key: Key[Array, ""]) -> dict[str, Array]:
        key_zero, key = jax.random.split(key)
        zero = 0.0 * jax.random.uniform(key_zero)
        theta, phi = jax.tree.map(lambda leaf: leaf + zero, (setting.theta, setting.phi))
        pair = jax.grad(surrogate, (0, 1))(theta, phi, key)
        return {name: ravel_pytree(g)[0] for name, g in zip(GROUPS, pair, strict=True)}

    return draw
