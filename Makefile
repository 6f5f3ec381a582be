# Everything runs in .venv, which these targets make themselves.
# PYTHON   the interpreter to build it from (3.11 or newer)
# PIP_ARGS extra arguments for pip, such as an index with CPU-only wheels of torch

PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
DEMO := demo

.PHONY: install demo test check accuracy test-slow faults test-consumers bench docs lock clean

install: .venv/installed

.venv/installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=python3.11 ...")'
	@echo "==> making .venv (two to five minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c requirements.lock -e '.[dev,docs]'
	@touch $@

demo: install
	@echo "==> a phantom dataset: 3 participants, 2 runs each, true motion and warps beside it"
	rm -rf $(DEMO)
	$(BIN)/neurostorm-tools phantom $(DEMO)/bids --participants 3 --runs 2 --volumes 70 --seed 1
	@echo "==> participant level: preprocessing, embeddings, one report a participant"
	$(BIN)/neurostorm-app $(DEMO)/bids $(DEMO)/out participant --models connectome neurostorm-demo brainlm-demo
	@echo "==> group level: table, index, report"
	$(BIN)/neurostorm-app $(DEMO)/bids $(DEMO)/out group
	$(BIN)/neurostorm-app $(DEMO)/bids $(DEMO)/out participant --reports-only
	@echo "==> nearest runs to the first one"
	$(BIN)/neurostorm-tools query $(DEMO)/out --like sub-01_task-rest_run-1 -k 3
	@echo
	@echo "Subject report: $(CURDIR)/$(DEMO)/out/sub-01.html"
	@echo "Group report:   $(CURDIR)/$(DEMO)/out/group.html"

test: install check
	@echo "==> tests"
	$(BIN)/python -m pytest -n 2 --dist loadfile
	@echo "==> doctests"
	$(BIN)/python -m pytest --doctest-modules --pyargs neurostorm_app -p no:cacheprovider
	@echo "==> the wheel, away from the checkout"
	scripts/check-wheel.sh $(BIN)/python

check: install
	@echo "==> style, types, contracts between the layers, docstrings"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright $$(find -L src/neurostorm_app -name '*.py')
	$(BIN)/lint-imports
	$(BIN)/numpydoc lint $$(find -L src/neurostorm_app -name '*.py')

# Every accuracy against truth and against other tools, printed.
accuracy: test-slow test-consumers

test-slow: install
	$(BIN)/python -m pytest -m slow -s --timeout 3600

# What is done to the app on purpose: bad inputs, kills, full disks, lost workers and nodes. A table of
# all bad inputs and one of all faults are printed, and what was skipped and why; less than half an hour
# on two idle cores. The order is that of tests/faults/conftest.py: the longest files first.
faults: install
	$(BIN)/python -m pytest -m "slow or not slow" -rs -n 2 --dist loadfile --no-loadscope-reorder \
		--timeout 3600 tests/faults

# The packages that read our folders, and fMRIPrep's own confounds beside ours, in environments of
# their own (.venv-consumers, .venv-consumers-xcpd). NEUROSTORM_TREE=DIR: a folder made before.
test-consumers: install
	PYTHON="$(PYTHON)" PIP_ARGS="$(PIP_ARGS)" tests/consumers/run.sh $(BIN)/python

bench: install
	for b in benchmarks/bench_*.py; do $(BIN)/python $$b; done

docs: install
	$(BIN)/python -m mkdocs build --strict

lock:
	$(BIN)/python -m pip freeze --exclude-editable | grep -v -i -e '^pip==' -e '^setuptools==' | sed 's/+cpu//' > requirements.lock

clean:
	rm -rf .venv .venv-consumers .venv-consumers-xcpd build dist site $(DEMO)
