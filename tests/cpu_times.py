"""A pytest plugin that lists the tests that `make check` leaves out, by their CPU time.

`make slow` writes tests/slow.txt: the test functions that take over LIMIT seconds of CPU time, over all
of their parameters and with the processes that they start, and the files whose fixtures do. Run it
with a warm compilation cache. CPU time, because other work on the machine does not change it.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

LIMIT = 0.2
SLOW = Path(__file__).with_name("slow.txt")


def slow_names() -> set[str]:
    """The names in slow.txt: test_file.py or test_file.py::test_function."""
    return set(SLOW.read_text(encoding="utf-8").split())


def function_name(nodeid: str) -> str:
    """test_file.py::test_function of tests/test_file.py::test_function[parameters]."""
    return nodeid.partition("[")[0].removeprefix("tests/")


def is_slow(nodeid: str, slow: set[str]) -> bool:
    """Whether the test or its file is listed."""
    name = function_name(nodeid)
    return name in slow or name.partition("::")[0] in slow


def cpu_seconds() -> float:
    """CPU time of this process and of those that it has started and waited for."""
    times = os.times()
    return sum(times[:4])


class Times:
    """CPU seconds of each test function, and of the fixtures of each file."""

    def __init__(self) -> None:
        self.tests: Counter[str] = Counter()
        self.fixtures: Counter[str] = Counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        """Time what a file's fixtures take."""
        start = cpu_seconds()
        yield
        self.fixtures[function_name(item.nodeid).partition("::")[0]] += cpu_seconds() - start

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Time a test without its fixtures."""
        start = cpu_seconds()
        yield
        self.tests[function_name(item.nodeid)] += cpu_seconds() - start

    def pytest_sessionfinish(self) -> None:
        """Write slow.txt."""
        files = {name for name, seconds in self.fixtures.items() if seconds > LIMIT}
        tests = {name for name, seconds in self.tests.items() if seconds > LIMIT}
        names = files | {name for name in tests if name.partition("::")[0] not in files}
        SLOW.write_text("".join(f"{name}\n" for name in sorted(names)), encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    """--write-slow."""
    parser.addoption("--write-slow", action="store_true", help="write tests/slow.txt")


def pytest_configure(config: pytest.Config) -> None:
    """Measure if the option is set."""
    if config.getoption("--write-slow"):
        config.pluginmanager.register(Times())
