# Two commands for a fresh machine with Python (3.11 or newer) and make:
#   make demo    the shop under opentelemetry-instrument, a load on it, then the report
#   make test    everything that CI checks
# Environments are kept in ~/.cache/otel-perf (see tools/environments.py) and made when they are missing.

PYTHON ?= python3
# Where it is set, each of the hundreds of programs that the tests start compiles all that it imports.
export PYTHONDONTWRITEBYTECODE :=
ENVIRONMENT = $(PYTHON) tools/environments.py
DEV = $$($(ENVIRONMENT) dev)/bin

.PHONY: help demo test coverage test-all check fix docs site pictures bench soak watch-library clean collector dashboards

help:
	@grep -E '^#   make' Makefile | sed 's/^#   //'

demo:
	@$$($(ENVIRONMENT) shop)/bin/python -m examples.shop.demo

# Three at a time, each file in one process: most of the tests wait for programs that they started. Those that judge what
# is slow are by themselves.
test: check site
	$(DEV)/python -m pytest -n 3 --dist loadfile --durations=25 -m "not soak and not alone"
	$(DEV)/python -m pytest --durations=10 -m "alone and not soak"

# The same with what was run, by line and branch: 95 % at least. Not in CI: it takes half of the CPU's time again in every
# program that is started, and a thread that has coverage's lock while another forks leaves it locked in the child.
coverage: check
	$(DEV)/python -m coverage erase
	$(DEV)/python -m coverage run -m pytest -n 2 --dist loadfile -m "not soak and not alone"
	$(DEV)/python -m coverage run -m pytest -m "alone and not soak"
	$(DEV)/python -m coverage combine -q
	$(DEV)/python -m coverage report --fail-under=95

# Style, types and import rules; seconds.
check:
	$(DEV)/ruff check .
	$(DEV)/ruff format --check .
	$(DEV)/mypy
	$(DEV)/lint-imports

fix:
	$(DEV)/ruff check --fix .
	$(DEV)/ruff format .

# The real OpenTelemetry Collector, built from modules where Go is; prints the path of the binary.
collector:
	@$(PYTHON) tools/collector.py

# The documents that are generated from the code.
docs:
	$(DEV)/python -m tools.documents

# Grafana's dashboards, from grafana/, and the list of their queries.
dashboards:
	$$($(ENVIRONMENT) grafana)/bin/python -m grafana.dashboards
	$(DEV)/python -m tools.documents

# The documents as a site in build/site; a warning is an error.
site:
	$$($(ENVIRONMENT) docs)/bin/python -m sphinx -q -W --keep-going -b html docs build/site

# The README's pictures, of the demo's store: the page in Chromium, the report as a terminal shows it.
pictures:
	$(DEV)/python -m tools.pictures

# The suite on every supported Python that is here, and on the newest OpenTelemetry set.
test-all:
	$(PYTHON) tools/test_all.py

bench:
	$(DEV)/python benchmarks/startup.py
	$(DEV)/python benchmarks/calls.py
	$(DEV)/python benchmarks/caches.py
	$(DEV)/python benchmarks/cleanup.py
	$(DEV)/python benchmarks/gc_pause.py
	$(DEV)/python benchmarks/processor.py
	$(DEV)/python benchmarks/detection.py
	$(DEV)/python benchmarks/localisation.py
	$(DEV)/python benchmarks/logs.py
	$(DEV)/python benchmarks/health.py
	$(DEV)/python benchmarks/requests.py
	$(DEV)/python benchmarks/audit.py
	$(DEV)/python benchmarks/signals.py
	$(DEV)/python benchmarks/store.py
	$(DEV)/python benchmarks/backlog.py
	$(DEV)/python benchmarks/compare.py
	$(DEV)/python benchmarks/view.py
	$(DEV)/python benchmarks/delivery.py
	$(DEV)/python benchmarks/pipeline.py --sizing

# The test-suites of real libraries, plain, under us, and with the whole library watched.
watch-library:
	$(PYTHON) tools/watch_library.py

# What takes minutes and gigabytes.
soak:
	$(PYTHON) tools/engine.py $(DEV)/python -m pytest -m soak

clean:
	rm -rf .coverage* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
