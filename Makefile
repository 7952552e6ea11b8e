# The two main commands are "make run" and "make test".

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
TESTS ?= $$($(BIN)/python -m tests.fast --all)
# Tests wait more than they compute, so there are more workers than cores.
JOBS ?= $(shell echo $$(($$(nproc) * 2)))
TRIAL = $(BIN)/python -m tests.parallel -j $(JOBS) --random=0

.PHONY: help run test test-fast lint types docs screenshots check soak simulate chaos load fuzz lock dist compose-check clean

help:
	@echo "make run        run the whole service here, with a page to try it on (PORT=8080 ARGS='--set …')"
	@echo "make test       run the tests in parallel (TESTS=tests.web JOBS=4)"
	@echo "make test-fast  run the tests that start no other program"
	@echo "make check      run the tests, the linters, the type checks and make docs"
	@echo "make docs       build the documentation as a site, in site/"
	@echo "make man        write the manual page of fxprofile-admin"
	@echo "make soak       upload while processes are killed (UPLOADS=2000)"
	@echo "make simulate   run many simulated worlds of the whole service (SEEDS=10000 FIRST=0)"
	@echo "make chaos      inject faults between the service and its servers (CASES=S3=hang FAULT_SECONDS=10)"
	@echo "make load       attack the service, and measure how long others wait (ATTACKS=monogram)"
	@echo "make fuzz       fuzz the parsers, and crunch damaged images (TARGETS=png SECONDS=60 MUTANTS=100000)"
	@echo "make screenshots  take the pictures of the page in docs/images"
	@echo "make lock       update the exact versions and their hashes in requirements*.lock"
	@echo "make dist       build the wheel and the sdist in dist/, and try the wheel"
	@echo "make compose-check  start what etc/containers/compose.yaml describes as plain processes, and upload a picture"
	@echo "make clean      remove what these commands have made, except var/"

# The files of an installation: a change to any of them installs the package again.
SOURCES = $(shell find fxprofile twisted -type f ! -name '*.pyc' ! -name dropin.cache)

$(VENV)/ready: requirements.lock setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; name one with PYTHON=…"; exit 1; }
	@echo "Creating $(VENV), and installing what the service needs"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -r requirements.lock
	@touch $@

$(VENV)/installed: $(VENV)/ready $(SOURCES)
	@echo "Installing fxprofile"
	@rm -rf build
	@$(PIP) install --quiet --no-deps --force-reinstall .
	@touch $@

$(VENV)/ready-for-tests: requirements-dev.lock $(VENV)/ready | $(VENV)/installed
	@$(PIP) install -r requirements-dev.lock
	@touch $@

# With a PORT, the images and the metrics have the next ports, in the order of the defaults.
run: listen = --set=$(1).listen=tcp:$$(($(PORT) + $(2))):interface=127.0.0.1
run: $(VENV)/installed
	@echo "The tokens of the accounts are alice and bob. All data is in var/. Ctrl-C stops the service."
	$(BIN)/twistd -n fxprofile $(if $(PORT),$(call listen,web,0) $(call listen,images,1) \
		$(call listen,admin,3)) $(ARGS)

test: $(VENV)/ready-for-tests
	$(TRIAL) $(TESTS)

test-fast: $(VENV)/ready-for-tests
	$(TRIAL) $$($(BIN)/python -m tests.fast)

lint: $(VENV)/ready-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/towncrier build --draft --version next >/dev/null

types: $(VENV)/ready-for-tests
	$(BIN)/mypy

# The variable silences a notice about the next major versions of the tools.
docs: $(VENV)/ready-for-tests
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

.PHONY: man
man: $(VENV)/ready-for-tests
	PYTHONPATH=. $(BIN)/python etc/man/write.py

check: test lint types docs

# Every file that the package index has of a version is accepted, by its hash.
COMPILE = CUSTOM_COMPILE_COMMAND="make lock" $(VENV).lock/bin/pip-compile --quiet --upgrade \
	--generate-hashes --allow-unsafe --strip-extras --no-annotate --no-emit-options setup.py
lock:
	rm -rf $(VENV).lock && $(PYTHON) -m venv $(VENV).lock
	$(VENV).lock/bin/python -m pip install --quiet pip-tools
	$(COMPILE) --extra=s3,sqs,mysql,postgresql,redis,fast --output-file=requirements.lock
	$(COMPILE) --extra=dev,heic --constraint=requirements.lock --output-file=requirements-dev.lock
	$(COMPILE) --only-build-deps --build-deps-for=wheel --output-file=requirements-build.lock
	rm -rf $(VENV).lock

dist: $(VENV)/ready-for-tests
	rm -rf build dist
	$(BIN)/python -m build --sdist --wheel
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m tests.wheel dist/*.whl

compose-check: $(VENV)/ready-for-tests
	$(BIN)/python -m tests.support.compose

clean:
	rm -rf $(VENV) build dist site *.egg-info _trial_temp* .mypy_cache .ruff_cache .hypothesis

screenshots: $(VENV)/ready-for-tests
	$(BIN)/python -m tests.browser.screenshots

# These take minutes to hours: they do more of what "make test" does a little of.
soak: $(VENV)/ready-for-tests
	$(BIN)/python -m benchmarks.soak --uploads=$(or $(UPLOADS),2000)
	FXPROFILE_CRASHES=all FXPROFILE_CORPUS=all $(BIN)/python -m twisted.trial \
		tests.integration.test_crashes tests.crunch.test_corpus

simulate: $(VENV)/ready-for-tests
	$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),10000) --first $(or $(FIRST),0)

chaos: $(VENV)/ready-for-tests
	$(BIN)/python -m benchmarks.chaos --seconds=$(or $(FAULT_SECONDS),10) $(or $(CASES),--write)

load: $(VENV)/ready-for-tests
	ulimit -n 20000; $(BIN)/python -m benchmarks.load $(or $(ATTACKS),--write)

fuzz: TARGETS ?= sniff jpeg container webp stored result png other_formats
fuzz: $(VENV)/ready-for-tests
	$(PIP) install '.[fuzz]'
	set -e; for target in $(TARGETS); do \
		$(BIN)/python -m tests.crunch.fuzz $$target -max_total_time=$(or $(SECONDS),60); \
	done
	FXPROFILE_MUTANTS=$(or $(MUTANTS),100000) $(BIN)/python -m twisted.trial tests.crunch.test_mutants
