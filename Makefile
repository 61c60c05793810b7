# Everything runs in .venv, which is made from nothing but Python >= 3.11 with its venv module.
PYTHON ?= python3
BIN := .venv/bin
# Options of the demo, for example: make demo ARGS="--steps 500 --seeds 3"
ARGS ?=
# Two processes, in each of which all tests of a group run, in the order of tests/helpers/tiers.py.
DISTRIBUTED := -n 2 --dist loadgroup --no-loadscope-reorder
PYTEST := $(BIN)/pytest $(DISTRIBUTED)

.PHONY: demo test oldest check table lint types gpu bench docs docs-serve clean

demo: .venv/installed
	$(BIN)/alrc demo $(ARGS)

test: .venv/installed
	$(PYTEST) $(ARGS)

# Old frameworks themselves warn with a newer PyTorch, so that here no warning is an error.
# Old transformers refuse to be imported where TensorFlow brings Keras 3, unless USE_TF is 0.
oldest: .venv-oldest/installed
	USE_TF=0 .venv-oldest/bin/pytest $(DISTRIBUTED) -o filterwarnings=default tests/integrations tests/jax \
	  tests/keras --ignore tests/integrations/test_log_tools.py $(ARGS)

# Every line outside of the lab is covered; counting takes a third of the time, and these add none.
REST := tests/lab tests/promises
check: lint types .venv/installed
	$(PYTEST) --all --cov --cov-report=term-missing:skip-covered $(REST:%=--ignore %)
	$(PYTEST) --all $(REST)

table: .venv/installed
	$(PYTEST) --all tests/promises tests/keras --table docs/dev/agreement.md $(ARGS)

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/installed
	$(BIN)/mypy

# On a machine with a GPU; elsewhere they are skipped, and make test says so.
gpu: .venv/installed
	$(BIN)/pytest tests/gpu $(ARGS)

bench: .venv/installed
	$(BIN)/python benchmarks/call_cost.py

# Not --quiet: that hides warnings from --strict, too. The variable takes out an advertisement.
docs docs-serve: export NO_MKDOCS_2_WARNING = 1
docs: .venv/installed
	$(BIN)/mkdocs build --strict

docs-serve: .venv/installed
	$(BIN)/mkdocs serve

define CHECK_PYTHON
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "alrc needs Python 3.11 or newer, and $(PYTHON) is older. Type: make PYTHON=python3.11"; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip' || { \
	  echo "Python's venv module is missing. On Debian: apt-get install python3-venv"; exit 1; }
endef

# Made anew only when one of these files changes, so that a second run installs nothing.
.venv/installed: pyproject.toml constraints.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[lab,dev]'
	touch $@

.venv-oldest/installed: pyproject.toml constraints.txt oldest.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/pip install --disable-pip-version-check -c constraints.txt -c oldest.txt \
	  -e '.[jax,keras,lightning,transformers]' equinox flax hypothesis 'pytest<9.2' pytest-xdist \
	  tensorboard tensorflow-cpu
	touch $@

clean:
	rm -rf .venv .venv-oldest site
