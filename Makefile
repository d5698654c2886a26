# Commands for a clone of the repository. A fresh machine needs Python 3.11 or newer (3.11 or 3.12 to serve) and make.
#
#   PYTHON=python3.12        the interpreter that .venv is made from, used once
#   BUNDLE=DIR               the bundle with plans that `make gpu-verify` tries
#   SOAK="--minutes 5"       more flags for `make soak`; python -m benchmarks soak --help has them all
#   TORCH_INDEX=URL          where `make test` and `make check` find torch. On Linux plain pip takes the CUDA build, several GB;
#                            for the CPU build: TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
BUNDLE ?= out/bundle
TORCH_INDEX ?=

BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
TYPED := runtime export training benchmarks triton_repo/boundary.py triton_repo/metrics.py triton_repo/ledger.py clipfacefusion.py
# Tiny networks: one thread each is fastest, and the runners of the suite do not fight over cores.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
# Prints "serve" where tritonserver can run, once installed; `unavailable_reason` needs nothing but the standard library.
CAN_SERVE := from runtime.serving import installation as t; why = t.unavailable_reason(); print("" if why and t.INSTALL not in why else "serve")

.DEFAULT_GOAL := help
.PHONY: help demo gallery test check soak gpu-verify clean

help:    ## this list
	@sed -n 's/^\([a-z-]*\): .*## /  make \1\t/p' $(MAKEFILE_LIST)
	@printf '\nOn Linux, for torch without CUDA: make test TORCH_INDEX=https://download.pytorch.org/whl/cpu\n'

demo: .venv/installed-demo    ## serve the shipped bundle, ask it for faces over gRPC, write out/demo.png; no torch, no GPU
	$(BIN)/python -m runtime demo bundles/demo --out out/demo.png

gallery: .venv/installed-demo    ## draw docs/gallery from the shipped bundle, in process, several minutes; no torch, no GPU
	$(BIN)/python -m runtime gallery bundles/demo docs/gallery

test: .venv/installed-all    ## every correctness test on the CPU, the real server's included; at most 15 minutes
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest tests

check: .venv/installed-all    ## format, lint, types and import rules; at most a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(TYPED)
	set -e; for model in triton_repo/*/1/model.py; do $(BIN)/mypy --no-error-summary $$model; done
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -q tests/test_architecture.py

soak: .venv/installed-all    ## long load, faults, cancels and damaged requests against the real server, an hour or two; results to docs/log.md
	$(TEST_ENVIRONMENT) $(BIN)/python -m benchmarks soak bundles/demo --log docs/log.md $(SOAK)

gpu-verify: .venv/installed-demo    ## on a machine with a GPU: run every plan of BUNDLE=DIR that fits it, write out/gpu-report.json to send home
	$(BIN)/python -m runtime gpu-verify $(BUNDLE) --report out/gpu-report.json

clean:    ## remove what these commands made, the environment included; trained runs/ stay
	rm -rf .venv out build .pytest_cache .ruff_cache .mypy_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp lies inside the environment that it speaks of, and is older than pyproject.toml once the requirements change.
.venv/installed-demo: pyproject.toml | .venv/bin/python
	extra=$$($(BIN)/python -c '$(CAN_SERVE)') && $(PIP_INSTALL) -e ".$${extra:+[$$extra]}"
	touch $@

.venv/installed-all: pyproject.toml | .venv/bin/python
	extra=$$($(BIN)/python -c '$(CAN_SERVE)') && \
	$(PIP_INSTALL) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e ".[$${extra:+$$extra,}train,face,export,tensorrt-rtx,openvino,dev]"
	touch $@ .venv/installed-demo

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "needs Python 3.11 or newer, '$(PYTHON)' is $$($(PYTHON) --version 2>&1); choose one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
