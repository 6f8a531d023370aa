"""The normaliser and the mean resultant length of von Mises-Fisher distributions, in D dimensions.

Both are functions of the modified Bessel functions I_v, v = D / 2 - 1, at the concentration kappa.
They start from Debye's uniform expansion (DLMF 10.41.3) at the order M = v + m >= ORDER, and step
down by q_{i-1} = 1 / (2 i + kappa^2 q_i), q_i = I_{i+1} / (kappa I_i), a recurrence that is stable
downwards. No term overflows, for any D and kappa.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from lvm_jax.typing import Array

ORDER = 40.0  # with four terms of the expansion the relative error is below 1e-10
# U_k(p) of DLMF 10.41.10: numerators by powers of p^2 after the factor p^k, and denominators.
DEBYE = (
    ((3.0, -5.0), 24.0),
    ((81.0, -462.0, 385.0), 1152.0),
    ((30375.0, -369603.0, 765765.0, -425425.0), 414720.0),
    ((4465125.0, -94121676.0, 349922430.0, -446185740.0, 185910725.0), 39813120.0),
)


def correction(kappa: Array, order: float) -> Array:
    """log sum_k U_k(p) / order^k - log(root) / 2 of DLMF 10.41.3, p = order / root."""
    root = jnp.sqrt(order**2 + kappa**2)
    square = (order / root) ** 2
    total = jnp.zeros_like(kappa)
    for power, (terms, below) in enumerate(DEBYE, 1):
        value = jnp.zeros_like(kappa)
        for term in reversed(terms):
            value = value * square + term
        total = total + value / below / root**power
    return jnp.log1p(total) - 0.5 * jnp.log(root)


def steps_down(dim: int) -> tuple[float, int]:
    """M and m for D dimensions."""
    order = 0.5 * dim - 1
    number = max(0, math.ceil(ORDER - order))
    return order + number, number


def log_normalizer(kappa: Array, dim: int) -> Array:
    """log C_D(kappa) + kappa, with C_D = kappa^v / ((2 pi)^(D/2) I_v(kappa)), v = D / 2 - 1."""
    top, number = steps_down(dim)
    root = jnp.sqrt(top**2 + kappa**2)
    # kappa - log I_M + M log kappa
    value = top * jnp.log(top + root) - top**2 / (root + kappa) - correction(kappa, top)
    value = value + 0.5 * math.log(2 * math.pi)
    q = (
        1
        + jax.jvp(lambda k: correction(k, top), (kappa,), (jnp.ones_like(kappa),))[1]
        * (top + root)
        / jnp.where(kappa > 0, kappa, 1)
    ) / (top + root)

    def body(i: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        value, q = carry
        q = 1 / (2 * (top - i) + kappa**2 * q)
        return value + jnp.log(q), q

    value, _ = jax.lax.fori_loop(0, number, body, (value, q))
    return value - 0.5 * dim * math.log(2 * math.pi)


def shortfall(kappa: Array, dim: int) -> Array:
    """1 - A_D(kappa), where A_D = I_{D/2} / I_{D/2-1} is the mean resultant length."""
    top, number = steps_down(dim)
    root = jnp.sqrt(top**2 + kappa**2)
    slope = jax.jvp(lambda k: correction(k, top), (kappa,), (jnp.ones_like(kappa),))[1]
    start = (top + top**2 / (root + kappa)) / (top + root) - slope

    def body(i: Any, gap: Array) -> Array:
        twice = 2 * (top - i)  # 2 v / kappa, multiplied by kappa
        below = twice + kappa * (1 - gap)
        return (twice - kappa * gap) / below

    return jax.lax.fori_loop(0, number, body, start)
