# make demo   set up, then train on real digits made long-tailed (80 seconds on 2 cores)
# make test   set up, then lint, types and all CPU tests
# Everything lands in .venv; only `make install` needs the package index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
comma := ,
# With faiss-gpu: rm -rf .venv && make install EXTRAS=gpu,dev. Later calls keep the extras of that .venv.
MADE_WITH := $(patsubst $(VENV)/.installed-%,%,$(firstword $(wildcard $(VENV)/.installed-*)))
EXTRAS ?= $(or $(subst -,$(comma),$(MADE_WITH)),cpu$(comma)dev)
INSTALLED := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

export RAY_USAGE_STATS_ENABLED := 0

.PHONY: install demo test check clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --config-settings editable_mode=compat --editable '.[$(EXTRAS)]'
	rm -f $(VENV)/.installed-*
	touch $@

demo: install
	rm -rf data/digits_lt runs/digits
	$(BIN)/clmle import digits --out data/digits_lt --long-tail-ratio 20
	$(BIN)/clmle run --config configs/digits.yaml

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

clean:
	rm -rf data/digits_lt runs/digits .pytest_cache .ruff_cache .mypy_cache
