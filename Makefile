# Everything runs in a virtual environment in this checkout (.venv), made on first use. `make help` lists the targets.

PYTHON ?= python3
JOBS   ?= 2
VENV   := .venv
BIN    := $(VENV)/bin

# Stamps: the install is repeated only when what it depends on changes.
CREATED  := $(VENV)/.created
RUN_DEPS := $(VENV)/.installed-run
DEV_DEPS := $(VENV)/.installed-dev
PINS     := setup.py constraints.txt

# The pinned set exists for Python 3.11 and newer; an older interpreter gets what the bounds of setup.py resolve to.
CONSTRAINTS  = $(shell $(BIN)/python -c 'import sys; print("-c constraints.txt" if sys.version_info >= (3, 11) else "")')
PIP_INSTALL  = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS)

# Only values given on the command line count (a shell may well export PROMPT), and they reach the program unexpanded.
ifeq ($(origin IMAGE),command line)
override export IMAGE := $(value IMAGE)
PREDICT_ARGS += --input_image "$$IMAGE"
endif
ifeq ($(origin PROMPT),command line)
override export PROMPT := $(value PROMPT)
PREDICT_ARGS += --prompt "$$PROMPT"
endif
ifeq ($(origin MODEL),command line)
override export MODEL := $(value MODEL)
PREDICT_ARGS += --model_name_or_path "$$MODEL"
endif

.PHONY: help predict test lint format check-install wheel wheel-check clean clean-venv

help:
	@echo "make predict [IMAGE=picture] [PROMPT=text] [MODEL=name or directory]"
	@echo "                     answer about a picture; without arguments: the bundled model and the bundled picture"
	@echo "make test [ARGS=…]   ruff, then all tests ($(JOBS) processes, JOBS=n to change); ARGS are passed to pytest"
	@echo "make lint            ruff check and ruff format --check"
	@echo "make format          let ruff mend and format the files"
	@echo "make check-install   report what is installed, which device Paddle uses, and try a tiny model"
	@echo "make wheel           build the wheel into dist/"
	@echo "make wheel-check     build the wheel, install it elsewhere and run the bundled model from there"
	@echo "make clean           remove build products and caches; make clean-venv removes $(VENV) as well"
	@echo
	@echo "PYTHON=…             the interpreter that a new $(VENV) is made with (Python 3.9 to 3.12; now: $(PYTHON))"

predict: $(RUN_DEPS)
	@$(BIN)/python examples/qwen_vl/run_predict.py $(PREDICT_ARGS)

test: lint
	PADDLEMIX_REQUIRE_REAL_VOCAB=1 $(BIN)/python -m pytest -q --durations=15 -n $(JOBS) $(ARGS)

lint: $(DEV_DEPS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV_DEPS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check-install: $(RUN_DEPS)
	@$(BIN)/python examples/check_install.py

# build/ is removed first: setuptools would put files into the wheel that the tree no longer has.
wheel: $(CREATED)
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

wheel-check: wheel
	@set -eu; elsewhere=$$(mktemp -d); trap 'rm -rf "$$elsewhere"' EXIT; \
	"$(BIN)/python" -m venv "$$elsewhere/venv"; \
	echo "Installing the wheel into $$elsewhere/venv"; \
	"$$elsewhere/venv/bin/python" -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) "$$(ls dist/*.whl)[cpu]"; \
	cp examples/qwen_vl/run_predict.py "$$elsewhere/"; \
	cd "$$elsewhere"; \
	venv/bin/python -c 'import paddlemix, sys; sys.exit(not paddlemix.__file__.startswith(sys.prefix))'; \
	venv/bin/python run_predict.py --output_dir drawn; \
	echo "The wheel runs the bundled model outside the checkout."

clean:
	rm -rf build dist *.egg-info .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

clean-venv: clean
	rm -rf $(VENV)

$(CREATED):
	@command -v "$(PYTHON)" > /dev/null || { echo "No interpreter '$(PYTHON)' here; name one with PYTHON=…" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' || { \
		echo "paddlemix needs Python 3.9 to 3.12, '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1); name another with PYTHON=…" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2> /dev/null || { \
		echo "'$(PYTHON)' has no venv module; install it (Debian, Ubuntu: python3-venv) or name another interpreter with PYTHON=…" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(RUN_DEPS): $(CREATED) $(PINS)
	@echo "Installing Paddle, PaddleNLP and paddlemix into $(VENV) (first time: a few minutes)"
	@$(PIP_INSTALL) -e '.[cpu]'
	@touch $@

$(DEV_DEPS): $(CREATED) $(PINS)
	@echo "Installing Paddle, PaddleNLP, paddlemix and the test tools into $(VENV) (first time: a few minutes)"
	@$(PIP_INSTALL) -e '.[cpu,test,dev]'
	@touch $(RUN_DEPS) $@
