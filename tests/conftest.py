"""Strictness for every test: no silent broadcasting of ranks, and both precisions on demand."""

import gc
import io
import os
import signal
from collections import Counter
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

# Compiled programs stay in a folder that git ignores, for the next run and for the processes that
# tests start: JAX reads these variables when it is imported. Their writing costs no measurable time.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# No test reads the source locations in a program.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

# Tracing allocates much and leaves few cycles: they are collected after each file.
gc.disable()

import cpu_times
import quick
import typecheck

typecheck.install()  # before lvm_jax is imported

import jax
import pytest

from lvm_jax import compiling

quick.install()
jax.config.update("jax_numpy_rank_promotion", "raise")

MANY_MAPS = 20_000  # of memory, which compiled programs hold; Linux allows 65,530

# To count them takes 1 us for each, twice for each program: they are counted after each file.
count_maps = compiling.count_maps
compiling.count_maps = wraps(count_maps)(lambda: 0)
compiling.ASSUMED_MAPS = 120  # so that 50 programs of 800 maps stay below the limit


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what `make check` leaves out: slow.txt, and the tests that import an experiment.

    In parallel processes the files with most slow tests come first, so that they end together.
    """
    slow = cpu_times.slow_names()
    for item in items:
        if cpu_times.is_slow(item.nodeid, slow):
            item.add_marker("slow")
        if imports_an_experiment(item.module):
            item.add_marker("experiments")
    if hasattr(config, "workerinput"):  # of pytest-xdist
        tests = Counter(item.path for item in items)
        slow_tests = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: (-slow_tests[item.path], -tests[item.path], item.path))


def imports_an_experiment(module: ModuleType) -> bool:
    """Whether a test file uses something of the experiments."""
    return any(package_of(value) == "experiments" for value in vars(module).values())


def package_of(value: object) -> str:
    """The top-level package of a module, a function or a class; "" for another value."""
    name = getattr(value, "__module__", None) or getattr(value, "__name__", "")
    return name.partition(".")[0] if isinstance(name, str) else ""


def pytest_collection_finish() -> None:
    typecheck.recognize()
    gc.freeze()  # no collection visits what was imported


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unchecked() -> Iterator[None]:
    """For a test in which another library passes wrong arguments on purpose."""
    with typecheck.unchecked():
        yield


@pytest.fixture(autouse=True)
def check_annotations_of_quick_tests_alone(request: pytest.FixtureRequest) -> Iterator[None]:
    """Slow tests run without the check of annotations, which costs a tenth of their time."""
    if request.node.get_closest_marker("slow"):
        with typecheck.unchecked():
            yield
    else:
        yield


@pytest.fixture
def without_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates without chains from draws (tests/test_evidence_tails.py): one program fewer."""
    import numpy as np

    from lvm_jax.evidence import beyond

    monkeypatch.setattr(beyond, "compile_ahead", lambda *_: None)
    monkeypatch.setattr(beyond, "extend", lambda run, *_: np.zeros(run.num_points, int))


def skip_refining(patch: pytest.MonkeyPatch) -> None:
    from lvm_jax.vi import quality

    def refine(key: Any, q: Any, task: Any, first: Any, budget: int) -> quality.Measured:
        return quality.Measured(first.importance, q, 0)

    patch.setattr(quality, "refine", refine)
    patch.setattr(quality, "compile_ahead", lambda *_: None)


@pytest.fixture
def unrefined(monkeypatch: pytest.MonkeyPatch) -> None:
    """`vi.fit` with the evidence of q's own draws, without the chains and ascents that check it
    (tests/test_vi_quality.py): half of the programs.
    """
    skip_refining(monkeypatch)


@pytest.fixture(scope="module")
def unrefined_file() -> Iterator[None]:
    """`unrefined` in a whole file, with its fixtures."""
    with pytest.MonkeyPatch.context() as patch:
        skip_refining(patch)
        yield


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Python's own handler: a shell starts what it puts into the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> compiling.Store:
    """A store of compiled programs of this test's own, which starts empty and counts their maps."""
    own = compiling.Store(compiling.MAX_MAPS)
    monkeypatch.setattr(compiling, "count_maps", count_maps)
    monkeypatch.setattr(compiling, "STORE", own)
    return own


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """Release compiled programs when a file ends and they hold many memory maps.

    A file that left float64 switched on would make those after it fail.
    """
    yield
    assert not jax.config.read("jax_enable_x64")
    if count_maps() > MANY_MAPS:
        compiling.STORE.clear()
        jax.clear_caches()
        gc.unfreeze()
    gc.collect()
    gc.freeze()  # the next collection does not visit what is kept


@pytest.fixture(scope="module")
def result(finished: Any) -> Any:
    """The result of a file's run of an experiment."""
    return finished.result


@pytest.fixture(autouse=True, scope="module")
def quick_experiments(request: pytest.FixtureRequest) -> Iterator[None]:
    """For runs of experiments: no check of annotations, as in slow tests; small figures, few ticks."""
    if not imports_an_experiment(request.module):
        yield
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from lvm_jax import plotting

    def png(figure: Any) -> bytes:
        figure.set_layout_engine("none")  # a layout draws the figure twice more
        figure.set(dpi=30, size_inches=figure.get_size_inches() / 3)
        for ax in figure.axes:
            ax.minorticks_off()
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer)
        return buffer.getvalue()

    with pytest.MonkeyPatch.context() as patch, typecheck.unchecked():
        patch.setattr(plotting, "png", png)
        yield
