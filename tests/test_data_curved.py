"""Curved data sets: their densities integrate to one and belong to their samplers."""

import numpy as np
import pytest

from lvm_jax import data

WINDOWS = {  # where almost all of the mass is
    "banana": ((-6.0, -2.0), (6.0, 30.0)),
    "moons": ((-1.7, -1.2), (2.7, 1.7)),
    "pinwheel": ((-3.5, -3.5), (3.5, 3.5)),
}


@pytest.mark.parametrize("name", data.CURVED)
def test_known_densities_integrate_to_one_and_are_their_samplers(name):
    num = 120
    low, high = (np.array(corner) for corner in WINDOWS[name])
    axes = [low[i] + (np.arange(num) + 0.5) / num * (high - low)[i] for i in (0, 1)]
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes)], axis=1)
    mass = np.exp(data.CURVED[name].log_density(points)) * np.prod((high - low) / num)
    assert mass.sum() == pytest.approx(1, abs=2e-3)
    x = data.curved(name, 20_000, 0).x
    for power in (1, 2):  # two moments of the draws are those of the density
        want = mass @ points**power
        error = (x**power).std(0) / np.sqrt(len(x))
        assert (np.abs((x**power).mean(0) - want) < 5 * error + 2e-3 * np.abs(want)).all()


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="name: expected one of .*; did you mean 'moons'"):
        data.curved("moon", 10, 0)
