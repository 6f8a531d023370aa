"""Simulation-based calibration: a test of q against the posterior on simulated data."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaincc

from lvm_jax import weights
from lvm_jax._core import checks
from lvm_jax._core.batching import batch_size, map_points
from lvm_jax._core.inputs import check_simulated
from lvm_jax.compiling import bounded_jit
from lvm_jax.evidence.importance import CHUNK_SIZE
from lvm_jax.typing import Array, ConditionalDensity, Float, Generative, Int, Key, Latent

EXPECTED = 5  # the fewest expected counts a bin for the chi-square approximation


class Calibration(NamedTuple):
    """Ranks of the true z among draws of q, by coordinate; all fields are pytrees as z."""

    ranks: Latent  # 0, ..., L, leaves [M, ...]
    counts: Latent  # of the ranks in B equal bins, leaves [B, ...]
    chi_square: Latent  # against equal counts; B - 1 degrees of freedom
    p_value: Latent  # of calibration, for each coordinate separately
    mean: Latent  # of (rank + 1/2) / (L + 1): 1/2 if calibrated, larger if q is too low
    spread: Latent  # its variance over that of uniform ranks: > 1 if q is too narrow


def calibrate(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    num_simulations: int,
    num_draws: int = 99,
    *,
    num_bins: int = 20,
    chunk_size: int = CHUNK_SIZE,
) -> Calibration:
    """Ranks of z* among L = `num_draws` draws of q(z | x), for M simulated pairs (z*, x).

        z* ~ p(z),  x ~ p(x | z*),  z_l ~ q(z | x):    rank = #{l: z_l < z*}, by coordinate

    The rank is uniform on 0, ..., L if q is the posterior. Ties of a discrete z are broken at
    random. Uniform ranks are necessary but not sufficient: q = p(z), which ignores x, has them too,
    and so has a q with wrong dependences. Compare the gap of the ELBO.

    `p_value` is Pearson's for B = `num_bins` bins of equal width and one coordinate: of many, some
    are small by chance. Simulation i uses fold_in(key, i).

    Raises ValueError if L + 1 is not a multiple of B or M < 5 B (too few for the chi-square
    distribution), and for a guide that does not fit the model.

    Source: Talts et al. (2018), theorem 1 and algorithm 1.
    """
    checks.host("decomposition.calibrate", "weights.draw", key, p, q)
    checks.key(key)
    num_bins = checks.integer(num_bins, "num_bins", 2)
    num_draws = checks.integer(num_draws, "num_draws", 1)
    num_simulations = checks.integer(num_simulations, "num_simulations", EXPECTED * num_bins)
    if (num_draws + 1) % num_bins:
        raise ValueError(
            f"num_draws: expected one less than a multiple of num_bins = {num_bins}, so that bins "
            f"hold equally many ranks, got {num_draws}"
        )
    check_simulated(p, q)
    return _calibrate(
        *(key, p, q, num_simulations, num_draws, num_bins),
        batch_size(chunk_size, num_draws, num_simulations),
    )


@bounded_jit(3, 4, 5, 6)
def _calibrate(
    key: Key[Array, ""],
    p: Generative,
    q: ConditionalDensity,
    num_simulations: int,
    num_draws: int,
    num_bins: int,
    together: int,
) -> Calibration:
    def one(index: Array) -> Latent:
        key_pair, key_q, key_ties = jax.random.split(jax.random.fold_in(key, index), 3)
        truth, x = p.sample(key_pair)
        draws = weights.draw(key_q, q(x), num_draws)
        leaves, structure = jax.tree.flatten(truth)
        keys = jax.tree.unflatten(structure, list(jax.random.split(key_ties, len(leaves))))
        return jax.tree.map(rank, keys, truth, draws)

    ranks = map_points(one, jnp.arange(num_simulations), together)
    leaves, structure = jax.tree.flatten(ranks)
    each = zip(*(summarize(leaf, num_draws, num_bins) for leaf in leaves), strict=True)
    return Calibration(ranks, *(jax.tree.unflatten(structure, part) for part in each))


def rank(key: Key[Array, ""], truth: Array, draws: Array) -> Int[Array, "..."]:
    """The number of draws below the truth, with ties in random order."""
    below = (draws < truth[None]).sum(0)
    equal = (draws == truth[None]).sum(0)
    return below + jax.random.randint(key, truth.shape, 0, equal + 1)


def summarize(
    ranks: Int[Array, "M ..."], num_draws: int, num_bins: int
) -> tuple[Array, Array, Array, Array, Array]:
    """Counts, chi-square, p-value, mean and spread of one leaf."""
    num = ranks.shape[0]
    bins = ranks * num_bins // (num_draws + 1)
    counts: Float[Array, "B ..."] = jax.vmap(lambda b: (bins == b).sum(0))(jnp.arange(num_bins))
    expected = num / num_bins
    chi_square = ((counts - expected) ** 2).sum(0) / expected
    p_value = gammaincc(0.5 * (num_bins - 1), 0.5 * chi_square)
    share = (ranks + 0.5) / (num_draws + 1)
    uniform = (1 - 1 / (num_draws + 1) ** 2) / 12
    return counts, chi_square, p_value, share.mean(0), share.var(0, ddof=1) / uniform
