"""Curvature along a direction, against the Hessian of a quadratic form and of a known function."""

import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax.problems import curvature

MATRIX = np.array([[2.0, 0.5, 0.0], [0.5, -1.0, 0.3], [0.0, 0.3, 0.7]])


def quadratic(at, matrix):
    return 0.5 * at @ matrix @ at


def test_a_quadratic_form_has_its_matrix_for_a_hessian():
    at, way = np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.4, -1.2])
    found, unit = curvature.along(quadratic, at, way, MATRIX), way / np.linalg.norm(way)
    value = unit @ MATRIX @ unit
    assert found.slope == pytest.approx(np.abs(MATRIX @ at).max(), rel=1e-14)
    assert found.value == pytest.approx(value, rel=1e-14)
    residual = np.linalg.norm(MATRIX @ unit - value * unit) / abs(value)
    assert found.residual == pytest.approx(residual, rel=1e-12)
    assert curvature.along(quadratic, at, 7 * way, MATRIX) == pytest.approx(found, rel=1e-12)


def test_an_eigenvector_has_its_eigenvalue_and_no_residual():
    values, vectors = np.linalg.eigh(MATRIX)
    for value, vector in zip(values, vectors.T, strict=True):
        found = curvature.along(quadratic, np.zeros(3), vector, MATRIX)
        assert found.value == pytest.approx(value, rel=1e-12)
        assert (found.slope, found.residual) == pytest.approx((0, 0), abs=1e-14)


def wave(at):
    return jnp.sin(at["x"]) * jnp.exp(at["y"])


def test_pytrees_are_one_vector():
    at, way = (
        {"x": np.float64(0.4), "y": np.float64(-0.3)},
        {"x": np.float64(1), "y": np.float64(2)},
    )
    sin, cos, grown = np.sin(0.4), np.cos(0.4), np.exp(-0.3)
    want = (-sin + 4 * cos + 4 * sin) * grown / 5
    assert curvature.along(wave, at, way).value == pytest.approx(want, rel=1e-14)


def test_a_direction_without_length_is_refused():
    with pytest.raises(ValueError, match="direction: expected a nonzero vector"):
        curvature.along(quadratic, np.ones(3), np.zeros(3), MATRIX)
