"""The terms of log p(x) for many q, averages of weights, and ascents with and without entropy."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.elbo_decomposition.config import Config
from lvm_jax import bounds, decomposition, distributions, guides, models, problems, weights
from lvm_jax.decomposition import Decomposition
from lvm_jax.distributions.normals import FullRankNormal, LogCholesky
from lvm_jax.guides.families import FullRank
from lvm_jax.models import LinearGaussian
from lvm_jax.problems import second_moment
from lvm_jax.report import Check, Run, near
from lvm_jax.typing import Array, Float, Key, Scalar

MODEL = models.linear_gaussian(2, 2)
X = np.array([1.6, 0.2])
NUM_SAMPLES = 100_000  # draws for the terms of Jensen's q
OBJECTIVES = ("energy alone", "energy + entropy")
LEARNING_RATE = 0.05  # of Adam in the ascent


class Truth(NamedTuple):
    """The model with its one data point, posterior and log p(x), in float64 on the host."""

    theta: LinearGaussian
    x: np.ndarray  # [2]
    mean: np.ndarray  # [2], of the posterior
    covariance: np.ndarray  # [2, 2], of the posterior
    log_evidence: float

    @property
    def sd(self) -> np.ndarray:
        """Standard deviations of the posterior, [2]."""
        return np.sqrt(np.diagonal(self.covariance))


class Knobs(NamedTuple):
    """Parameters of q relative to the posterior; numbers, or leaves [M]."""

    shift: float | np.ndarray  # along the posterior's long axis, in its standard deviations there
    scale: float | np.ndarray  # of every standard deviation
    correlation: float | np.ndarray  # of z1 and z2 under q


class Parts(NamedTuple):
    """The terms of one q, or of M, in nats. `elbo` is E_q[log w], not a sum of other terms."""

    elbo: np.ndarray
    energy: np.ndarray
    entropy: np.ndarray
    reconstruction: np.ndarray
    kl_prior: np.ndarray
    kl_posterior: np.ndarray


class Deviations(NamedTuple):
    """The error of each identity for every q of every path, in nats, [M]."""

    identity: np.ndarray  # ELBO + KL(q || posterior) - log p(x)
    energy_entropy: np.ndarray  # energy + entropy - ELBO
    reconstruction_kl: np.ndarray  # reconstruction - KL(q || prior) - ELBO
    largest_term: float  # the largest term in nats, to which rounding is relative

    @property
    def largest(self) -> dict[str, float]:
        """The largest absolute deviation of each."""
        return {name: float(np.abs(getattr(self, name)).max()) for name in self._fields[:3]}


class Jensen(NamedTuple):
    """Averages of S weights, R of each S, in nats, and the variance of one weight."""

    log_of_average: np.ndarray  # [sizes, R], log (1/S) sum_s w_s
    average_of_logs: np.ndarray  # [sizes, R], (1/S) sum_s log w_s
    relative_variance: float  # Var(w) / p(x)^2, exact; infinite for a q too narrow


class Ascent(NamedTuple):
    """q at every step of an ascent, with the start, and its terms in nats."""

    mean: np.ndarray  # [T, 2]
    covariance: np.ndarray  # [T, 2, 2]
    energy: np.ndarray  # [T]
    entropy: np.ndarray  # [T]
    elbo: np.ndarray  # energy + entropy, [T], for every objective


@dataclass(frozen=True)
class Result:
    """The result of the run."""

    config: Config
    truth: Truth
    paths: dict[str, tuple[Knobs, Parts]]  # one knob varies, float64; leaves [M]
    named: dict[str, tuple[Knobs, Parts]]  # single q
    deviations: dict[str, Deviations]  # by precision: float32, float64
    sampled: Decomposition  # the terms of Jensen's q from draws, with standard errors
    jensen: Jensen
    ascents: dict[str, Ascent]  # energy alone, energy + entropy

    @property
    def averages(self) -> list[dict[str, float]]:
        """Means and standard deviations of both averages, by S."""
        above, below = self.jensen.log_of_average, self.jensen.average_of_logs
        columns = {
            "num_samples": self.config.num_samples,
            "mean_log_of_average": above.mean(1),
            "standard_error": standard_error(above),
            "mean_average_of_logs": below.mean(1),
            "sd_log_of_average": above.std(1, ddof=1),
            "sd_average_of_logs": below.std(1, ddof=1),
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    @property
    def numbers(self) -> dict[str, Any]:
        """The content of results.json."""
        return {
            "model": self.truth,
            "log_evidence": self.truth.log_evidence,
            "largest_deviation": {name: d.largest for name, d in self.deviations.items()},
            "named": {name: {"knobs": k, "terms": p} for name, (k, p) in self.named.items()},
            "paths": {name: {"knobs": k, "terms": p} for name, (k, p) in self.paths.items()},
            "sampled": self.sampled,
            "jensen": {
                "relative_variance": self.jensen.relative_variance,
                "averages": self.averages,
            },
            "ascents": {
                name: {key: values[-1] for key, values in ascent._asdict().items()}
                for name, ascent in self.ascents.items()
            },
        }


def measure(config: Config, run: Run) -> Result:
    """Compute every term along the paths, draw the averages, and run the ascents."""
    run.begin(3)
    truth = make_truth(config.posterior_correlation)
    paths, named = make_paths(truth, config.num_points), named_knobs(truth, config)
    parts, deviations = run.stage("the identity", decompose, truth, paths, named)
    own = make_q(truth, named["Jensen's q"])
    key = jax.random.key(config.seed)
    sampled, jensen = run.stage("draws", draw, key, truth, own, config)
    ascents = dict(zip(OBJECTIVES, run.stage("ascents", climb, truth, config), strict=True))
    along, single = ({name: (k[name], parts[name]) for name in k} for k in (paths, named))
    result = Result(config, truth, along, single, deviations, sampled, jensen, ascents)
    for row in result.averages:
        run.log(**row)
    return result


def checks(result: Result) -> list[Check]:
    """The identities to rounding, draws against closed forms, bounds below log p(x)."""
    found, log_p = [], result.truth.log_evidence
    for precision, deviations in result.deviations.items():
        most = 100 * np.finfo(precision).eps * deviations.largest_term
        for name, value in deviations.largest.items():
            found.append(near(f"{name}, {precision}", value, 0.0, most, "rounding"))
    exact = {**result.named["Jensen's q"][1]._asdict(), "log_evidence": log_p}
    for name, value in exact.items():
        term = getattr(result.sampled, name)
        wide = 6 * float(term.standard_error) + 1e-9
        found.append(near(f"{name} from draws", float(term.value), float(value), wide, "exact"))
    for size, above, below in zip(result.config.num_samples, *result.jensen[:2], strict=True):
        wide, top = 6 * standard_error(below), log_p + 6 * standard_error(above)
        name = f"average of {size} logs"
        found.append(near(name, below.mean(), float(exact["elbo"]), wide, "ELBO"))
        name = f"log of average of {size}"
        found.append(Check(name, above.mean(), -np.inf, top, "at most log p"))
    for name, ascent in result.ascents.items():
        gap = log_p - ascent.elbo.max()
        found.append(Check(f"log p less ELBO, climbing {name}", gap, -1e-9, np.inf, "at least 0"))
    return found


def standard_error(values: np.ndarray) -> Any:
    """The standard error of the mean over the last axis."""
    return values.std(-1, ddof=1) / np.sqrt(values.shape[-1])


def make_truth(correlation: float) -> Truth:
    """`problems.correlated` at the point X."""
    problem = problems.correlated(correlation)
    posterior, log_evidence = problems.truth(problem, X)
    factor = posterior.cholesky
    return Truth(problem.theta, X, posterior.mean, factor @ factor.T, log_evidence)


def make_q(truth: Truth, knobs: Knobs) -> FullRankNormal:
    """q from its parameters, [2] and [2, 2]; with a leading axis M for M of them."""
    if np.ndim(knobs.shift):
        rows = [make_q(truth, Knobs(*row)) for row in zip(*knobs, strict=True)]
        return FullRankNormal(*(np.stack(leaves) for leaves in zip(*rows, strict=True)))
    values, axes = np.linalg.eigh(truth.covariance)
    long_axis = axes[:, -1] * np.sign(axes[0, -1]) * np.sqrt(values[-1])
    spreads, rho = knobs.scale * truth.sd, knobs.correlation
    covariance = np.outer(spreads, spreads) * np.array([[1, rho], [rho, 1]])
    return FullRankNormal(truth.mean + knobs.shift * long_axis, np.linalg.cholesky(covariance))


def posterior_knobs(truth: Truth) -> Knobs:
    """The parameters at which q is the posterior."""
    return Knobs(0.0, 1.0, float(truth.covariance[0, 1] / truth.sd.prod()))


def make_paths(truth: Truth, num_points: int) -> dict[str, Knobs]:
    """Paths along which one parameter varies and the other two are the posterior's."""
    values = {
        "shift": np.linspace(-3.0, 3.0, num_points),
        "scale": np.geomspace(0.2, 2.5, num_points),
        "correlation": np.tanh(np.linspace(-2.2, 2.2, num_points)),
    }
    full = Knobs(*(np.full(num_points, value) for value in posterior_knobs(truth)))
    return {name: full._replace(**{name: value}) for name, value in values.items()}


def named_knobs(truth: Truth, config: Config) -> dict[str, Knobs]:
    """The parameters of some named q."""
    at = posterior_knobs(truth)
    return {
        "the posterior": at,
        "moved by one sd": at._replace(shift=1.0),
        "half as wide": at._replace(scale=0.5),
        "twice as wide": at._replace(scale=2.0),
        "its marginals, uncorrelated": at._replace(correlation=0.0),
        # the best mean-field Gaussian has the conditional variances 1 / precision_ii
        "the best mean-field q": Knobs(0.0, float(np.sqrt(1 - at.correlation**2)), 0.0),
        "Jensen's q": Knobs(config.shift, config.scale, config.correlation),
    }


def decompose(
    truth: Truth, paths: dict[str, Knobs], named: dict[str, Knobs]
) -> tuple[dict[str, Parts], dict[str, Deviations]]:
    """All terms along the paths and of the named q, in float64; deviations in both precisions."""
    single = Knobs(*(np.array(values) for values in zip(*named.values(), strict=True)))
    every = zip(*paths.values(), single, strict=True)
    q, deviations = make_q(truth, Knobs(*map(np.concatenate, every))), {}
    for precision in ("float32", "float64"):
        with jax.enable_x64(precision == "float64"):
            theta, x, cast = jax.tree.map(jnp.asarray, (truth.theta, truth.x, q))
            found = jax.jit(jax.vmap(parts_of, in_axes=(None, None, 0)))(theta, x, cast)
            evidence = float(jax.jit(MODEL.log_evidence)(theta, x))
        parts = Parts(*(np.asarray(leaf, np.float64) for leaf in found))
        deviations[precision] = Deviations(
            parts.elbo + parts.kl_posterior - evidence,
            parts.energy + parts.entropy - parts.elbo,
            parts.reconstruction - parts.kl_prior - parts.elbo,
            max(float(np.abs(leaf).max()) for leaf in parts),
        )
    size = len(paths["shift"].shift)
    rows = {name: slice(i * size, (i + 1) * size) for i, name in enumerate(paths)}
    rows |= {name: len(paths) * size + i for i, name in enumerate(named)}
    return {name: Parts(*(leaf[at] for leaf in parts)) for name, at in rows.items()}, deviations


def parts_of(theta: LinearGaussian, x: Float[Array, " D"], q: FullRankNormal) -> Parts:
    """Every term of one q, without sampling."""
    joint = MODEL(theta).log_joint(x)
    exact = decomposition.decompose_exactly(
        joint, q, prior=MODEL.prior(theta), posterior=MODEL.posterior(theta, x)
    )
    # The ELBO of decompose_exactly is energy + entropy. Average the log-weights instead, so that
    # both identities compare independent numbers.
    elbo = distributions.cubature(q, lambda z: joint(z) - q.log_prob(z))
    others = (exact.energy, exact.entropy, exact.reconstruction, exact.kl_prior, exact.kl_posterior)
    return Parts(elbo, *(term.value for term in others))


def draw(
    key: Key[Array, ""], truth: Truth, q: FullRankNormal, config: Config
) -> tuple[Decomposition, Jensen]:
    """The terms of one q from draws, and averages of the first S of the same weights."""
    key_terms, key_weights = jax.random.split(key)
    sizes = config.num_samples

    @jax.jit
    def run(
        theta: LinearGaussian, x: Array, q: FullRankNormal
    ) -> tuple[Decomposition, list[Array]]:
        joint, posterior = MODEL(theta).log_joint(x), MODEL.posterior(theta, x)
        known = {"prior": MODEL.prior(theta), "posterior": posterior}
        terms = decomposition.decompose(key_terms, joint, q, NUM_SAMPLES, **known)
        keys = jax.random.split(key_weights, config.num_repeats)
        log_w = jax.vmap(lambda key: weights.log_weights(key, joint, q, sizes[-1]))(keys)
        averages = [
            jnp.stack([jax.vmap(bound)(log_w[:, :size]) for size in sizes])
            for bound in (bounds.iwae, bounds.elbo)
        ]
        return terms, averages

    with jax.enable_x64(True):
        terms, averages = jax.tree.map(np.asarray, run(truth.theta, truth.x, q))
    posterior = FullRankNormal(truth.mean, np.linalg.cholesky(truth.covariance))
    relative_variance = float(np.expm1(second_moment.of_normals(posterior, q)))
    return terms, Jensen(*averages, relative_variance)


def climb(truth: Truth, config: Config) -> list[Ascent]:
    """Adam on the energy alone and on energy + entropy, from q = N(prior mean - 1, I)."""
    family, optimizer = guides.full_rank(2), optax.adam(LEARNING_RATE)

    @jax.jit
    @jax.vmap
    def run(entropy_weight: Scalar) -> tuple[FullRankNormal, Scalar, Scalar]:
        def loss(phi: FullRank) -> tuple[Scalar, tuple[Scalar, Scalar]]:
            joint = MODEL(truth.theta).log_joint(truth.x)
            exact = decomposition.decompose_exactly(joint, family.build(phi))
            energy, entropy = exact.energy.value, exact.entropy.value
            return -(energy + entropy_weight * entropy), (energy, entropy)

        def step(carry: tuple, _: None) -> tuple[tuple, tuple]:
            phi, state = carry
            gradient, found = jax.grad(loss, has_aux=True)(phi)
            updates, state = optimizer.update(gradient, state, phi)
            return (optax.apply_updates(phi, updates), state), (family.build(phi), *found)

        mean = jnp.asarray(truth.theta.prior_mean - 1.0)
        phi = FullRank(mean, LogCholesky(jnp.zeros(2), jnp.zeros(1)))
        return jax.lax.scan(step, (phi, optimizer.init(phi)), length=config.num_steps + 1)[1]

    with jax.enable_x64(True):
        q, energy, entropy = jax.tree.map(np.asarray, run(jnp.array([0.0, 1.0])))
    covariance = q.cholesky @ np.swapaxes(q.cholesky, -1, -2)
    both = zip(q.mean, covariance, energy, entropy, energy + entropy, strict=True)
    return [Ascent(*found) for found in both]
