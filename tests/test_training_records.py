"""What a run writes for people, and the settings by which it is known again."""

import json
from functools import cached_property, partial
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from training_cases import GUIDE, KEY, MODEL, data, lines

from lvm_jax import training
from lvm_jax.training import progress
from lvm_jax.training.fingerprint import describe, differences, fingerprint
from lvm_jax.training.progress import Journal, rewind
from lvm_jax.training.step import Keys, Program, initialize


class Scale:
    """A function that is an object."""

    def __init__(self, scale):
        self.scale = scale

    @cached_property
    def squared(self):
        return self.scale**2

    def times(self, x):
        return self.scale * x

    __call__ = times


def test_functions_are_known_by_what_they_hold():
    def made(scale):
        return lambda x, power=scale: scale * x**power

    def held(value):
        return json.dumps(describe(value))

    def chained(rate, every=1):
        optimizer = optax.chain(optax.clip(1.0), optax.adam(rate))
        return optax.MultiSteps(optimizer, every).gradient_transformation()

    def deep(scale):
        inner = made(scale)
        for _ in range(20):
            inner = partial(lambda x, function: function(x), function=inner)
        return inner

    pairs = [
        (made(1.0), made(2.0)),
        (deep(1.0), deep(2.0)),
        (chained(1e-3), chained(2e-3)),
        (chained(1e-3, 2), chained(1e-3, 3)),
        (Scale(1.0), Scale(2.0)),
        (Scale(1.0).times, Scale(2.0).times),
        (np.float32(1.0), np.float32(2.0)),
        (float("nan"), 1.0),
        (partial(made, scale=1.0), partial(made, scale=2.0)),
        (jax.jit(made(1.0)), jax.jit(made(2.0))),
        ([{"a": np.ones(3)}], [{"a": np.zeros(3)}]),
        (optax.linear_schedule(0.0, 1.0, 10), optax.linear_schedule(0.0, 1.0, 20)),
    ]
    for one, other in pairs:
        assert held(one) == held(one) != held(other)
    assert held(made(1.0)) == held(made(1.0))


def test_recursive_functions_are_described_without_cached_values():
    def factorial(n):
        return n * factorial(n - 1) if n else 1

    assert "itself" in json.dumps(describe(factorial))
    used = Scale(2.0)
    before = describe(used)
    assert used.squared == 4.0
    assert describe(used) == before


def test_another_key_learning_rate_and_precision_are_seen():
    def marks(key, rate):
        objective = training.kl_warmup(0.5)
        program = Program(
            *(
                training.Separate(MODEL, GUIDE),
                objective,
                2,
                optax.adam(rate),
                10,
                None,
                None,
            )
        )
        state = initialize(program, Keys(*[KEY] * 5), None)
        return fingerprint(program, key, state, data(), None, {})

    def changed(key, rate):
        found = differences(marks(KEY, 1e-3), marks(key, rate))
        return [text.partition(":")[0] for text in found]

    assert changed(KEY, 1e-3) == []
    assert changed(jax.random.key(1), 1e-3) == ["key"]
    assert changed(KEY, 2e-3) == ["optimizer"]
    before = marks(KEY, 1e-3)
    with jax.default_matmul_precision("tensorfloat32"):
        seen = differences(before, marks(KEY, 1e-3))
    assert seen == ["jax_default_matmul_precision: None then, tensorfloat32 now"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's device that is always full")
def test_metrics_on_a_full_disk_are_an_error_too(tmp_path):
    journal = Journal(tmp_path, 0)
    journal._path = Path("/dev/full")
    with pytest.raises(OSError, match=r"cannot write \(No space left on device\); free some space"):
        journal.write({"step": 1, "bound": 0.5})


def test_a_journal_is_rewound_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 4}\n{"step": 8}\n{"step": 12}\n{"st')
    rewind(path, 12)
    assert path.read_text() == '{"step": 4}\n{"step": 8}\n{"step": 12}\n'
    rewind(path, 8)
    assert path.read_text() == '{"step": 4}\n{"step": 8}\n'
    rewind(tmp_path / "absent", 8)


def test_a_journal_writes_null_for_what_is_not_finite(tmp_path):
    Journal(tmp_path / "new", 0).write({"step": 4, "bound": np.float64(0.5), "speed": float("nan")})
    assert lines(tmp_path / "new") == [{"step": 4, "bound": 0.5, "speed": None}]


def test_the_speed_leaves_out_the_first_call(monkeypatch):
    """Rows per second since the end of the call that compiles; not known before a second one."""
    clock = iter([100.0, 108.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    meter = progress.Meter()
    meter.add(1_000)
    assert np.isnan(meter.speed())
    meter.add(24)
    meter.add(16)
    assert meter.speed() == 5.0
