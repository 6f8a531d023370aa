"""Bounds on log p(x): reductions of the log-weights of one data point, [S] -> scalar, in nats.

Lower bounds are to be maximised. `BOUNDS` lists the direction of each bound for finite S and for
S -> infinity. All are exact if q is the posterior, because every log-weight then equals log p(x).
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
    """Evidence lower bound, (1/S) sum_s log w_s: an unbiased estimate of E_q[log w]."""
    checks.one_point(log_w)
    return log_w.mean()


def iwae(log_w: Float[Array, " S"]) -> Scalar:
    """Importance-weighted bound, log (1/S) sum_s w_s (Burda et al. 2016, theorem 1).

    A lower bound; for large S the gap is about Var(w) / (2 S p(x)^2) (Nowozin 2018, proposition 1).
    """
    checks.one_point(log_w)
    # The gradient of logsumexp is NaN if every weight is 0; here it is 0.
    nothing = (log_w == -jnp.inf).all()
    total = logsumexp(jnp.where(nothing, 0.0, log_w))
    return jnp.where(nothing, -jnp.inf, total) - math.log(log_w.shape[0])


def normalized(log_w: Float[Array, " S"]) -> Float[Array, " S"]:
    """v_s = w_s / sum w, the gradient of `iwae`; 0 if every weight is 0."""
    checks.one_point(log_w)
    nothing = (log_w == -jnp.inf).all()
    return jnp.where(nothing, 0.0, jax.nn.softmax(jnp.where(nothing, 0.0, log_w)))


def renyi(alpha: float) -> Reduction:
    """Renyi bound L_alpha = 1/(1 - alpha) log (1/S) sum_s w_s^(1 - alpha) (Li and Turner 2016).

    alpha = 0 is IWAE and alpha = 1 the ELBO, as a limit; alpha = inf is the smallest log-weight and
    -inf the largest (VR-max). For alpha >= 0 the expectation is a lower bound for every S. For
    alpha < 0 it is an upper bound as S -> infinity; for finite S its direction is unknown. Raises
    ValueError for NaN.
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
        # Near alpha = 1 the mean is near 1, and the division by 1 - alpha would amplify the
        # rounding of its logarithm.
        near = abs(power) * (rest.max() - rest.min()) <= 1
        change = jnp.expm1(power * jnp.where(near, rest, 0.0)).mean()
        return largest + jnp.where(near, jnp.log1p(change), iwae(power * rest)) / power

    return reduce


def centred(log_w: Float[Array, " S"]) -> tuple[Scalar, Float[Array, " S"]]:
    """The largest log-weight without gradient (0 if infinite), and log_w minus it.

    A bound of the second plus the first keeps its digits, and those of its gradient, where
    log-weights are far from 0.
    """
    largest = jax.lax.stop_gradient(log_w.max())
    largest = jnp.where(jnp.isinf(largest), 0.0, largest)
    return largest, log_w - largest


def cubo(order: float) -> Reduction:
    """Chi upper bound, (1/n) log (1/S) sum_s w_s^n, order n > 1 (Dieng et al. 2017, eq. 3).

    An upper bound only as S -> infinity: the logarithm of an average is biased downwards. Raises
    ValueError for an order that is not a finite number > 1.
    """
    if not (math.isfinite(order) and order > 1):
        raise ValueError(f"order: expected a finite number > 1, got {order}")
    return renyi(1 - order)


def eubo(log_w: Float[Array, " S"]) -> Scalar:
    """Evidence upper bound, E_posterior[log w], self-normalised: sum_s v_s log w_s, v = w / sum w.

    It tends to log p + KL(posterior || q) as S -> infinity (Ji and Shen 2019). For finite S its
    direction is unknown.
    """
    checks.one_point(log_w)
    largest, rest = centred(log_w)
    mean = (normalized(log_w) * jnp.where(jnp.isneginf(rest), 0.0, rest)).sum()
    return jnp.where((log_w == -jnp.inf).all(), -jnp.inf, largest + mean)


def thermodynamic(betas: Sequence[float] | ArrayLike) -> Reduction:
    """Thermodynamic variational objective: a left Riemann sum of E_beta[log w] over `betas`.

    sum_i (beta_{i+1} - beta_i) E_{beta_i}[log w] along q^(1 - beta) p^beta, with self-normalised
    weights w^beta (Masrani et al. 2019, eq. 7). `betas` rise from 0 to 1; (0, 1) is the ELBO.
    A lower bound for every S: E_beta[log w] increases with beta and its integral is IWAE. The bound
    is exact as S -> infinity and the grid is refined. Raises ValueError for `betas` that do not
    rise from 0 to 1.
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
        # A weight of 0 contributes 0 for beta > 0; at beta = 0 the ELBO is -inf.
        finite = jnp.where(jnp.isneginf(rest), 0.0, rest)
        return largest + widths[0] * elbo(rest) + widths[1:] @ (weights @ finite)

    return reduce


def jackknife(order: int) -> Reduction:
    """Generalised jackknife of the IWAE bound; bias O(S^-(order + 1)).

    sum_j c_j L_{S-j}, j = 0..m, c_j = (-1)^j (S - j)^m / (j! (m - j)!), with L_{S-j} the mean of
    the bound over all subsets of S - j weights, m = `order`. Order 0 is IWAE. Its direction is
    unknown. It costs S terms for m = 1 and S^(m + 1) terms for m > 1. Rounding errors grow as
    S^(m - 1).

    Raises ValueError for an order < 0 and, on use, for S <= order.
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
    """`_change_without` with memory for S numbers: only the largest weight can exceed half."""
    size = log_w.shape[0]
    is_largest = jnp.arange(size) == log_w.argmax()
    rest = logsumexp(jnp.where(is_largest, -jnp.inf, log_w)) - math.log(size - 1)
    ratio = (1 - size * jax.nn.softmax(log_w)) / (size - 1)
    return _mean_change(ratio, rest - whole)


def _change_without(log_w: Float[Array, " S"], whole: Scalar, left_out: int) -> Scalar:
    """The mean of IWAE over all ways to leave out `left_out` weights, minus IWAE of all weights."""
    size = log_w.shape[0]
    subsets = np.array(list(itertools.combinations(range(size), left_out)))
    keep = np.ones((len(subsets), size), bool)
    np.put_along_axis(keep, subsets, False, axis=1)
    rest = logsumexp(jnp.where(keep, log_w[None], -jnp.inf), axis=1) - math.log(size - left_out)
    outside = jax.nn.softmax(log_w)[subsets].sum(1)
    return _mean_change((left_out - size * outside) / (size - left_out), rest - whole)


def _mean_change(ratio: Array, difference: Array) -> Scalar:
    """The mean of log(1 + ratio), or of the equal `difference` of logarithms for ratio <= -1/2.

    The coefficients of the jackknife grow as S^order and would amplify the rounding of a difference
    of nearly equal logarithms.
    """
    small = ratio > -0.5
    return jnp.where(small, jnp.log1p(jnp.where(small, ratio, 0.0)), difference).mean()


def leave_one_out(log_w: Float[Array, " S"]) -> Float[Array, " S"]:
    """log sum_{j != s} w_j for every s, without cancellation."""
    checks.one_point(log_w)
    size = log_w.shape[0]
    return logsumexp(jnp.where(jnp.eye(size, dtype=bool), -jnp.inf, log_w[None]), axis=1)


def miwae(num_groups: int) -> Reduction:
    """Mean of IWAE over `num_groups` groups of S / num_groups weights (Rainforth et al. 2018).

    A lower bound. Groups of one weight give the ELBO; one group gives IWAE. Raises ValueError for
    num_groups < 1 and, on use, for an S that is no multiple of `num_groups`.
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
    """beta ELBO + (1 - beta) IWAE, beta in [0, 1] (Rainforth et al. 2018). A lower bound.

    Raises ValueError for beta outside [0, 1].
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta: expected a number in [0, 1], got {beta}")
    if beta in (0, 1):  # 0 * -inf would be NaN
        return elbo if beta else iwae

    def reduce(log_w: Float[Array, " S"]) -> Scalar:
        checks.one_point(log_w)
        largest, rest = centred(log_w)
        return largest + (beta * elbo(rest) + (1 - beta) * iwae(rest))

    return reduce


class Bound(NamedTuple):
    """A reduction with its direction for finite S and as S -> infinity."""

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
