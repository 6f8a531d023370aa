"""The programs behind lvm_jax.decomposition, compiled at low effort: each of them runs once or twice."""

from importlib import import_module

import pytest
from model_cases import quick_jit

PROGRAMS = (
    ("_core.batching", "_for_points"),
    ("decomposition.aggregate", "_surgery"),
    ("decomposition.calibration", "_calibrate"),
)


@pytest.fixture(scope="module", autouse=True)
def quick_programs():
    with pytest.MonkeyPatch.context() as patch:
        for name, program in PROGRAMS:
            module = import_module(f"lvm_jax.{name}")  # not the function of that name
            kept = getattr(module, program)
            quick = quick_jit(kept.function, static_argnums=kept.static_argnums)
            patch.setattr(module, program, quick)
        yield
