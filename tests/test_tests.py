"""The set-up of the tests: annotations are checked, and slow tests are listed."""

import re
from pathlib import Path

import cpu_times
import jax.numpy as jnp
import jaxtyping
import pytest
import typecheck

from lvm_jax import bounds
from lvm_jax.data import binarize


def fail(value):
    raise ValueError(value)


def test_annotations_are_checked_but_where_an_error_is_expected():
    wrong = [(bounds.elbo, "a"), (bounds.elbo, jnp.zeros((2, 3)))]
    wrong.append((binarize.threshold, 3))  # of a type imported for type checkers alone
    for function, value in wrong:
        caught = None
        try:
            function(value)
        except jaxtyping.TypeCheckError as error:
            caught = str(error)
        assert f"parameters of {function.__module__}.{function.__name__}" in caught
    with pytest.raises(ValueError, match="^True$"):
        fail(jaxtyping.config.jaxtyping_disable)
    assert not jaxtyping.config.jaxtyping_disable
    with typecheck.unchecked():
        assert float(bounds.elbo(jnp.array([2, 4]))) == 3.0  # integers are no Float


def test_every_slow_test_exists():
    for name in cpu_times.slow_names():
        file, _, function = name.partition("::")
        text = (Path(__file__).parent / file).read_text(encoding="utf-8")
        assert not function or re.search(rf"^def {function}\(", text, re.M), name


def test_a_slow_name_is_a_file_or_all_parameters_of_a_function():
    slow = {"test_a.py", "test_b.py::test_one"}
    assert cpu_times.is_slow("tests/test_a.py::test_any[x]", slow)
    assert cpu_times.is_slow("tests/test_b.py::test_one[x-[1]]", slow)
    assert not cpu_times.is_slow("tests/test_b.py::test_one_more", slow)
