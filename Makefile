# Everything happens in .venv; the machine lends a Python and nothing else.

new_enough := import sys; sys.exit(sys.version_info < (3, 11))

# python3 where it is new enough, else a newer one beside it.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(new_enough)' 2>/dev/null && echo $$python && exit; done; echo python3)
WORKERS ?= 2

ROUNDS ?= 5
SECONDS ?= 1
EVENTS ?= 1000000
SCALE ?= 1
MINUTES ?= 20
CLIENTS ?= 4
bench_options = --rounds $(ROUNDS) --seconds $(SECONDS) --events $(EVENTS) --scale $(SCALE)
soak_options = --minutes $(MINUTES) --clients $(CLIENTS) $(if $(SEED),--seed $(SEED)) $(if $(DATABASE),--database $(DATABASE))
comma := ,
# Not on the command line, where everybody on the machine could read a password.
bench bench-peers bench-compare: export ASM_BENCH_DSN = $(DSN)

.DEFAULT_GOAL := help
.PHONY: help demo test soak check format schema bench bench-peers bench-compare clean

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

demo: .venv/installed ## keep a session in a SQLite file and show it
	@.venv/bin/python examples/demo.py

test: .venv/installed ## run the tests; ARGS='-k append' goes to pytest, WORKERS=0 runs them one by one, ASM_TEST_ALL=1 adds repetitions on an older PostgreSQL
	@.venv/bin/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

soak: .venv/installed ## cause faults while clients work, and check the stored rows; MINUTES=20 on each database, DATABASE=sqlite, SEED=1, CLIENTS=4
	@.venv/bin/python -m tests.fault.soak $(soak_options)

check: .venv/installed ## look at format, lint and types, then run the tests
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@$(MAKE) --no-print-directory test

format: .venv/installed ## lay out the code and mend what lint can mend
	@.venv/bin/ruff check --fix-only --quiet .
	@.venv/bin/ruff format .

schema: .venv/installed ## write each schema.sql from its migrations
	@.venv/bin/python -m tests.make_schema

bench: .venv/installed ## measure on SQLite and PostgreSQL; DSN=postgresql://…, ONLY=reads,flush, ROUNDS=5, SECONDS=1, EVENTS=10000000, SCALE=10
	@.venv/bin/python -m bench $(bench_options) $(subst $(comma), ,$(ONLY))

bench-peers: .venv/peers/installed ## measure similar libraries beside this one
	@.venv/peers/bin/python -m bench $(bench_options) peers

bench-compare: .venv/installed ## measure this checkout beside another one; BASE=../asm-old, ONLY=reads,flush, ROUNDS=10, SECONDS=0.3
	@.venv/bin/python -m bench.compare $(BASE) $(if $(filter command line,$(origin ROUNDS)),--rounds $(ROUNDS)) \
		$(if $(filter command line,$(origin SECONDS)),--seconds $(SECONDS)) $(subst $(comma), ,$(ONLY))

clean: ## remove whatever this file makes
	@rm -rf .venv build dist asm-demo.db* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -prune -exec rm -rf {} +

.venv/installed: pyproject.toml tests/constraints.txt
	@$(PYTHON) -c '$(new_enough)' 2>/dev/null || \
		{ echo 'asm needs Python 3.11 or newer: make PYTHON=/path/to/python' >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -c tests/constraints.txt -e '.[test]'
	@touch $@

# The peers bring a hundred packages along, so they live apart.
.venv/peers/installed: .venv/installed bench/constraints.txt
	@.venv/bin/python -m venv --clear .venv/peers
	@.venv/peers/bin/python -m pip install --quiet --disable-pip-version-check \
		-c tests/constraints.txt -c bench/constraints.txt -e '.[test,peers]'
	@touch $@
