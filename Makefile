# Two commands are all that is needed: "make run" and "make test".

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --quiet --disable-pip-version-check
TESTS ?= tests

.PHONY: help run test lint types check lock clean

help:
	@echo "make run     start the whole service here, with a page to try it on"
	@echo "make test    run the tests"
	@echo "make check   run the tests, the linters and the type checks"
	@echo "make soak    upload while processes are killed (UPLOADS=2000)"
	@echo "make simulate   the whole service on one clock, in all weathers (SEEDS=10000 FIRST=0)"
	@echo "make lock    write the exact versions in requirements*.lock anew"
	@echo "make clean   remove what the others have made, but not var/"

# What an installation is made of: a change to any of it is installed anew.
SOURCES = $(shell find fxprofile twisted -type f ! -name '*.pyc' ! -name dropin.cache)

$(VENV)/ready: requirements.lock setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; name one with PYTHON=…"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -r requirements.lock
	@touch $@

$(VENV)/installed: $(VENV)/ready $(SOURCES)
	rm -rf build
	$(PIP) install --no-deps --force-reinstall .
	@touch $@

$(VENV)/ready-for-tests: requirements-dev.lock $(VENV)/ready | $(VENV)/installed
	$(PIP) install -r requirements-dev.lock
	@touch $@

run: $(VENV)/installed
	@echo
	@echo "  The playground:   http://127.0.0.1:1111/"
	@echo "  The API:          http://127.0.0.1:1111/v1/profile   (tokens: alice, bob)"
	@echo "  The images:       http://127.0.0.1:1112/a/{id}"
	@echo "  Figures:          http://127.0.0.1:1114/metrics"
	@echo "  Data:             var/   (remove it to start afresh; Ctrl-C ends the service)"
	@echo
	$(BIN)/twistd -n fxprofile

test: $(VENV)/ready-for-tests
	$(BIN)/python -m twisted.trial --random=0 $(TESTS)

lint: $(VENV)/ready-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/towncrier build --draft --version next >/dev/null

types: $(VENV)/ready-for-tests
	$(BIN)/mypy

check: test lint types

lock: requirements.lock.new requirements-dev.lock.new
	mv requirements.lock.new requirements.lock
	mv requirements-dev.lock.new requirements-dev.lock

requirements.lock.new: EXTRAS = mysql,postgresql,redis,fast
requirements-dev.lock.new: EXTRAS = dev,heic
requirements%lock.new: FORCE
	rm -rf $(VENV).lock && $(PYTHON) -m venv $(VENV).lock
	$(VENV).lock/bin/python -m pip install --quiet '.[$(EXTRAS)]'
	{ echo "# Exact versions, written by \"make lock\"."; \
	  $(VENV).lock/bin/python -m pip freeze --exclude fxprofile; } > $@
	rm -rf $(VENV).lock

FORCE:

clean:
	rm -rf $(VENV) build *.egg-info _trial_temp* .mypy_cache .ruff_cache .hypothesis

# Minutes to hours, on real processes.
.PHONY: soak simulate
soak: $(VENV)/ready-for-tests
	$(BIN)/python -m benchmarks.soak --uploads=$(or $(UPLOADS),2000)

simulate: $(VENV)/ready-for-tests
	$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),10000) --first $(or $(FIRST),0)
