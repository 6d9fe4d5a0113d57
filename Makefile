# All targets work in .venv. They need a Python and nothing else from the machine.

new_enough := import sys; sys.exit(sys.version_info < (3, 11))

# python3 if it is new enough, else the first of the newer ones.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(new_enough)' 2>/dev/null && echo $$python && exit; done; echo python3)
# One more than two cores, because many tests wait for a timeout or a server.
WORKERS ?= 3

ROUNDS ?= 5
SECONDS ?= 1
EVENTS ?= 1000000
SCALE ?= 1
MINUTES ?= 20
CLIENTS ?= 4
bench_options = --rounds $(ROUNDS) --seconds $(SECONDS) --events $(EVENTS) --scale $(SCALE)
soak_options = --minutes $(MINUTES) --clients $(CLIENTS) $(if $(SEED),--seed $(SEED)) $(if $(DATABASE),--database $(DATABASE))
comma := ,
# In the environment and not on the command line, where every user of the machine could read a password.
bench bench-peers bench-compare: export ASM_BENCH_DSN = $(DSN)

.DEFAULT_GOAL := help
.PHONY: help demo test test-frameworks soak check format sync schema figures pages docs bench bench-peers bench-frameworks bench-compare clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' Makefile

demo: .venv/demo/installed ## run an agent, store its run in a SQLite file, and print it
	@.venv/demo/bin/python examples/demo.py

test: .venv/installed $(if $(ARGS),,.venv/frameworks/installed) ## run the tests; ARGS='-k append' is passed to pytest, WORKERS=0 runs one test at a time, ASM_TEST_ALL=1 runs each test on every database and with both stores
	@.venv/bin/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)
	@$(if $(ARGS),,$(MAKE) --no-print-directory test-frameworks)

test-frameworks: .venv/frameworks/installed ## run only the tests that need SDKs and frameworks of an environment of their own
	@.venv/frameworks/bin/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(or $(ARGS),tests/integrations tests/agents/adapters/test_claude_code*.py)

soak: .venv/installed ## inject faults while clients work, then check every row; MINUTES=20 on each database, DATABASE=sqlite, SEED=1, CLIENTS=4
	@.venv/bin/python -m tests.fault.soak $(soak_options)

check: .venv/installed ## check format, lint, types and import layers, then run the tests
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo --no-cache
	@.venv/bin/python -m tests.make_sync --check
	@$(MAKE) --no-print-directory test

format: .venv/installed ## format the code and apply the linter's fixes
	@.venv/bin/ruff check --fix-only --quiet .
	@.venv/bin/ruff format .

sync: .venv/installed ## generate the blocking half of the modules whose awaited half is written by hand
	@.venv/bin/python -m tests.make_sync

schema: .venv/installed ## generate each schema.sql from its migrations
	@.venv/bin/python -m tests.make_schema

figures: .venv/installed ## generate docs/figures.md, the size and the cost of the code
	@.venv/bin/python -m bench.figures

pages: .venv/installed ## generate the parts of README and docs that are made of code and figures
	@.venv/bin/python -m tests.docs.make_pages

docs: .venv/docs/installed ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 .venv/docs/bin/mkdocs build --strict --quiet
	@echo 'The documentation is in site/index.html. Its search needs a server: python3 -m http.server --directory site'

bench: .venv/installed ## measure on SQLite and PostgreSQL; DSN=postgresql://…, ONLY=reads,flush, ROUNDS=5, SECONDS=1, EVENTS=10000000, SCALE=10
	@.venv/bin/python -m bench $(bench_options) $(subst $(comma), ,$(ONLY))

bench-peers: .venv/peers/installed ## measure comparable libraries beside asm
	@.venv/peers/bin/python -m bench $(bench_options) peers

bench-frameworks: .venv/frameworks/installed ## measure each integration beside its framework's own store; ONLY=langgraph, ROUNDS=5, SECONDS=1
	@.venv/frameworks/bin/python -m bench.integrations --rounds $(ROUNDS) --seconds $(SECONDS) \
		$(or $(subst $(comma), ,$(ONLY)),--page docs/integrations/speed.md)

bench-compare: .venv/installed ## measure this checkout beside another one; BASE=../asm-old, ONLY=reads,flush, ROUNDS=10, SECONDS=0.3
	@.venv/bin/python -m bench.compare $(BASE) $(if $(filter command line,$(origin ROUNDS)),--rounds $(ROUNDS)) \
		$(if $(filter command line,$(origin SECONDS)),--seconds $(SECONDS)) $(subst $(comma), ,$(ONLY))

clean: ## remove everything that these targets create
	@rm -rf .venv build dist site asm-demo.db* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -prune -exec rm -rf {} +

# Each environment is complete when its `installed` file exists.
define new_environment
	@$(PYTHON) -c '$(new_enough)' 2>/dev/null || \
		{ echo 'asm needs Python 3.11 or newer: make PYTHON=/path/to/python' >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(@D)
endef
pip_install = $(@D)/bin/python -m pip install --quiet --disable-pip-version-check

.venv/installed: pyproject.toml tests/constraints.txt
	@echo 'Installing asm and its test tools into $(@D). This takes a minute.'
	$(new_environment)
	@$(pip_install) -c tests/constraints.txt -e '.[test]'
	@touch $@

# The demo keeps its session in SQLite, so it needs no libpq. The command and the viewer show the session again.
.venv/demo/installed: pyproject.toml tests/constraints.txt
	@echo 'Installing asm and its requirements into $(@D).'
	$(new_environment)
	@$(pip_install) -c tests/constraints.txt -e '.[cli,web]'
	@touch $@

.venv/docs/installed: pyproject.toml tests/constraints.txt tests/docs/constraints.txt
	@echo 'Installing asm and the tools of its documentation into $(@D).'
	$(new_environment)
	@$(pip_install) -c tests/constraints.txt -c tests/docs/constraints.txt -e '.[docs]'
	@touch $@

# The frameworks need older releases of some packages. claude-agent-sdk comes as a source distribution, without
# the program of 400 MB that its wheels contain.
.venv/frameworks/installed: pyproject.toml tests/integrations/constraints.txt
	@echo 'Installing asm and the frameworks that it works with into $(@D). This takes a minute.'
	$(new_environment)
	@$(pip_install) -c tests/integrations/constraints.txt --no-binary claude-agent-sdk -e '.[frameworks]'
	@touch $@

# The peers bring about a hundred packages, so they have an environment of their own.
.venv/peers/installed: pyproject.toml tests/constraints.txt bench/constraints.txt
	@echo 'Installing asm and the libraries that it is compared with into $(@D). This takes minutes.'
	$(new_environment)
	@$(pip_install) -c tests/constraints.txt -c bench/constraints.txt -e '.[test,peers]'
	@touch $@
