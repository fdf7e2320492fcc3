# What a person types, and what CI runs: the same targets.
#
#   make demo    set up .venv and run the main job
#   make test    set up .venv with development tools and run the tests
#   make check   format, lint, types, import contracts, known vulnerabilities
#   make bench   the benchmarks, as JSON below benchmarks/results
#   make architectures  every architecture of docs/models.md, trained and sampled against transformers (minutes)
#   make fuzz    requests nobody would write, sixty thousand of them (make test sends ten thousand)
#   make audit   known vulnerabilities of the installed packages (asks the package index)
#   make recovery  the long form of tests/recovery: kills, places to die at, power cuts, mutations (hours)
#   make soak    whether server or worker grow within an hour (MINUTES=60)
#   make docs    regenerate the reference pages from --help and the OpenAPI document
#   make golden  recompute the golden values (look at the difference before committing it)
#   make recipes every recipe in full on nano, its promise checked, its figures into docs/recipes.md
#   make cookbook  recipes of the official cookbook against this server, two steps each
#   make sdk-versions  the same calls with four releases of the official SDK; writes the table in docs
#   make cookbook-loops  only its two loops, which CI runs
#   make lawshift  the legal pipeline in one go on generated cases
#   make finance  the finance pipeline in one go on generated questions, with its ablation
#   make nano    build the built-in base model from nothing (about an hour on two cores)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test check bench recovery soak docs golden cookbook cookbook-loops sdk-versions sdk-versions-check nano recipes clean fuzz audit lawshift finance \
	architectures

demo: $(VENV)/installed
	$(BIN)/eztinker demo

# Files in the order of their names: those of few tests, which would come last, are the longest.
test: $(VENV)/installed-dev
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m tools.audit

bench: $(VENV)/installed-dev
	mkdir -p benchmarks/results
	for name in store native_api tinker_sdk engine recovery durability load sampling decoding decode_ways products server training passes \
		tenants openai_streams memory; do \
		env -u OMP_WAIT_POLICY $(BIN)/python -m benchmarks.$$name --out benchmarks/results/$$name.json || exit 1; done

architectures: $(VENV)/installed-dev
	ARCHITECTURES=1 $(BIN)/pytest -n 2 tests/parity/test_architectures.py

fuzz: $(VENV)/installed-dev
	FUZZ_FACTOR=$${FUZZ_FACTOR:-12} $(BIN)/pytest -s tests/unit/api/test_fuzz.py --timeout 3600

audit: $(VENV)/installed-dev
	$(BIN)/python -m tools.audit

lawshift: $(VENV)/installed
	$(BIN)/eztinker recipe lawshift-demo output_dir=build/lawshift

finance: $(VENV)/installed
	$(BIN)/eztinker recipe finance-demo output_dir=build/finance

KILLS ?= 1000
recovery: $(VENV)/installed-dev
	$(BIN)/pytest tests/recovery -s --kills $(KILLS) --failpoints 0 --cuts 20 --terms 100
	$(BIN)/python -m tests.recovery.mutations

soak: $(VENV)/installed-dev
	$(BIN)/python -m benchmarks.soak --minutes $${MINUTES:-60} --out benchmarks/results/soak.json

docs: $(VENV)/installed-dev
	$(BIN)/python -m tools.docs

golden: $(VENV)/installed-dev
	$(BIN)/python -m tools.golden

recipes: $(VENV)/installed-dev
	RECIPES=1 $(BIN)/pytest tests/e2e tests/commands/test_documented_scripts.py
	$(BIN)/python -m tools.recipes

cookbook: $(VENV)/installed-dev
	$(BIN)/python -m tools.cookbook

cookbook-loops: $(VENV)/installed-dev
	$(BIN)/python -m tools.cookbook sl_loop rl_loop

sdk-versions: $(VENV)/installed-dev
	$(BIN)/python -m tools.sdk_versions

sdk-versions-check: $(VENV)/installed-dev
	$(BIN)/python -m tools.sdk_versions --check

nano: $(VENV)/installed-dev
	$(BIN)/python -m tools.nano.build

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install -c constraints.txt -e .
	touch $@

# pip would compile on one core. Not every file of torch is for this Python: those stay as they are.
$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --no-compile -c constraints.txt -e ".[dev]"
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@ $(VENV)/installed
