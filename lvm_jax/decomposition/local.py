"""The best q of a family for each point: local optimisation from several starts."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lvm_jax import distributions, gradients, weights
from lvm_jax._core import checks
from lvm_jax._core.batching import costly_batch_size, for_points, num_rows
from lvm_jax._core.inputs import check_family, check_problem, one_of
from lvm_jax.distributions.kinds import is_flow
from lvm_jax.estimate import Estimate
from lvm_jax.evidence.importance import CHUNK_SIZE
from lvm_jax.gradients.base import find_estimate
from lvm_jax.guides.base import Family
from lvm_jax.typing import (
    Array,
    ConditionalDensity,
    Distribution,
    Float,
    Generative,
    Int,
    Key,
    Latent,
    Params,
    Scalar,
)
from lvm_jax.weights import LogJoint

NUM_SELECTION = 200  # draws that select a start, and as many that measure the last gain
NUM_MOMENTS = 200  # draws for the moments of a q without closed forms
RATE = 0.05  # initial rate of the default optimiser
FLOW_RATE = 0.01  # the same for a flow, which diverges at a larger rate


class Local(NamedTuple):
    """q(z) = family(eta) of every point, leaves [N, ...]."""

    eta: Params
    start: Int[Array, " N"]  # the best start: 0 the guide's q, 1 the family's own, ...
    gain: Estimate  # of the ELBO over the last tenth of the steps, [N]; near 0 once converged


@dataclass(frozen=True)
class Ascent:
    """The settings of `fit_local`, with `num_starts` starts for each point.

    Each start makes `num_steps` steps with `num_draws` fresh draws a step. The default `optimizer`
    is Adam with a cosine decay of the rate from 0.05, or 0.01 for a flow, to 0. `estimate` is a
    gradient estimator, such as one for a discrete z.
    """

    num_steps: int = 1_000
    num_draws: int = 10
    num_starts: int = 2
    optimizer: optax.GradientTransformation | None = None
    estimate: gradients.Surrogate | gradients.Estimator | str | None = None

    def __post_init__(self) -> None:
        for name in ("num_steps", "num_draws", "num_starts"):
            checks.integer(getattr(self, name), f"ascent.{name}", 1)
        if self.estimate is not None:
            find_estimate(self.estimate, "ascent.estimate")


@lru_cache
def default_optimizer(num_steps: int, rate: float) -> optax.GradientTransformation:
    """Adam with a cosine decay of the rate to 0, which averages the noise of the draws."""
    return optax.adam(optax.cosine_decay_schedule(rate, num_steps))


def fit_local(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    x: Any,
    family: Family,
    *,
    ascent: Ascent = Ascent(),
    chunk_size: int = CHUNK_SIZE,
) -> Local:
    """q*(z | x) of the family for every point of x [N, ...], by gradient ascent on its ELBO.

    The starts are the guide's q as far as the family can express it (its moments), the family's
    initial q, and the family's initial q moved to draws of the prior, for posteriors with several
    modes. Each step has fresh draws, so that it cannot overfit them, unlike `guides.refine`. The
    start with the best ELBO by other draws is kept.

    Gradients are `sticking_the_landing`, whose noise vanishes where q is the posterior; for a flow,
    whose inverse is expensive, `reparameterized`. `Ascent` sets another estimator and the sizes.
    Local optima are possible: the ELBO of q* is at most the best of the family.

    Point i uses fold_in(key, i). Points run together up to `chunk_size` draws. Compiled once per
    shape, model, guide, family, optimiser and sizes.

    Raises ValueError or TypeError for sizes < 1, an x, a guide or a family that does not fit the
    model, or a q without the gradients that `estimate` needs.
    """
    checks.host("decomposition.fit_local", "guides.refine", key, p, q, x)
    checks.key(key)
    x = check_problem(p, q, x)
    check_family(p, family, one_of(x))
    start = family.init(jax.random.key(0))
    flow = is_flow(family.build(start))
    rate, estimate = (FLOW_RATE, "reparameterized") if flow else (RATE, "sticking_the_landing")
    ascent = replace(
        ascent,
        optimizer=ascent.optimizer or default_optimizer(ascent.num_steps, rate),
        estimate=find_estimate(ascent.estimate or estimate),
    )
    draws = ascent.num_draws * ascent.num_starts
    together = costly_batch_size(chunk_size, draws, num_rows(x), draws * ascent.num_steps)
    points = np.arange(num_rows(x)), x
    return for_points(_of_point, (family, ascent), key, (p, q), points, together)


def _of_point(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    x: Any,
    family: Family,
    ascent: Ascent,
) -> Local:
    num_starts, optimizer, num_steps = ascent.num_starts, ascent.optimizer, ascent.num_steps
    keys = jax.random.split(key, 4)
    joint = p.log_joint(x)
    first = _starts(keys[0], family, q(x), p.prior(x), num_starts)
    slope = _slope(joint, family, ascent)
    before, after = jax.vmap(lambda key, eta: _climb(key, eta, slope, optimizer, num_steps))(
        jax.random.split(keys[1], num_starts), first
    )
    elbo = jax.vmap(lambda eta: _log_weights(keys[2], joint, family, eta).mean())(after)
    best = jnp.argmax(jnp.where(jnp.isnan(elbo), -jnp.inf, elbo))
    before, after = jax.tree.map(lambda leaf: leaf[best], (before, after))
    gain = _log_weights(keys[3], joint, family, after)
    gain -= _log_weights(keys[3], joint, family, before)
    return Local(after, best, Estimate.of_draws(gain))


def _log_weights(
    key: Key[Array, ""], joint: LogJoint, family: Family, eta: Params
) -> Float[Array, " S"]:
    return weights.log_weights(key, joint, family.build(eta), NUM_SELECTION)


def _slope(joint: LogJoint, family: Family, ascent: Ascent) -> Any:
    """(eta, key) -> the gradient of the negative ELBO."""
    estimate: Any = ascent.estimate

    def loss(eta: Params, key: Key[Array, ""]) -> Scalar:
        return -estimate(key, joint, family.build, eta, ascent.num_draws)

    return jax.grad(loss)


def _climb(
    key: Key[Array, ""],
    eta: Params,
    slope: Any,
    optimizer: optax.GradientTransformation,
    num_steps: int,
) -> tuple[Params, Params]:
    """eta after nine tenths of the steps, and after all of them."""
    mark = num_steps - max(num_steps // 10, 1)

    def step(state: tuple[Params, Any, Params], index: Array) -> tuple[tuple, None]:
        eta, memory, marked = state
        marked = jax.tree.map(lambda now, old: jnp.where(index == mark, now, old), eta, marked)
        grads = slope(eta, jax.random.fold_in(key, index))
        updates, memory = optimizer.update(grads, memory, eta)
        return (optax.apply_updates(eta, updates), memory, marked), None

    start = (eta, optimizer.init(eta), eta)
    (eta, _, marked), _ = jax.lax.scan(step, start, jnp.arange(num_steps))
    return marked, eta


def _starts(
    key: Key[Array, ""], family: Family, q: Distribution, prior: Distribution, num_starts: int
) -> Params:
    """The initial etas, leaves [R, ...]."""
    key_init, key_q, key_prior = jax.random.split(key, 3)
    etas = [family.init(key) for key in jax.random.split(key_init, num_starts)]
    etas[0] = _express(key_q, etas[0], q)
    draws = weights.draw(key_prior, prior, num_starts)
    for place in range(2, num_starts):
        if _has_loc(etas[place], jax.tree.map(lambda leaf: leaf[0], draws)):
            etas[place] = etas[place]._replace(loc=draws[place])
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *etas)


def _express(key: Key[Array, ""], eta: Any, q: Distribution) -> Params:
    """The eta of q, or one with its moments; `eta` unchanged if the family allows neither."""
    if _alike(eta, q):
        return q  # a flow is its own eta
    parts = distributions.gaussian_parts(q)
    if parts is None:
        z = weights.draw(key, q, NUM_MOMENTS)
        if not isinstance(z, jax.Array) or z.ndim != 2:
            return eta
        z = z.astype(jnp.result_type(float))
        parts = z.mean(0), jnp.diag(z.std(0) + jnp.finfo(z.dtype).eps)
    mean, cholesky = parts
    if not _has_loc(eta, mean):
        return eta
    fields = {"loc": mean, "log_scale": 0.5 * jnp.log((cholesky**2).sum(1))}
    if hasattr(eta, "log_cholesky"):
        below = np.tril_indices(mean.shape[0], -1)
        logs = jnp.log(jnp.diagonal(cholesky))
        fields["log_cholesky"] = eta.log_cholesky._replace(log_diagonal=logs, lower=cholesky[below])
    known = {name: value for name, value in fields.items() if name in eta._fields}
    return eta._replace(**known)


def _has_loc(eta: Any, z: Latent) -> bool:
    """Whether eta has a location of the shape of z."""
    loc = getattr(eta, "loc", None)
    return isinstance(z, jax.Array) and isinstance(loc, jax.Array) and loc.shape == z.shape


def _alike(left: Any, right: Any) -> bool:
    """Whether both pytrees have the same structure, shapes and types."""
    structures: list[Any] = [jax.tree.structure(tree) for tree in (left, right)]
    if structures[0] != structures[1]:
        return False
    shapes = [
        [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)]
        for tree in (left, right)
    ]
    return shapes[0] == shapes[1]
