"""The programs behind lvm_jax.decomposition, compiled at low effort: each of them runs once or twice."""

from importlib import import_module

import pytest
from model_cases import quick_jit

# module and program: the first static argument, and how many arguments there are
PROGRAMS = {
    ("decomposition.local", "_fit"): (4, 13),
    ("decomposition.gaps", "_weigh"): (4, 9),
    ("decomposition.aggregate", "_surgery"): (4, 9),
    ("decomposition.calibration", "_calibrate"): (3, 9),
    ("decomposition.rate_distortion", "_channel"): (4, 8),
    ("decomposition.rate_distortion", "_curves"): (4, 9),
    ("evidence.dataset", "_evaluate"): (4, 8),
    ("diagnostics", "_posterior_means"): (3, 5),
}


@pytest.fixture(scope="module", autouse=True)
def quick_programs():
    with pytest.MonkeyPatch.context() as patch:
        for (name, program), (first, number) in PROGRAMS.items():
            module = import_module(f"lvm_jax.{name}")  # not the function of that name
            plain = getattr(module, program).__wrapped__
            static = tuple(range(first, number))
            patch.setattr(module, program, quick_jit(plain, static_argnums=static))
        yield
