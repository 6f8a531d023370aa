"""The coverage of `certify` on data that the model draws, without a closed form of log p(x).

The z that generated x is an exact draw of p(z | x). With pi = p(x, z) / p(x), and any density g of
z with draws, the bridge identity

    E_pi[g / (r pi-hat + g)] = E_g[r pi-hat / (r pi-hat + g)]    holds for r = p-hat / p(x)

with pi-hat = p(x, z) / p-hat, if p-hat does not depend on z given x. Both sides are bounded, so
that r has a finite error for every g. Here g is the proposal that `certify` fitted. A mode that was
not found lowers r by its share of the evidence.

Source: Meng and Wong (1996), equation 3.1, with the optimal bridge.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from lvm_jax import weights
from lvm_jax._core import checks
from lvm_jax._core.batching import map_first_points, num_rows
from lvm_jax._core.inputs import check_simulated
from lvm_jax._core.keys import split
from lvm_jax.compiling import bounded_jit, bucket, first_rows, pad_rows
from lvm_jax.estimate import Estimate
from lvm_jax.evidence.certified import Certificate, certify
from lvm_jax.evidence.modes import supported
from lvm_jax.evidence.programs import Proposal, make_cover
from lvm_jax.evidence.scoring import Share, share
from lvm_jax.typing import Array, ConditionalDensity, Float, Generative, Int, Key, Latent, Scalar

DRAWS = 64  # of g for each data set
REACH, STEP = 700.0, 1e-4  # of log r: the range of its search, and the step of its slope


class Simulated(NamedTuple):
    """`certify` on N data sets of one point that the model drew."""

    x: Any  # leaves [N, ...]
    certificate: Certificate
    log_evidence: np.ndarray | None  # exact log p(x) [N], of a model with a closed form
    held: Share | None  # of the certified intervals, those that hold it
    certified: Share  # data sets that are `within`
    ratio: Estimate  # p-hat(x) / p(x) over the certified data sets

    def __repr__(self) -> str:
        """The shares with their intervals, and the ratio with its standard error."""
        words = [f"{_words(self.certified)} data sets certified"]
        if self.held is not None:
            words.append(f"{_words(self.held)} of their intervals hold log p(x)")
        value, error = float(self.ratio.value), float(self.ratio.standard_error)
        words.append(f"p-hat / p = {value:.3f} ± {error:.3f}")
        return f"Simulated({'; '.join(words)})"


def _words(part: Share) -> str:
    return f"{part.share:.1%} [{part.low:.1%}, {part.high:.1%}] of {part.of}"


def certify_on_simulated(
    key: Key[Array, ""], p: Generative, q: ConditionalDensity, num_points: int, **settings: Any
) -> Simulated:
    """Run `certify` with these settings on data of the model, and measure how often it holds.

    Draws N pairs z ~ p(z), x ~ p(x | z), and certifies every x. `held` is the share of certified
    intervals that hold log p(x), with its Clopper-Pearson interval, where the model has a closed
    form of log p(x). `ratio` is p-hat / p over the certified data sets, with its standard error,
    for any model: the r of the bridge identity between the z that generated x and draws of the
    fitted proposal. It is 1 if nothing is missed, and below 1 by the mean share of the evidence
    that is missed.

    The result holds for data of the model, as far as real data resemble them.

    Raises ValueError for num_points < 2, a model that draws only a part of x, and as `certify`.
    """
    checks.key(key)
    checks.host("evidence.certify_on_simulated", "evidence.sandwich", key, p, q)
    num_points = checks.integer(num_points, "num_points", 2)
    check_simulated(p, q)
    key_data, key_certify, key_g = split(key, 3)
    z, x = jax.device_get(_simulate(key_data, p, num_points))
    found = certify(key_certify, p, q, x, **settings)
    at_z, at_draws = _log_ratios(key_g, p, q, z, x, found.proposal)
    kept, truth, held = found.within, _truth(p, x), None
    if truth is not None:
        held = share(((found.low <= truth) & (truth <= found.high))[kept])
    log_p = found.log_evidence[kept]
    ratio = _bridge(at_z[kept] - log_p, at_draws[kept] - log_p[:, None])
    return Simulated(x, found, truth, held, share(kept), ratio)


@bounded_jit(2)
def _simulate(key: Key[Array, ""], p: Generative, num_points: int) -> tuple[Latent, Any]:
    return jax.vmap(lambda key: tuple(p.sample(key)))(jax.random.split(key, num_points))


def _truth(p: Generative, x: Any) -> np.ndarray | None:
    """log p(x) by the model's closed form, or None."""
    if getattr(getattr(p, "model", None), "log_evidence", None) is None:
        return None
    found: np.ndarray = np.asarray(_log_evidence(p, x), np.float64)
    return found


@bounded_jit()
def _log_evidence(p: Any, x: Any) -> Float[Array, " N"]:
    found: Float[Array, " N"] = jax.vmap(p.log_evidence)(x)
    return found


def _bridge(a: Float[np.ndarray, " N"], b: Float[np.ndarray, "N M"]) -> Estimate:
    """The r that solves the bridge identity on average over N data sets, with its error.

    a is log pi-hat - log g at the z that generated x, b the same at M draws of g.
    """
    from scipy.optimize import brentq

    def terms(log_r: float) -> np.ndarray:
        found: np.ndarray = expit(-(log_r + a)) - expit(log_r + b).mean(1)
        return found

    if not len(a):
        return Estimate(np.nan, np.nan)
    log_r = brentq(lambda log_r: terms(log_r).mean(), -REACH, REACH)
    slope = (terms(log_r + STEP).mean() - terms(log_r - STEP).mean()) / (2 * STEP)
    error = terms(log_r).std(ddof=1) / len(a) ** 0.5 / abs(slope) if len(a) > 1 else np.nan
    return Estimate(float(np.exp(log_r)), float(np.exp(log_r) * error))


def _log_ratios(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    z: Latent,
    x: Any,
    proposal: Proposal,
) -> tuple[np.ndarray, np.ndarray]:
    """log p(x, z) - log g(z) at the z of every data set, [N], and at draws of g, [N, DRAWS]."""
    number = num_rows(x)
    rows = pad_rows((np.arange(number), x, z, proposal), bucket(number))
    found = first_rows(_of_points(key, p, q, rows, np.int32(number)), number)
    at_z, at_draws = (np.asarray(part, np.float64) for part in found)
    return at_z, at_draws


@bounded_jit(lean=True)
def _of_points(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    points: tuple[Array, Any, Latent, Proposal],
    number: Int[Array, ""],
) -> tuple[Float[Array, " N"], Float[Array, "N M"]]:
    def one(point: tuple[Array, Any, Latent, Proposal]) -> tuple[Scalar, Float[Array, " M"]]:
        index, x, z, proposal = point
        g = make_cover(p, q, x, proposal)
        joint = supported(p.log_joint(x), g.prior)
        drawn = weights.draw(jax.random.fold_in(key, index), g, DRAWS)
        both = jax.tree.map(lambda one, all_: jnp.concatenate([one[None], all_]), z, drawn)
        log_w = jax.vmap(lambda z: joint(z) - g.log_prob(z))(both)
        return log_w[0], log_w[1:]

    return map_first_points(one, points, 1, number)
