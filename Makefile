# Every target makes its own .venv from pyproject.toml when there is none.
PYTHON ?= python3
# Every process of the tests would compile the sources anew where this is set.
export PYTHONDONTWRITEBYTECODE =
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo check slow test test-peers lint docs figures bench dist test-floors test-newest clean

demo: .venv/.experiments
	.venv/bin/python -m experiments gmm_em --data old_faithful --search EEE VVE VEE VVV --out runs/demo-old-faithful --overwrite
	.venv/bin/python -m experiments gmm_em --data three_clusters --search none --out runs/demo-clusters --overwrite

# For the inner loop: the quick tests, with a warm compilation cache (.jax_cache).
check: lint
	.venv/bin/python -m pytest -n 2 --dist loadfile -q -m "not slow and not experiments"

# Measures which tests `check` leaves out, and writes tests/slow.txt. By hand, on an idle machine.
slow: .venv/.test
	PYTHONPATH=tests .venv/bin/python -m pytest -q -p cpu_times --write-slow -m "not experiments"

test: lint
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/.test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# By hand: scikit-learn's own tests of its mixtures against ours, all in one process.
test-peers: .venv/.test
	.venv/bin/python -m pytest -q tests/peer_sklearn_mixture.py tests/peer_sklearn_bayesian_mixture.py

# By hand: a slice of the tests at the lowest versions that pyproject.toml declares, and at the newest.
# Old packages warn of newer ones: DeprecationWarning is no error there.
SLICE = $(addprefix tests/test_,annealing.py data_store.py data_tables.py distributions.py em_fit.py \
	evidence.py experiments_cli.py extras.py gradients_discrete.py models_streaming.py networks.py \
	plotting.py report.py report_run.py sklearn.py training.py training_checkpoint.py training_saved.py)

test-floors:
	test -x .venv-floors/bin/python || $(PYTHON) -m venv .venv-floors
	.venv-floors/bin/python .ci/floors.py > .venv-floors/constraints.txt
	.venv-floors/bin/python -m pip install --quiet --constraint .venv-floors/constraints.txt --editable '.[test]'
	.venv-floors/bin/python -m pip check
	.venv-floors/bin/python -m pytest -n 2 --dist loadfile -W ignore::DeprecationWarning $(SLICE)

test-newest:
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[test]'
	.venv-newest/bin/python -m pytest -n 2 --dist loadfile $(SLICE)

# The source archive and the wheel, in dist/, and the tests of the archive from a folder of its own.
dist:
	rm -rf dist .venv-dist
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet build
	.venv-dist/bin/python -m build
	mkdir .venv-dist/source && tar xzf dist/lvm_jax-*.tar.gz -C .venv-dist/source --strip-components 1
	.venv-dist/bin/python -m pip install --quiet "$$(ls dist/*.whl)[test]"
	cd .venv-dist/source && ../bin/python -m pytest tests/test_docs.py tests/test_report.py tests/test_startup.py

# The site, in site/: site/index.html opens from disk. A warning fails.
docs: .venv/.docs
	.venv/bin/python -m mkdocs build --strict

# By hand: the figures of docs/, by the pages that show them. PAGES names some: make figures PAGES=mixtures.
figures: .venv/.docs
	.venv/bin/python -m docs._site.figures $(PAGES)

bench: .venv/.benchmarks
	.venv/bin/python -m benchmarks.em
	.venv/bin/python -m benchmarks.em_stream
	.venv/bin/python -m benchmarks.em_mixed
	.venv/bin/python -m benchmarks.em_families
	.venv/bin/python -m benchmarks.em_variational
	.venv/bin/python -m benchmarks.bounds
	.venv/bin/python -m benchmarks.training
	.venv/bin/python -m benchmarks.evaluation
	.venv/bin/python -m benchmarks.evidence
	.venv/bin/python -m benchmarks.vi --targets breast_cancer funnel eight_schools wells
	.venv/bin/python -m benchmarks.startup
	.venv/bin/python -m benchmarks.latency
	.venv/bin/python -m benchmarks.coverage
	.venv/bin/python -m benchmarks.vi_coverage

clean:
	rm -rf .jax_cache .venv .venv-dist .venv-floors .venv-newest dist site

.venv/.%: pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[$*]'
	touch $@
