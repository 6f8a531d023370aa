# Every target makes its own .venv from pyproject.toml when there is none.
PYTHON ?= python3
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint bench clean

demo: .venv/.experiments
	.venv/bin/python -m experiments gmm_em --data old_faithful --out runs/demo-old-faithful --overwrite
	.venv/bin/python -m experiments gmm_em --data lecture --out runs/demo-lecture --overwrite

test: lint
	.venv/bin/python -m pytest -n 2 --dist loadfile

lint: .venv/.test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: .venv/.benchmarks
	.venv/bin/python -m benchmarks.em
	.venv/bin/python -m benchmarks.bounds
	.venv/bin/python -m benchmarks.training
	.venv/bin/python -m benchmarks.evaluation
	.venv/bin/python -m benchmarks.evidence
	.venv/bin/python -m benchmarks.startup

clean:
	rm -rf .venv

.venv/.%: pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[$*]'
	touch $@
