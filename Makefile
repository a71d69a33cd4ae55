# make serve: start the server with the demo model.   make test: lint, types, tests.   Both make .venv first.
# PYTHON=python3.12 make install: another interpreter.   CUDA=1 make install: the CUDA build of torch (default: where nvidia-smi runs).

PYTHON ?= python3
CUDA ?= $(shell nvidia-smi >/dev/null 2>&1 && echo 1)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := .venv/bin
TORCH := torch==2.13.0$(if $(CUDA),,+cpu)
export OMP_NUM_THREADS ?= 1

.PHONY: install serve test test-slow lint audit clean
install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "infold needs Python 3.11 or newer; try PYTHON=python3.12 make install")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/pip install --quiet --progress-bar on $(if $(CUDA),,--retries 1 --extra-index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/pip install --quiet --progress-bar on -c constraints.txt -e '.[dev]'
	touch $@

serve: install
	$(BIN)/infold serve $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint $(BIN)/helm
	$(BIN)/pytest -n 2

# The chart's tests need it, and say so where it cannot be had.
$(BIN)/helm: .venv/installed tests/deploy/fetch_helm.py
	-$(BIN)/python tests/deploy/fetch_helm.py $@

test-slow: install
	$(BIN)/pytest -m slow --timeout 1200

# Known vulnerabilities of what is installed. It asks the package index, and fails where that has no answer: no audit is no clean audit.
audit: install
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
