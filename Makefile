# make pilot   set everything up and see on four real hospitals whether lending heads pays
# make bench   methods on medical data, quickly, and speed; DFLMOE_DATA names the folder of data sets
# make bench-methods  the first of the two
# make bench-speed    the second: rounds and their parts beside plain loops, and many sites
# make bench-peers    our simulator beside Flower, fluke-fl, pfl and p2pfl, each in an environment of its own
# make demo    three hospitals as nodes of this machine, over mutual TLS
# make test    what every change must pass
# make test-faults  faults at every moment, where make test takes a sample
# make test-e2e     the commands as users run them, from keys to predictions
# make test-release  what is released: wheel, sdist and list of components in dist/, and the pilot from them
# make test-all     all four: everything that CI checks
# make test-gpu     on a machine that has one: a GPU computes what a CPU does
# make docs    the documentation, in build/docs
# make night   half an hour of faults drawn by chance, for five nodes
# make fuzz    two million spoilt documents: half of them by chance, half guided by the code reached
# make fluke   compare nine methods with those of fluke-fl, an outside package (docs/explanation/crosscheck.md)
# On a machine with a GPU, or to choose another build of PyTorch: make pilot TORCH=torch

PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Stories run as they do for users: nothing counts their lines or checks their shapes.
UNCHECKED := --override-ini addopts='-ra --strict-markers --strict-config --import-mode=importlib'

.PHONY: pilot demo bench bench-methods bench-speed bench-peers test test-faults test-e2e test-release docs test-all test-gpu night fuzz check fluke clean
.DEFAULT_GOAL := pilot

pilot: .venv/.pilot
	$(BIN)/dflmoe pilot --out runs/pilot

demo: .venv/.demo
	$(BIN)/dflmoe demo --out runs/demo

bench: bench-methods bench-speed

bench-methods: .venv/.bench
	$(BIN)/dflmoe bench run homogeneous --quick
	$(BIN)/dflmoe bench run heterogeneous --quick

# A benchmark imports what its conftest.py has: hence another import mode.
bench-speed: .venv/.test
	$(BIN)/pytest benchmarks/speed --benchmark-json=.venv/speed.json --benchmark-columns=median \
	  --override-ini addopts='-ra --strict-markers --strict-config'

bench-peers: .venv/.test .venv-peers/.done
	$(BIN)/python benchmarks/peers/compare.py --peers .venv-peers

# What can't be installed is in the table with the reason; delete .venv-peers/.done to try again.
.venv-peers/.done: benchmarks/peers/install.py
	$(PYTHON) benchmarks/peers/install.py .venv-peers --torch "$(TORCH)"
	@touch $@

test: .venv/.test check
	$(BIN)/pytest tests/unit tests/property --numprocesses 2 --dist worksteal \
	  --cov --cov-report=term --cov-report=json:.venv/coverage.json
	$(BIN)/python scripts/coverage_floor.py .venv/coverage.json
	$(BIN)/pytest tests/scenario tests/docs --ignore tests/scenario/test_processes.py \
	  --ignore tests/scenario/test_large.py --numprocesses 2 --dist worksteal $(UNCHECKED)

test-faults: .venv/.test
	$(BIN)/pytest tests/scenario/test_kill.py tests/scenario/test_faults.py \
	  tests/scenario/test_hostile.py tests/scenario/test_processes.py tests/scenario/test_large.py \
	  --numprocesses 2 --dist worksteal --all-faults $(UNCHECKED)

test-e2e: .venv/.test
	scripts/browser
	$(BIN)/pytest tests/e2e --numprocesses 2 --dist worksteal $(UNCHECKED)

test-release: .venv/.test
	scripts/dist $(BIN)/python "$(TORCH)"
	$(BIN)/pytest tests/release $(UNCHECKED)

test-all: test docs test-faults test-e2e test-release

# A warning is an error, and so is a link that leads nowhere.
docs: .venv/.test
	$(BIN)/sphinx-build -q -E -W --keep-going -b html docs build/docs
	@echo "The documentation: build/docs/index.html"

test-gpu: .venv/.test
	$(BIN)/pytest tests/gpu $(UNCHECKED)

night: .venv/.test
	$(BIN)/python -m tests.soak --minutes 30

fuzz: .venv/.test
	$(PIP) install --quiet --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz --runs 1000000
	DFLMOE_TRIES=75000 $(BIN)/pytest tests/property/test_documents.py --numprocesses 2 $(UNCHECKED)

check: .venv/.test
	$(BIN)/ruff format --check src tests scripts benchmarks
	$(BIN)/ruff check src tests scripts benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

fluke: .venv/.bench .venv-fluke/.done
	$(BIN)/python benchmarks/fluke/check.py --python .venv-fluke/bin/python

# fluke-fl asks for trackers and test tools that it does not need to train: hence --no-deps.
.venv-fluke/.done:
	$(PYTHON) -m venv .venv-fluke
	.venv-fluke/bin/pip install --quiet "$(TORCH)"
	.venv-fluke/bin/pip install --quiet --no-deps fluke-fl==0.8.1
	.venv-fluke/bin/pip install --quiet numpy pandas scikit-learn torchmetrics==1.9.0 rich psutil \
	  diskcache cerberus omegaconf seaborn
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "dflmoe needs Python 3.11 or newer; name one with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv

# PyTorch comes first and alone, so that the build at hand is taken and nothing pulls another.
.venv/.torch: .venv/bin/python
	$(PIP) install --quiet "$(TORCH)"
	@touch $@

.venv/.pilot: .venv/.torch pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[pilot]'
	@touch $@

.venv/.demo: .venv/.torch pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[pilot,node]'
	@touch .venv/.pilot $@

.venv/.bench: .venv/.torch pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[bench]'
	@touch .venv/.pilot $@

.venv/.test: .venv/.torch pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[bench,node,dev]'
	@touch .venv/.pilot .venv/.demo .venv/.bench $@

clean:
	rm -rf .venv .venv-fluke .venv-peers build dist runs src/*.egg-info
