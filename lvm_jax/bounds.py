"""Bounds on log p(x): reductions of the log-weights of one data point, [S] -> scalar, in nats.

Every bound is maximised where it bounds from below. `BOUNDS` says of each whether its expectation
is below or above log p, and in which limit it is exact. All are exact where q is the posterior:
every log-weight then equals log p(x).
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp

from lvm_jax import precision
from lvm_jax._core import checks
from lvm_jax.typing import Array, ArrayLike, Float, Scalar

Reduction = Callable[[Float[Array, " S"]], Scalar]


def elbo(log_w: Float[Array, " S"]) -> Scalar:
    """Evidence lower bound, (1/S) sum_s log w_s: the lecture's equation (9). Unbiased for it."""
    checks.one_point(log_w)
    return log_w.mean()


def iwae(log_w: Float[Array, " S"]) -> Scalar:
    """Importance-weighted bound, log (1/S) sum_s w_s (Burda et al. 2016, theorem 1).

    From below; tight as S grows, with a gap of about Var(w) / (2 S p(x)^2) (Nowozin 2018,
    proposition 1).
    """
    checks.one_point(log_w)
    # The gradient of logsumexp is NaN where every weight is 0; here it is 0.
    nothing = (log_w == -jnp.inf).all()
    total = logsumexp(jnp.where(nothing, 0.0, log_w))
    return jnp.where(nothing, -jnp.inf, total) - math.log(log_w.shape[0])


def normalized(log_w: Float[Array, " S"]) -> Float[Array, " S"]:
    """v_s = w_s / sum w, the gradient of `iwae`; 0 where every weight is 0."""
    checks.one_point(log_w)
    nothing = (log_w == -jnp.inf).all()
    return jnp.where(nothing, 0.0, jax.nn.softmax(jnp.where(nothing, 0.0, log_w)))


def renyi(alpha: float) -> Reduction:
    """Renyi bound L_alpha = 1/(1 - alpha) log (1/S) sum_s w_s^(1 - alpha) (Li and Turner 2016).

    alpha = 1 is the ELBO (its limit) and alpha = 0 is IWAE; alpha = inf is the smallest log-weight
    and -inf the largest (VR-max). For S -> infinity a lower bound where alpha > 0 and an upper one
    where alpha < 0; for finite S the expectation is below log p for every alpha in [0, inf], and
    on neither side for certain where alpha < 0. Raises ValueError for NaN.
    """
    alpha = float(alpha)
    if math.isnan(alpha):
        raise ValueError("alpha: expected a number (infinities included), got nan")
    if alpha == 1:
        return elbo
    power = 1 - alpha

    def reduce(log_w: Float[Array, " S"]) -> Scalar:
        checks.one_point(log_w)
        if math.isinf(alpha):
            return log_w.min() if alpha > 0 else log_w.max()
        largest, rest = centred(log_w)
        # Near alpha = 1 the logarithm is of a mean near 1, and the division by 1 - alpha would
        # multiply its rounding.
        near = abs(power) * (rest.max() - rest.min()) <= 1
        change = jnp.expm1(power * jnp.where(near, rest, 0.0)).mean()
        return largest + jnp.where(near, jnp.log1p(change), iwae(power * rest)) / power

    return reduce


def centred(log_w: Float[Array, " S"]) -> tuple[Scalar, Float[Array, " S"]]:
    """The largest log-weight without gradient (0 if it is infinite), and log_w minus it.

    A bound computed from the second and shifted by the first keeps its digits, and those of its
    gradient, where log-weights are far from 0.
    """
    largest = jax.lax.stop_gradient(log_w.max())
    largest = jnp.where(jnp.isinf(largest), 0.0, largest)
    return largest, log_w - largest


def cubo(order: float) -> Reduction:
    """Chi upper bound, (1/n) log (1/S) sum_s w_s^n, order n > 1 (Dieng et al. 2017, eq. 3).

    An upper bound for S -> infinity only: the logarithm of an average is biased downwards. Raises
    ValueError for an order that is not a finite number > 1.
    """
    if not (math.isfinite(order) and order > 1):
        raise ValueError(f"order: expected a finite number > 1, got {order}")
    return renyi(1 - order)


def eubo(log_w: Float[Array, " S"]) -> Scalar:
    """Evidence upper bound, E_posterior[log w], self-normalised: sum_s v_s log w_s, v = w / sum w.

    log p + KL(posterior || q) as S -> infinity (Ji and Shen 2019); for finite S on neither side.
    """
    checks.one_point(log_w)
    largest, rest = centred(log_w)
    mean = (normalized(log_w) * jnp.where(jnp.isneginf(rest), 0.0, rest)).sum()
    return jnp.where((log_w == -jnp.inf).all(), -jnp.inf, largest + mean)


def thermodynamic(betas: Sequence[float] | ArrayLike) -> Reduction:
    """Thermodynamic variational objective: a left Riemann sum of E_beta[log w] over `betas`.

    sum_i (beta_{i+1} - beta_i) E_{beta_i}[log w] along q^(1 - beta) p^beta, by self-normalised
    weights w^beta (Masrani et al. 2019, eq. 7). `betas` rise from 0 to 1; (0, 1) is the ELBO.
    From below for every S, for it is a left sum under the increasing slope of log (1/S) sum w^beta,
    which ends at IWAE; tight as S grows and the grid is refined. Raises ValueError for `betas` that
    do not rise from 0 to 1.
    """
    grid = np.asarray(betas, np.float64)
    if (
        grid.ndim != 1
        or len(grid) < 2
        or grid[0] != 0
        or grid[-1] != 1
        or (np.diff(grid) <= 0).any()
    ):
        raise ValueError(f"betas: expected numbers that rise from 0 to 1, got {list(betas)}")

    @precision.full
    def reduce(log_w: Float[Array, " S"]) -> Scalar:
        checks.one_point(log_w)
        inner, widths = (jnp.asarray(v, log_w.dtype) for v in (grid[1:-1], np.diff(grid)))
        largest, rest = centred(log_w)
        weights = jax.vmap(lambda beta: normalized(beta * rest))(inner)
        # A weight of zero counts for nothing where beta > 0; at beta = 0 it makes the ELBO -inf.
        finite = jnp.where(jnp.isneginf(rest), 0.0, rest)
        return largest + widths[0] * elbo(rest) + widths[1:] @ (weights @ finite)

    return reduce


def jackknife(order: int) -> Reduction:
    """Generalised jackknife of the IWAE bound; bias O(S^-(order + 1)).

    sum_j c_j L_{S-j}, j = 0..m, c_j = (-1)^j (S - j)^m / (j! (m - j)!), with L_{S-j} the mean of
    the bound over all subsets of S - j weights. Order 0 is IWAE. On neither side of log p. The
    cost is of S terms for m = 1 and of S^(m + 1) beyond; float32 loses a factor S^(m - 1) of its
    precision.

    Raises ValueError for an order < 0 and, where it is used, for S <= order.
    Source: Nowozin 2018, definition 1, and proposition 3 for the bias.
    """
    order = checks.integer(order, "order", 0)

    def reduce(log_w: Float[Array, " S"]) -> Scalar:
        checks.one_point(log_w)
        size = log_w.shape[0]
        if size <= order:
            raise ValueError(
                f"num_samples: expected more than the jackknife's order {order}, got {size}"
            )
        largest, rest = centred(log_w)
        value = whole = iwae(rest)
        for left_out in range(1, order + 1):
            c = (-1) ** left_out * float(size - left_out) ** order
            c /= math.factorial(left_out) * math.factorial(order - left_out)
            change = _change_without_one if left_out == 1 else _change_without
            value = value + c * change(rest, whole, left_out)
        return jnp.where((log_w == -jnp.inf).all(), -jnp.inf, largest + value)

    return reduce


def _change_without_one(log_w: Float[Array, " S"], whole: Scalar, left_out: int = 1) -> Scalar:
    """`_change_without` in memory of S numbers: one weight at most has half of the total."""
    size = log_w.shape[0]
    is_largest = jnp.arange(size) == log_w.argmax()
    rest = logsumexp(jnp.where(is_largest, -jnp.inf, log_w)) - math.log(size - 1)
    ratio = (1 - size * jax.nn.softmax(log_w)) / (size - 1)
    small = ratio > -0.5  # else the rest is what remains of a cancellation
    return jnp.where(small, jnp.log1p(jnp.where(small, ratio, 0.0)), rest - whole).mean()


def _change_without(log_w: Float[Array, " S"], whole: Scalar, left_out: int) -> Scalar:
    """The mean of IWAE over all ways to leave `left_out` weights out, less IWAE of all."""
    size = log_w.shape[0]
    subsets = np.array(list(itertools.combinations(range(size), left_out)))
    keep = np.ones((len(subsets), size), bool)
    np.put_along_axis(keep, subsets, False, axis=1)
    rest = logsumexp(jnp.where(keep, log_w[None], -jnp.inf), axis=1) - math.log(size - left_out)
    # The coefficients grow as S^order, so a difference of two logarithms would lose as many
    # digits: take the logarithm of the ratio of the means, which what is left out gives.
    outside = jax.nn.softmax(log_w)[subsets].sum(1)
    ratio = (left_out - size * outside) / (size - left_out)
    small = ratio > -0.5  # else the rest is what remains of a cancellation
    return jnp.where(small, jnp.log1p(jnp.where(small, ratio, 0.0)), rest - whole).mean()


def leave_one_out(log_w: Float[Array, " S"]) -> Float[Array, " S"]:
    """log sum_{j != s} w_j for every s, without cancellation."""
    checks.one_point(log_w)
    size = log_w.shape[0]
    return logsumexp(jnp.where(jnp.eye(size, dtype=bool), -jnp.inf, log_w[None]), axis=1)


def miwae(num_groups: int) -> Reduction:
    """Mean of IWAE over `num_groups` groups of S / num_groups weights (Rainforth et al. 2018).

    From below; groups of one are the ELBO, one group is IWAE. Raises ValueError for less than one
    group and, where it is used, for an S that is no multiple of `num_groups`.
    """
    num_groups = checks.integer(num_groups, "num_groups", 1)

    def reduce(log_w: Float[Array, " S"]) -> Scalar:
        checks.one_point(log_w)
        if log_w.shape[0] % num_groups:
            raise ValueError(
                f"num_samples: expected a multiple of num_groups = {num_groups}, got "
                f"{log_w.shape[0]}"
            )
        return jax.vmap(iwae)(log_w.reshape(num_groups, -1)).mean()

    return reduce


def ciwae(beta: float) -> Reduction:
    """beta ELBO + (1 - beta) IWAE, beta in [0, 1] (Rainforth et al. 2018). From below.

    Raises ValueError for another beta.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta: expected a number in [0, 1], got {beta}")
    if beta in (0, 1):  # 0 times the -inf of the other would be NaN
        return elbo if beta else iwae

    def reduce(log_w: Float[Array, " S"]) -> Scalar:
        checks.one_point(log_w)
        largest, rest = centred(log_w)
        return largest + (beta * elbo(rest) + (1 - beta) * iwae(rest))

    return reduce


class Bound(NamedTuple):
    """A bound by its name: the reduction, its direction, and in which limit it is exact."""

    reduce: Reduction
    direction: Literal["lower", "upper", "neither"]  # of the expectation, for every finite S
    limit: Literal["lower", "upper", "exact"]  # of the value, as S -> infinity


BOUNDS: dict[str, Bound] = {
    "elbo": Bound(elbo, "lower", "lower"),
    "iwae": Bound(iwae, "lower", "exact"),
    "renyi_half": Bound(renyi(0.5), "lower", "lower"),
    "renyi_two": Bound(renyi(2.0), "lower", "lower"),
    "renyi_minus_one": Bound(renyi(-1.0), "neither", "upper"),
    "cubo_two": Bound(cubo(2), "neither", "upper"),
    "eubo": Bound(eubo, "neither", "upper"),
    "thermodynamic": Bound(thermodynamic((0.0, 0.25, 0.5, 0.75, 1.0)), "lower", "lower"),
    "jackknife_one": Bound(jackknife(1), "neither", "exact"),
    "jackknife_two": Bound(jackknife(2), "neither", "exact"),
    "miwae_two": Bound(miwae(2), "lower", "exact"),
    "ciwae_half": Bound(ciwae(0.5), "lower", "lower"),
}
