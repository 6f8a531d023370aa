"""What the `vae` experiment climbs: a bound, a gradient estimator, and what may change them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lvm_jax import bounds, checks, gradients, training
from lvm_jax.bounds import Reduction
from lvm_jax.gradients import ESTIMATORS, Estimate
from lvm_jax.guides import Guide
from lvm_jax.models import Model
from lvm_jax.training import Objective, Parameters, Terms
from lvm_jax.training.step import Program, batch_terms
from lvm_jax.typing import Array, Key, Params

if TYPE_CHECKING:
    from experiments.vae import Config

BOUNDS: dict[str, Callable[["Config"], Reduction]] = {
    "elbo": lambda config: bounds.elbo,
    "iwae": lambda config: bounds.iwae,
    "renyi": lambda config: bounds.renyi(config.alpha),
    "miwae": lambda config: bounds.miwae(config.num_groups),
    "ciwae": lambda config: bounds.ciwae(config.elbo_share),
}
ANY_BOUND: dict[str, Callable[[Reduction], Estimate]] = {
    "reparameterized": gradients.reparameterized,
    "doubly_reparameterized": gradients.doubly_reparameterized,
    "score_function": gradients.score_function,
}
CONTINUOUS = tuple(n for n, row in ESTIMATORS.items() if row.latent in ("any", "reparameterized"))
OFFERED = tuple(n for n in CONTINUOUS if ESTIMATORS[n].bound in BOUNDS)  # others climb chains
SCHEDULES = ("constant", "cosine", "burda")
BURDA_STAGES = 8  # the paper's
EPS = 1e-4  # of Adam in burda, by the paper, whose code sums gradients over a batch; ours are means


class Climb(NamedTuple):
    """What `training.fit` is given: exactly one of the first two."""

    estimate: Estimate | None
    objective: Objective | None


def estimators_for(bound: str) -> list[str]:
    """The estimators whose gradient belongs to a bound, for a continuous q."""
    return [n for n in OFFERED if n in ANY_BOUND or ESTIMATORS[n].bound == bound]


def bounds_for(estimator: str) -> list[str]:
    """The bounds that an estimator can climb."""
    return list(BOUNDS) if estimator in ANY_BOUND else [ESTIMATORS[estimator].bound]


def check(config: "Config") -> None:
    """Refuse a bound and an estimator that do not go together, saying what would."""
    checks.choice(config.bound, "bound", tuple(BOUNDS))
    name = str(config.estimator)
    if name not in ESTIMATORS:
        checks.choice(name, "estimator", OFFERED)
    works = ", ".join(estimators_for(config.bound))
    if name not in OFFERED:
        why = "bounds on annealed chains" if name in CONTINUOUS else "discrete z"
        raise ValueError(
            f"estimator: expected one for a continuous z and its log-weights, got {name!r}, which "
            f"is for {why}; with bound {config.bound!r} take one of {works}"
        )
    if name not in estimators_for(config.bound):
        raise ValueError(
            f"estimator: {name!r} has the gradient of {', '.join(bounds_for(name))}, not of "
            f"{config.bound!r}; with it take one of {works}"
        )
    check_numbers(config)
    check_modified(config)


def check_numbers(config: "Config") -> None:
    """Refuse numbers that the bound or the estimator would refuse later."""
    least = 2 if config.estimator in ("leave_one_out", "vimco") else 1
    checks.integer(config.num_samples, "num_samples", least)
    checks.integer(config.num_groups, "num_groups", 1)
    grouped = config.bound == "miwae" or config.estimator == "piwae"
    if grouped and config.num_samples % config.num_groups:
        raise ValueError(
            f"num_samples: expected a multiple of num_groups = {config.num_groups}, got "
            f"{config.num_samples}"
        )
    if config.bound == "renyi" and abs(config.alpha) == float("inf"):
        raise ValueError("alpha: expected a finite number, got an infinite one")
    BOUNDS[config.bound](config)  # refuses its own option


def check_modified(config: "Config") -> None:
    """Refuse a KL warm-up or free bits where they have no meaning here."""
    checks.integer(config.warm_up, "warm_up", 0)
    floor = checks.number(config.free_bits, "free_bits")
    if config.warm_up and floor:
        raise ValueError("free_bits, warm_up: expected one of the two, got both")
    if (config.warm_up or floor) and config.estimator != "reparameterized":
        raise ValueError(
            "estimator: expected 'reparameterized' with warm_up or free_bits, which change the "
            f"objective, got {config.estimator!r}"
        )
    if not floor:
        return
    if config.bound != "elbo":
        raise ValueError(f"free_bits: expected bound 'elbo' with it, got {config.bound!r}")
    products = config.guide == "mean_field" and config.prior == "standard_normal"
    if config.free_bits_group == "dimension" and not products:
        raise ValueError(
            "free_bits_group: expected 'all' unless guide is mean_field and prior "
            f"standard_normal, got 'dimension' with {config.guide!r} and {config.prior!r}"
        )


def reduction(config: "Config") -> Reduction:
    """The bound as a function of the log-weights."""
    return BOUNDS[config.bound](config)


def make_estimate(config: "Config") -> Estimate:
    """The gradient estimator of the bound."""
    if config.estimator in ANY_BOUND:
        return ANY_BOUND[config.estimator](reduction(config))
    if config.estimator == "piwae":
        return gradients.piwae(config.num_groups)
    return ESTIMATORS[config.estimator].estimate


def make(config: "Config", guide: Guide, steps_per_epoch: int) -> Climb:
    """What is climbed; `guide` is the one that is used, which may refine what is trained."""
    objective: Objective | None = None
    if config.warm_up:
        ramp = optax.linear_schedule(0.0, 1.0, config.warm_up * steps_per_epoch)
        objective = training.annealed(ramp, reduction(config))
    elif config.free_bits:
        objective = training.free_bits(config.free_bits, config.free_bits_group)
    estimate = None if objective else make_estimate(config)
    if not config.refine_steps:
        return Climb(estimate, objective)
    return Climb(None, training.refining(guide, estimate=estimate, objective=objective))


def optimizer(config: "Config", steps_per_epoch: int) -> optax.GradientTransformation:
    """Adam with the schedule, after clipping the gradient's norm where that is asked for."""
    rate = config.learning_rate
    if config.schedule == "burda":
        stages = BURDA_STAGES  # or more: the first ones are the same whatever follows them
        while training.burda_epochs(stages) < config.epochs:
            stages += 1
        rates = training.burda_stages(stages, steps_per_epoch, rate)
        adam = optax.adam(rates, eps=EPS / config.batch_size)
    elif config.schedule == "cosine":
        adam = optax.adam(optax.cosine_decay_schedule(rate, config.decay_epochs * steps_per_epoch))
    else:
        adam = optax.adam(rate)
    return optax.chain(optax.clip_by_global_norm(config.clip), adam) if config.clip else adam


def rehearse(
    model: Model,
    guide: Guide,
    climb: Climb,
    tie: Callable[[Params, Params], Params] | None,
    x: np.ndarray,
    config: "Config",
) -> None:
    """Trace one step on one image, so that what does not fit is refused before a run begins."""
    program = Program(
        *(model, guide, climb.estimate, climb.objective, config.num_samples, optax.identity()),
        *(1, None, tie, None, None),
    )

    def step(key: Key[Array, ""]) -> Terms:
        parameters = Parameters(model.init(key), guide.init(key))
        return batch_terms(program, key[None], parameters, jnp.asarray(x[:1]), jnp.int32(0))

    jax.eval_shape(step, jax.random.key(0))
