"""Batch, match and patch: the update of `batch_and_match` for N(m, F F^T + diag(s)^2).

The matched covariance is diag(s)^2 + A A^T - H H^T. A has the R columns of F and B + 1 more, and H
has B + 1 columns. The patch moves F and s to the smallest KL(matched || q) by EM of factor
analysis, from the current ones. No D x D matrix is formed: a step costs O(D (R + B)^2).

Source: Modi et al. (2024), Batch, match, and patch; Rubin and Thayer (1982) for the EM.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from lvm_jax import precision
from lvm_jax.compiling import bounded_jit
from lvm_jax.distributions import LowRankNormal
from lvm_jax.distributions.normals import LOG_2PI
from lvm_jax.guides.families import LowRank
from lvm_jax.typing import Array, Distribution, Float, Int, Key, Scalar
from lvm_jax.vi.blocks import Step
from lvm_jax.vi.density import Density
from lvm_jax.vi.start import best_diagonal

NUM_EM = 20  # iterations of a patch, which starts at the last one
NUM_LANCZOS = 4  # products with the Hessian for each column of F
SMALLEST = 1e-6  # variance after a patch, in units of that before


class Matched(NamedTuple):
    """N(m + diag(s) mean, diag(s) (I + A A^T - H H^T) diag(s))."""

    mean: Float[Array, " D"]
    plus: Float[Array, "D R+B+1"]  # A
    minus: Float[Array, "D B+1"]  # H

    def times(self, columns: Float[Array, "D K"]) -> Float[Array, "D K"]:
        """The product of I + A A^T - H H^T with some columns."""
        return columns + self.plus @ (self.plus.T @ columns) - self.minus @ (self.minus.T @ columns)


@precision.full
def match(
    factor: Float[Array, "D R"], z: Float[Array, "B D"], scores: Float[Array, "B D"], rate: Scalar
) -> Matched:
    """The update of q_t = N(0, I + F F^T), for draws z of it, scores at the draws, and rate < 1.

    S = V - V Q (I / 2 + (Q^T V Q + I / 4)^(1/2))^-2 Q^T V, with lambda G' = Q Q^T.
    """
    weight = rate / (1 - rate)
    mean_z, mean_g = z.mean(0), scores.mean(0)
    root, per_draw = jnp.sqrt(rate), jnp.sqrt(weight / len(z))
    plus = jnp.concatenate(
        [factor, per_draw * (z - mean_z[None]).T, root * mean_z[:, None]], axis=1
    )
    q = jnp.concatenate([per_draw * (scores - mean_g[None]).T, root * mean_g[:, None]], axis=1)
    inner = plus.T @ q
    values, axes = jnp.linalg.eigh(q.T @ q + inner.T @ inner)
    shrink = 0.5 + jnp.sqrt(jnp.maximum(values, 0) + 0.25)
    minus = ((q + plus @ inner) @ axes) / shrink[None]
    matched = Matched(mean_z, plus, minus)
    return matched._replace(mean=rate * (mean_z + matched.times(mean_g[:, None])[:, 0]))


@precision.full
def patch(
    matched: Matched, factor: Float[Array, "D R"], num_iterations: int
) -> tuple[Float[Array, "D R"], Float[Array, " D"]]:
    """F and the variances of N(0, F F^T + diag(variances)) after some iterations from F and 1."""
    diagonal = 1 + (matched.plus**2).sum(1) - (matched.minus**2).sum(1)
    eye = jnp.eye(factor.shape[1], dtype=factor.dtype)

    def body(_: Int[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
        factor, variances = carry
        weighted = factor / variances[:, None]
        inverse = jnp.linalg.inv(eye + factor.T @ weighted)
        beta = weighted @ inverse  # E[factors | z] = beta^T z
        crossed = matched.times(beta)  # E[z factors^T]
        second = inverse + beta.T @ crossed  # E[factors factors^T]
        new = crossed @ jnp.linalg.inv(second)
        own = diagonal - (new * crossed).sum(1)
        return new, jnp.maximum(own, SMALLEST)

    return jax.lax.fori_loop(0, num_iterations, body, (factor, jnp.ones_like(diagonal)))


def low_rank_steps(
    num_samples: int,
    num_steps: int,
    log_density: Callable[[Array], Scalar],
    key: Key[Array, ""],
    state: LowRank,
    rate: Scalar,
) -> Step:
    """Several updates. Those of B < D draws forget the start after about D / (B rate) of them."""

    def body(state: LowRank, key: Key[Array, ""]) -> tuple[LowRank, Float[Array, " S"]]:
        return low_rank_step(num_samples, log_density, key, state, rate)

    state, log_w = jax.lax.scan(body, state, jax.random.split(key, num_steps))
    return Step(state, log_w.ravel())


@precision.full
def low_rank_step(
    num_samples: int,
    log_density: Callable[[Array], Scalar],
    key: Key[Array, ""],
    state: LowRank,
    rate: Scalar,
) -> Step:
    """One update, with its patch."""
    scale = jnp.exp(state.log_scale)
    factor = state.factor / scale[:, None]
    white, log_q = _sample(key, factor, num_samples)
    log_q = log_q - state.log_scale.sum()
    value, gradient = jax.vmap(jax.value_and_grad(log_density))(
        state.loc[None] + scale[None] * white
    )
    matched = match(factor, white, gradient * scale[None], rate)
    factor, variances = patch(matched, factor, NUM_EM)
    log_scale = state.log_scale + 0.5 * jnp.log(variances)
    new = LowRank(state.loc + scale * matched.mean, scale[:, None] * factor, log_scale)
    proper = jnp.stack([jnp.isfinite(leaf).all() for leaf in new]).all()
    narrower = LowRank(state.loc, state.factor / 2, state.log_scale - jnp.log(2.0))
    kept = jax.tree.map(lambda a, b: jnp.where(proper, a, b), new, narrower)
    return Step(kept, value - log_q)


def _sample(
    key: Key[Array, ""], factor: Float[Array, "D R"], num_samples: int
) -> tuple[Float[Array, "S D"], Float[Array, " S"]]:
    """Draws of N(0, F F^T + I), and their log-densities, from the noise as in `LowRankNormal`.

    Cholesky's method replaces its QR, which takes most of the time of a step in 2,000 dimensions.
    """
    dim, rank = factor.shape
    noise = jax.random.normal(key, (num_samples, dim + rank), factor.dtype)
    own, common = noise[:, :dim], noise[:, dim:]
    lower = jnp.linalg.cholesky(jnp.eye(rank, dtype=factor.dtype) + factor.T @ factor)
    along = solve_triangular(lower, (own @ factor - common).T, lower=True)
    quadratic = (noise**2).sum(1) - (along**2).sum(0)
    log_det = jnp.log(jnp.diagonal(lower)).sum()
    return common @ factor.T + own, -0.5 * (quadratic + dim * LOG_2PI) - log_det


def build(state: LowRank) -> Distribution:
    """N(m, F F^T + diag(s)^2)."""
    return LowRankNormal(state.loc, state.factor, jnp.exp(state.log_scale))


@precision.full
def distance(first: LowRank, second: LowRank) -> Scalar:
    """The mean of KL(q_1 || q_2) and KL(q_2 || q_1), in nats.

    Of the traces of S_2^-1 S_1 + S_1^-1 S_2 - 2 I only the differences are summed, so that the
    rounding error is not that of D.
    """
    one, two = _Inverse(first), _Inverse(second)
    away = first.loc - second.loc
    variances = jnp.exp(2 * first.log_scale) - jnp.exp(2 * second.log_scale)

    def trace(inverse: "_Inverse") -> Scalar:
        """The trace of inverse (S_1 - S_2)."""
        own = (inverse.diagonal * variances).sum()
        return own + inverse.square(first.factor) - inverse.square(second.factor)

    shift = one.square(away[:, None]) + two.square(away[:, None])
    return (trace(two) - trace(one) + shift) / 4


class _Inverse:
    """(F F^T + diag(s)^2)^-1 = diag(s)^-1 (I - W W^T) diag(s)^-1."""

    def __init__(self, state: LowRank) -> None:
        self.scale = jnp.exp(state.log_scale)
        white = state.factor / self.scale[:, None]
        inner = jnp.eye(white.shape[1], dtype=white.dtype) + white.T @ white
        self.white = solve_triangular(jnp.linalg.cholesky(inner), white.T, lower=True).T
        self.diagonal = (1 - (self.white**2).sum(1)) / self.scale**2

    def square(self, columns: Float[Array, "D K"]) -> Scalar:
        """The trace of columns^T inverse columns."""
        white = columns / self.scale[:, None]
        return (white**2).sum() - ((self.white.T @ white) ** 2).sum()


class Started(NamedTuple):
    """A normal from which a fit of low rank starts."""

    state: LowRank
    evaluations: int


def start_low_rank(
    key: Key[Array, ""], density: Density, rank: int, max_evaluations: int
) -> Started:
    """The best diagonal normal along an ascent, with F from the widest directions there."""
    key_factor, key_probes = jax.random.split(key)
    found = best_diagonal(key_probes, density, max_evaluations)
    num_products = min(NUM_LANCZOS * rank, density.dim)
    factor = _widest(key_factor, found.mean, found.log_scale, density, rank, num_products)
    state = LowRank(found.mean, factor, found.log_scale)
    return Started(state, found.evaluations + num_products)


@bounded_jit(4, 5, lean=True)
def _widest(
    key: Key[Array, ""],
    u: Float[Array, " D"],
    log_scale: Float[Array, " D"],
    density: Density,
    rank: int,
    num_products: int,
) -> Float[Array, "D R"]:
    """F with F F^T + diag(s)^2 equal to the inverse of minus the Hessian in its widest directions.

    They are Ritz vectors of the scaled Hessian. A column is a small random one where a Ritz value
    is not between 0 and 1.
    """
    scale, gradient = jnp.exp(log_scale), jax.grad(density)
    first, filler = jax.random.split(key)

    def times(v: Float[Array, " D"]) -> Float[Array, " D"]:
        return -scale * jax.jvp(gradient, (u,), (scale * v,))[1]

    start = jax.random.normal(first, u.shape, u.dtype)
    values, vectors = _lanczos(times, start, num_products)
    values, vectors = values[:rank], vectors[:, :rank]
    proper = (values > 0) & (values < 1) & jnp.isfinite(vectors).all(0)
    excess = jnp.sqrt(jnp.maximum(1 / jnp.maximum(values, SMALLEST) - 1, 0))
    random = 0.1 * jax.random.normal(filler, vectors.shape, u.dtype) / u.size**0.5
    return scale[:, None] * jnp.where(proper[None], vectors * excess[None], random)


@precision.full
def _lanczos(
    times: Callable[[Array], Array], start: Float[Array, " D"], num_products: int
) -> tuple[Float[Array, " K"], Float[Array, "D K"]]:
    """Ritz values, ascending, and vectors of a symmetric matrix, with full orthogonalisation."""

    def body(step: Int[Array, ""], carry: tuple) -> tuple:
        basis, products, v = carry
        v = v / jnp.maximum(jnp.sqrt((v**2).sum()), 1e-30)
        product = times(v)
        basis, products = basis.at[:, step].set(v), products.at[:, step].set(product)
        for _ in range(2):  # the second pass removes rounding errors of the first
            product = product - basis @ (basis.T @ product)
        return basis, products, product

    zeros = jnp.zeros((start.size, num_products), start.dtype)
    basis, products, _ = jax.lax.fori_loop(0, num_products, body, (zeros, zeros, start))
    inner = basis.T @ products
    values, axes = jnp.linalg.eigh((inner + inner.T) / 2)
    return values, basis @ axes
