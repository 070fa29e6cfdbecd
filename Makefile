# Each target sets up what it needs; bin/setup is free when nothing changed.
PYTHON := .venv/bin/python
.DEFAULT_GOAL := run
.PHONY: setup run test demo clean

setup: ## make .venv for this machine's device
	@bin/setup

run: setup ## the quick start: sample, label, pair, report
	@$(PYTHON) -m pipeline run

test: setup ## what CI runs: lint, types, tests; all three, so that one run tells everything
	@failed=; \
	$(PYTHON) -m ruff check . || failed="$$failed ruff"; \
	$(PYTHON) -m mypy || failed="$$failed mypy"; \
	$(PYTHON) -m pytest -n logical --dist loadfile || failed="$$failed pytest"; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

demo: setup ## the whole loop: pipeline, trainer, and what it changed
	@$(PYTHON) examples/demo.py

clean: ## remove what the targets above made, the environment too
	rm -rf .venv .tools runs demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
