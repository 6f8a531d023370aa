"""What the decomposition experiment measures: the terms, the averages, the ascents."""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lvm_jax import bounds, decomposition, distributions, guides, weights
from lvm_jax.decomposition import Decomposition
from lvm_jax.guides.families import FullRank
from lvm_jax.models import LinearGaussian, linear_gaussian, log_joint
from lvm_jax.normals import FullRankNormal, LogCholesky
from lvm_jax.typing import Array, Float, Key, Scalar
from lvm_jax.weights import LogJoint

if TYPE_CHECKING:
    from experiments.elbo_decomposition import Config

MODEL = linear_gaussian(2, 2)
SPREADS = np.array([0.6, 0.45])  # posterior standard deviations of z1 and z2; the prior's are 1
PRIOR_MEAN, OFFSET = np.array([0.5, -0.3]), np.array([-0.4, 1.0])
NOISE = 0.7  # standard deviation of x given z
X = np.array([1.6, 0.2])


class Bed(NamedTuple):
    """The model with its one data point, in float64 on the host, and its exact answers."""

    theta: LinearGaussian
    x: np.ndarray  # [2]
    mean: np.ndarray  # [2], of the posterior
    covariance: np.ndarray  # [2, 2], of the posterior
    log_evidence: float


class Knobs(NamedTuple):
    """How q differs from the posterior; numbers, or leaves [M]."""

    shift: float | np.ndarray  # along the posterior's long axis, in its standard deviations there
    scale: float | np.ndarray  # of every standard deviation
    correlation: float | np.ndarray  # of z1 and z2 under q


class Parts(NamedTuple):
    """The terms of one q, or of M, in nats. `elbo` is E_q[log w], from no other term."""

    elbo: np.ndarray
    energy: np.ndarray
    entropy: np.ndarray
    reconstruction: np.ndarray
    kl_prior: np.ndarray
    kl_posterior: np.ndarray


class Deviations(NamedTuple):
    """By how much each identity is missed for every q of every path, in nats, [M]."""

    identity: np.ndarray  # ELBO + KL(q || posterior) - log p(x)
    energy_entropy: np.ndarray  # energy + entropy - ELBO
    reconstruction_kl: np.ndarray  # reconstruction - KL(q || prior) - ELBO
    largest_term: float  # the largest number that entered, in nats: rounding is relative to it

    @property
    def largest(self) -> dict[str, float]:
        """The largest absolute deviation of each."""
        names = ("identity", "energy_entropy", "reconstruction_kl")
        return {name: float(np.abs(getattr(self, name)).max()) for name in names}


class Jensen(NamedTuple):
    """Averages of S weights, R of each S, in nats, and the variance of one weight."""

    log_of_average: np.ndarray  # [sizes, R], log (1/S) sum_s w_s
    average_of_logs: np.ndarray  # [sizes, R], (1/S) sum_s log w_s
    relative_variance: float  # Var(w) / p(x)^2, exact; infinite for a q too narrow


class Ascent(NamedTuple):
    """q at every step of an ascent, the start included, and its terms in nats."""

    mean: np.ndarray  # [T, 2]
    covariance: np.ndarray  # [T, 2, 2]
    energy: np.ndarray  # [T]
    entropy: np.ndarray  # [T]

    @property
    def elbo(self) -> np.ndarray:
        """Energy + entropy, [T], whatever was climbed."""
        return self.energy + self.entropy


def make_bed(correlation: float) -> Bed:
    """The model whose posterior has SPREADS and this correlation.

    The posterior precision is I + W^T W / s^2, so W = s R with R^T R = V^-1 - I, which is positive
    for any correlation because the eigenvalues of V stay below 0.6^2 + 0.45^2 < 1.
    """
    covariance = spread_matrix(SPREADS, correlation)
    root = np.linalg.cholesky(np.linalg.inv(covariance) - np.eye(2))
    theta = LinearGaussian(PRIOR_MEAN, NOISE * root.T, OFFSET, np.log(NOISE))
    with jax.enable_x64(True):
        posterior = jax.jit(MODEL.posterior)(theta, X)
        log_evidence = float(jax.jit(MODEL.log_evidence)(theta, X))
    factor = np.asarray(posterior.cholesky)
    return Bed(theta, X, np.asarray(posterior.mean), factor @ factor.T, log_evidence)


def spread_matrix(spreads: np.ndarray, correlation: float) -> np.ndarray:
    """The covariance with these standard deviations and this correlation."""
    return np.outer(spreads, spreads) * np.array([[1, correlation], [correlation, 1]])


def make_q(bed: Bed, knobs: Knobs) -> FullRankNormal:
    """q from its knobs, [2] and [2, 2]; leaves with a leading axis M for M of them."""
    if np.ndim(knobs.shift):
        rows = [make_q(bed, Knobs(*row)) for row in zip(*knobs, strict=True)]
        return FullRankNormal(*(np.stack(leaves) for leaves in zip(*rows, strict=True)))
    values, axes = np.linalg.eigh(bed.covariance)
    long_axis = axes[:, -1] * np.sign(axes[0, -1]) * np.sqrt(values[-1])
    spreads = knobs.scale * np.sqrt(np.diagonal(bed.covariance))
    factor = np.linalg.cholesky(spread_matrix(spreads, knobs.correlation))
    return FullRankNormal(bed.mean + knobs.shift * long_axis, factor)


def posterior_knobs(bed: Bed) -> Knobs:
    """The knobs at which q is the posterior."""
    spreads = np.sqrt(np.diagonal(bed.covariance))
    return Knobs(0.0, 1.0, float(bed.covariance[0, 1] / spreads.prod()))


def make_paths(bed: Bed, num_points: int) -> dict[str, Knobs]:
    """Each knob turned alone, the other two at the posterior."""
    at = posterior_knobs(bed)
    values = {
        "shift": np.linspace(-3.0, 3.0, num_points),
        "scale": np.geomspace(0.2, 2.5, num_points),
        "correlation": np.tanh(np.linspace(-2.2, 2.2, num_points)),
    }
    full = Knobs(*(np.full(num_points, value) for value in at))
    return {name: full._replace(**{name: value}) for name, value in values.items()}


def named_knobs(bed: Bed, config: "Config") -> dict[str, Knobs]:
    """A few q worth a name."""
    at = posterior_knobs(bed)
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


def measure(
    bed: Bed, paths: dict[str, Knobs], named: dict[str, Knobs]
) -> tuple[dict[str, Parts], dict[str, Parts], dict[str, Deviations]]:
    """All terms along the paths and of the named q, in float64; deviations in both precisions."""
    every = [*paths.values(), Knobs(*(np.array(v) for v in zip(*named.values(), strict=True)))]
    q = make_q(bed, Knobs(*(np.concatenate(v) for v in zip(*every, strict=True))))
    deviations = {}
    for precision in ("float32", "float64"):
        with jax.enable_x64(precision == "float64"):
            theta, x, cast = jax.tree.map(jnp.asarray, (bed.theta, bed.x, q))
            found = jax.jit(jax.vmap(parts_of, in_axes=(None, None, 0)))(theta, x, cast)
            evidence = float(jax.jit(MODEL.log_evidence)(theta, x))
        parts = Parts(*(np.asarray(leaf, np.float64) for leaf in found))
        deviations[precision] = Deviations(
            parts.elbo + parts.kl_posterior - evidence,
            parts.energy + parts.entropy - parts.elbo,
            parts.reconstruction - parts.kl_prior - parts.elbo,
            max(float(np.abs(leaf).max()) for leaf in parts),
        )
    sizes = np.cumsum([len(k.shift) for k in every])[:-1]
    *along, rest = (Parts(*rows) for rows in zip(*(np.split(v, sizes) for v in parts), strict=True))
    by_name = {name: Parts(*(leaf[i] for leaf in rest)) for i, name in enumerate(named)}
    return dict(zip(paths, along, strict=True)), by_name, deviations


def joint_of(theta: LinearGaussian, x: Float[Array, " D"]) -> LogJoint:
    """z -> log p(x, z)."""
    return log_joint(MODEL, theta, x)


def parts_of(theta: LinearGaussian, x: Float[Array, " D"], q: FullRankNormal) -> Parts:
    """Every term of one q, without sampling."""
    joint = joint_of(theta, x)
    exact = decomposition.decompose_exactly(
        joint, q, prior=MODEL.prior(theta), posterior=MODEL.posterior(theta, x)
    )
    # decompose_exactly adds its ELBO up from energy and entropy: average the log-weights instead,
    # so that both identities compare numbers that were computed apart.
    elbo = distributions.cubature(q, lambda z: joint(z) - q.log_prob(z))
    others = (exact.energy, exact.entropy, exact.reconstruction, exact.kl_prior, exact.kl_posterior)
    return Parts(elbo, *(term.value for term in others))


def sample_terms(key: Key[Array, ""], bed: Bed, knobs: Knobs, num_samples: int) -> Decomposition:
    """The terms of one q from draws, as one would have them without closed forms."""

    def estimate(
        key: Key[Array, ""], theta: LinearGaussian, x: Array, q: FullRankNormal
    ) -> Decomposition:
        return decomposition.decompose(
            key,
            joint_of(theta, x),
            q,
            num_samples,
            prior=MODEL.prior(theta),
            posterior=MODEL.posterior(theta, x),
        )

    with jax.enable_x64(True):
        found = jax.jit(estimate)(key, bed.theta, bed.x, make_q(bed, knobs))
        return jax.tree.map(np.asarray, found)


def draw_averages(key: Key[Array, ""], bed: Bed, knobs: Knobs, config: "Config") -> Jensen:
    """Averages of the first S of the same weights, for every S."""
    q, largest = make_q(bed, knobs), config.num_samples[-1]

    @jax.jit
    def draw(keys: Key[Array, " R"], theta: LinearGaussian, x: Array, q: FullRankNormal) -> Array:
        joint = joint_of(theta, x)
        return jax.vmap(lambda key: weights.log_weights(key, joint, q, largest))(keys)

    with jax.enable_x64(True):
        log_w = draw(jax.random.split(key, config.num_repeats), bed.theta, bed.x, q)
        log_of_average = [jax.vmap(bounds.iwae)(log_w[:, :size]) for size in config.num_samples]
        average_of_logs = [jax.vmap(bounds.elbo)(log_w[:, :size]) for size in config.num_samples]
        return Jensen(
            np.asarray(jnp.stack(log_of_average)),
            np.asarray(jnp.stack(average_of_logs)),
            relative_variance(bed, q),
        )


def relative_variance(bed: Bed, q: FullRankNormal) -> float:
    """Var(w) / p(x)^2 = E_q[(posterior / q)^2] - 1 of two Gaussians, infinite where 2 P - Q <= 0.

    P and Q are the precisions of the posterior and of q.
    """
    p, own = np.linalg.inv(bed.covariance), np.linalg.inv(q.cholesky @ q.cholesky.T)
    both = 2 * p - own
    if np.linalg.eigvalsh(both).min() <= 0:
        return float("inf")
    shift = q.mean - bed.mean  # with the origin at the posterior mean
    linear = own @ shift
    exponent = 0.5 * (linear @ np.linalg.solve(both, linear) + shift @ linear)
    log_dets = [np.linalg.slogdet(matrix)[1] for matrix in (p, own, both)]
    return float(np.expm1(exponent + log_dets[0] - 0.5 * (log_dets[1] + log_dets[2])))


def climb(bed: Bed, config: "Config") -> dict[str, Ascent]:
    """Adam on the energy alone and on energy + entropy, from q = N(prior mean, I) away from both."""
    family, optimizer = guides.full_rank(2), optax.adam(config.learning_rate)
    start = FullRank(PRIOR_MEAN - np.array([1.0, 1.0]), LogCholesky(np.zeros(2), np.zeros(1)))

    def terms(phi: FullRank) -> tuple[Scalar, Scalar]:
        joint = joint_of(bed.theta, bed.x)
        exact = decomposition.decompose_exactly(joint, family.build(phi))
        return exact.energy.value, exact.entropy.value

    @jax.jit
    @jax.vmap
    def run(entropy_weight: Scalar) -> tuple[FullRankNormal, Scalar, Scalar]:
        def loss(phi: FullRank) -> tuple[Scalar, tuple[Scalar, Scalar]]:
            energy, entropy = terms(phi)
            return -(energy + entropy_weight * entropy), (energy, entropy)

        def step(carry: tuple, _: None) -> tuple[tuple, tuple]:
            phi, state = carry
            gradient, found = jax.grad(loss, has_aux=True)(phi)
            updates, state = optimizer.update(gradient, state, phi)
            return (optax.apply_updates(phi, updates), state), (family.build(phi), *found)

        phi = jax.tree.map(jnp.asarray, start)
        return jax.lax.scan(step, (phi, optimizer.init(phi)), length=config.num_steps + 1)[1]

    with jax.enable_x64(True):
        q, energy, entropy = jax.tree.map(np.asarray, run(jnp.array([0.0, 1.0])))
    covariance = q.cholesky @ np.swapaxes(q.cholesky, -1, -2)
    both = zip(q.mean, covariance, energy, entropy, strict=True)
    return {
        name: Ascent(*found)
        for name, found in zip(("energy alone", "energy + entropy"), both, strict=True)
    }
