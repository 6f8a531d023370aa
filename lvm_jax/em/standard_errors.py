"""Standard errors of the maximum-likelihood estimates of a mixture."""

from typing import Any, NamedTuple

import jax
import numpy as np

from lvm_jax._core import checks
from lvm_jax._core.warn import warn
from lvm_jax.em import estimates, fisher
from lvm_jax.em.estimates import Estimates
from lvm_jax.em.fisher import Information
from lvm_jax.em.mixture import Mixture
from lvm_jax.em.statistics import MixtureParameters
from lvm_jax.typing import ArrayLike

KINDS = ("sandwich", "scores", "hessian")
SINGULAR = 1e-9  # of the largest eigenvalue of the information, scaled to a unit diagonal
ONE_SIDED = 0.5  # |sum of scores| / sum of |scores| at a boundary; 0 at a maximum inside
FAR = 0.5  # standard errors from the maximum, from which on a warning says so
MOST = 8  # names in a message


class StandardErrors(NamedTuple):
    """Standard errors in the structure of the mixture; NaN where the data do not determine one."""

    weights: np.ndarray  # [K]
    means: np.ndarray  # [K, D]
    covariances: np.ndarray | None  # [K, D, D], of Gaussians
    components: Any  # of the family's parameters, such as probabilities [K, D]
    covariance: np.ndarray | None  # [Q, Q] of the estimates `names`, on request
    names: tuple[str, ...]  # [Q], such as "means[0, 1]"
    distance: float  # of the mixture from the maximum, in standard errors
    problems: tuple[str, ...]  # why a standard error is NaN or unreliable, in words


class Solution(NamedTuple):
    """The covariance matrix of the P coordinates, and what the rows do not determine."""

    covariance: np.ndarray  # [P, P], 0 for coordinates at a boundary
    unknown: np.ndarray  # [P, U], directions without information, in units of 1 / scale
    scale: np.ndarray  # [P], square roots of the information
    boundary: np.ndarray  # [P], whether a coordinate is at its boundary
    distance: float
    problems: list[str]


def standard_errors(
    fit: Any,
    x: Any,
    sample_weight: ArrayLike | None = None,
    *,
    kind: str = "sandwich",
    with_covariance: bool = False,
) -> StandardErrors:
    """Standard errors of the weights, means, covariances and other parameters of a mixture.

    With the scores s_n = d log p(x_n) / d theta, M = sum_n w_n s_n s_n^T and the observed
    information H = -sum_n w_n d^2 log p(x_n) / d theta^2, the covariance of the estimates is

        scores     M^-1              (Louis 1982; McLachlan and Peel 2000, eq. 2.58)
        hessian    H^-1              (McLachlan and Peel 2000, eq. 2.46)
        sandwich   H^-1 M H^-1       (Huber 1967; White 1982), valid for a wrong model too

    The standard errors of the estimates in their own units follow by the delta method.

    Args:
        fit: an em.MixtureFit or em.Mixture, at the maximum of the likelihood of x. Fit with a
            tolerance of about 1e-8 in float64: at 1e-3 EM often stops standard errors away.
        x: the rows of the fit, [N, D] or data that stream. NaN is an entry missing at random.
        sample_weight: [N]; a weight of 2 is equivalent to duplicating the row.
        kind: sandwich, scores or hessian.
        with_covariance: also return the covariance matrix of weights, means and covariances (or of
            weights and components), in the order of `names`.

    The errors are in the units of the estimates. A component of weight 0, an estimate at its
    boundary and a direction in which the likelihood is flat have no standard error: NaN, named in
    `problems` and in a warning. Other errors are then those with an estimate at its boundary held
    fixed. A constant, such as given degrees of freedom or the box of `with_noise`, has the error 0.
    Equal volumes, shapes and orientations are one parameter each. Loadings of two or more factors
    are determined up to a rotation: their errors are those with the rotation held fixed in which
    the upper triangle of the loadings is 0. Two passes over x in float64, with a memory of P^2
    numbers for P parameters.

    Raises ValueError or TypeError for an unknown kind, for a family whose `chart` has more
    coordinates than the mixture has parameters, and the errors of `criteria`.

    Source: McLachlan and Peel (2000), Finite Mixture Models, sections 2.15 and 2.16.
    """
    mixture = estimates.as_mixture(fit)
    checks.choice(kind, "kind", KINDS)
    parameters, origin = estimates.widened(mixture)
    live: Any = np.flatnonzero(parameters.log_weights > -np.inf)
    at = MixtureParameters(
        parameters.log_weights[live], mixture.family.select(parameters.components, live)
    )
    with jax.enable_x64(True):
        slopes, moved = fisher.slopes(mixture.family, at, origin)
        slopes = jax.tree.map(np.asarray, slopes)
        kept = coordinates(mixture, moved, len(live))
        length = slopes.weights.shape[-1]
        curved = kind != "scores"
        sums = fisher.gather(mixture, at, kept, length, x, sample_weight, curved)
    solution = solve(sums, kind)
    slopes = jax.tree.map(lambda leaf: leaf[..., kept], slopes)
    number = len(parameters.log_weights)
    found = finish(mixture, slopes, solution, live, number, with_covariance)
    if found.problems:
        warn("standard_errors: " + "; ".join(found.problems))
    return found


def coordinates(mixture: Mixture, moved: Any, live: int) -> np.ndarray:
    """The coordinates that change the mixture: its free parameters, without upper triangles."""
    leaves = [np.asarray(leaf).reshape(-1, leaf.shape[-1]) for leaf in jax.tree.leaves(moved)]
    kept = np.flatnonzero((np.concatenate(leaves) != 0).any(0))
    dim = mixture.origin.shape[0]
    expected = mixture.family.num_component_parameters(live, dim) + live - 1
    if len(kept) > expected:
        raise TypeError(
            f"fit: {type(mixture.family).__name__} components have {expected} free parameters and "
            f"{len(kept)} coordinates in `chart`; use em.bootstrap"
        )
    return kept


def solve(sums: Information, kind: str) -> Solution:
    """The covariance matrix of the coordinates, from the sums over rows."""
    number, problems = len(sums.total), []
    boundary = (np.abs(sums.total) > ONE_SIDED * sums.size) & (sums.rows > 1)
    inside = np.flatnonzero(~boundary)
    bread = (sums.outer if kind == "scores" else sums.hessian)[np.ix_(inside, inside)]
    diagonal = np.abs(np.diag(bread))
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1))
    values, vectors = np.linalg.eigh(bread / np.outer(scale, scale))
    least = SINGULAR * max(values.max(initial=0), 1e-300)
    if (values < -least).any():
        problems.append(
            "the mixture is not a maximum of the likelihood of these rows: its curvature is "
            f"positive in {(values < -least).sum()} directions; fit with a lower tolerance, or "
            "use kind='scores'"
        )
    known = values > least
    inverse = (vectors[:, known] / values[known]) @ vectors[:, known].T / np.outer(scale, scale)
    total = sums.total[inside]
    distance = float(np.sqrt(max(total @ inverse @ total, 0)))
    if distance > FAR:
        problems.append(
            f"the mixture is {distance:.1f} standard errors from the maximum of the likelihood of "
            "these rows; fit with a lower tolerance and without a prior"
        )
    if kind == "sandwich":
        inverse = inverse @ sums.outer[np.ix_(inside, inside)] @ inverse
    covariance, unknown = np.zeros((number, number)), np.zeros((number, (~known).sum()))
    covariance[np.ix_(inside, inside)] = inverse
    unknown[inside] = vectors[:, ~known] / scale[:, None]
    widths = np.ones(number)
    widths[inside] = scale
    return Solution(covariance, unknown, widths, boundary, distance, problems)


def finish(
    mixture: Mixture,
    slopes: Estimates,
    solution: Solution,
    live: np.ndarray,
    number: int,
    with_covariance: bool,
) -> StandardErrors:
    """The standard errors of all estimates, by the delta method."""
    problems = list(solution.problems)
    empty = np.setdiff1d(np.arange(number), live).tolist()
    if empty:
        problems.insert(0, f"components {empty} have weight 0 and no standard errors")
    flags = flags_of(slopes)
    clipped = {} if slopes.covariances is not None else estimates.listed(mixture.family, flags)
    rows = {
        name: (slope, *lost(slope, solution, clipped.get(name, False)))
        for name, slope in estimates.listed(mixture.family, slopes).items()
    }
    for index, reason in ((1, "at a boundary"), (2, "not determined by these rows")):
        named = [name for leaf, row in rows.items() for name in labels(leaf, row[index], live)]
        if named:
            shown = ", ".join(named[:MOST]) + (", ..." if len(named) > MOST else "")
            problems.append(f"without a standard error, {reason}: {shown} ({len(named)} in all)")
    found = jax.tree.map(lambda slope, flag: errors(slope, solution, flag), slopes, flags)
    filled = jax.tree.map(lambda leaf: fill(leaf, live, number), found)
    covariance, names = joint(rows, solution, live) if with_covariance else (None, ())
    return StandardErrors(
        filled.weights, filled.means, filled.covariances, filled.components,
        covariance, names, solution.distance, tuple(problems),
    )  # fmt: skip


def flags_of(slopes: Estimates) -> Estimates:
    """Whether estimates can be at a boundary where no coordinate changes them."""
    components: Any = estimates.bounded(slopes.components)
    covariances = None if slopes.covariances is None else False
    return Estimates(False, any(jax.tree.leaves(components)), covariances, components)


def errors(slope: np.ndarray, solution: Solution, clipped: bool) -> np.ndarray:
    """Standard errors from d estimate / du; NaN for those that are `lost`."""
    variance = np.einsum("...p,pq,...q->...", slope, solution.covariance, slope, optimize=True)
    missing = np.logical_or(*lost(slope, solution, clipped))
    return np.where(missing, np.nan, np.sqrt(np.maximum(variance, 0)))


def lost(slope: np.ndarray, solution: Solution, clipped: bool) -> tuple[np.ndarray, np.ndarray]:
    """Whether estimates are at a boundary, and whether the rows do not determine them.

    An estimate that no coordinate changes is at a boundary if it can be `clipped`.
    """
    size = np.linalg.norm(slope / solution.scale, axis=-1)
    boundary = (np.abs(slope[..., solution.boundary]) > 1e-9 * size[..., None]).any(-1)
    unknown = np.linalg.norm(slope @ solution.unknown, axis=-1) > 1e-6 * size
    return boundary | (clipped & (size == 0)), unknown & ~boundary


def labels(name: str, chosen: np.ndarray, live: np.ndarray) -> list[str]:
    """Names such as "means[0, 1]" of the estimates chosen; of a covariance its lower triangle."""
    places = np.argwhere(chosen)
    if name == "covariances":
        places = places[places[:, 1] >= places[:, 2]]
    shared = len(chosen) != len(live)
    return [
        f"{name}[{', '.join(map(str, (place[0] if shared else live[place[0]], *place[1:])))}]"
        for place in places.tolist()
    ]


def fill(values: np.ndarray, live: np.ndarray, number: int) -> np.ndarray:
    """Values of all components, NaN for empty ones; values of no component are unchanged."""
    if len(values) != len(live) or len(live) == number:
        return values
    out = np.full((number, *values.shape[1:]), np.nan)
    out[live] = values
    return out


def joint(
    rows: dict[str, Any], solution: Solution, live: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The covariance matrix of the estimates, without those that never change, and their names."""
    slopes, missing, names = [], [], []
    for name, (slope, *reasons) in rows.items():
        chosen = (slope != 0).any(-1) | reasons[0]
        if name == "covariances":
            chosen = chosen & np.tril(np.ones(chosen.shape[1:], bool))[None]
        slopes.append(slope[chosen])
        missing.append(np.logical_or(*reasons)[chosen])
        names += labels(name, chosen, live)
    slope, gone = np.concatenate(slopes), np.concatenate(missing)
    covariance = slope @ solution.covariance @ slope.T
    covariance[gone], covariance[:, gone] = np.nan, np.nan
    return covariance, tuple(names)
