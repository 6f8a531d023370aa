"""Strictness for every test: no silent broadcasting of ranks, and both precisions on demand."""

from collections.abc import Iterator

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield
