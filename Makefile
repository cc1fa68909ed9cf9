# make demo: everything from nothing to answers.   make test: the test suite.   make lint: ruff and mypy.
# make test-whole: the benchmarks' suites, the wheel in a clean environment, bundles in optimum's classes, official
# configurations, all reference texts, the demo's training, graphs for CUDA in every precision
# make test-scale: bundles in a real tritonserver and in Ray, and the containers' commands, in an environment of its own.
# make benchmark: the CPU benchmark, one to three hours on two quiet cores; ARGS="--quick" and others: docs/benchmarks.md.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
OPTIMUM := build/optimum
STUBS := build/stubs
SCALE := build/scale
# tritonserver's Python backend loads a Python with a shared library, as Debian's is
SCALE_PYTHON ?= /usr/bin/python3.11
RAY_BUNDLES := text-classification text-generation feature-extraction
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-fast test-whole test-scale lint benchmark optimum clean

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-fast: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow and not campaign and not whole and not scale"

test-whole: $(VENV)/.test $(OPTIMUM)/.installed
	$(BIN)/python -m pytest -n $(JOBS) -m whole

# Triton's tests start a server there, Ray's run there with bundles that are exported here
test-scale: $(VENV)/.test $(SCALE)/.installed
	$(BIN)/python -m pytest -n $(JOBS) -m scale
	$(BIN)/python -m tests.make_bundles $(SCALE)/bundles $(RAY_BUNDLES)
	XLM_TEST_BUNDLES=$(CURDIR)/$(SCALE)/bundles $(SCALE)/bin/python -m pytest -m scale tests/scale/test_ray.py

lint: $(VENV)/.test $(STUBS)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(VENV)/.test $(OPTIMUM)/.installed
	$(BIN)/python -m benchmarks cpu $(ARGS)

optimum: $(OPTIMUM)/.installed

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) --editable ".[cpu,export]"
	touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) --editable ".[cpu,openvino,http,export,zh,th,benchmarks,test]"
	touch $@

# optimum needs an older transformers than the project is tested with
$(OPTIMUM)/.installed: benchmarks/optimum.txt constraints.txt
	$(PYTHON) -m venv $(OPTIMUM)
	$(OPTIMUM)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--requirement benchmarks/optimum.txt
	touch $@

# Type stubs: their package wants TensorRT itself, and some of its lines are no Python. They lie outside of the
# environment, where their folder `tensorrt` could be imported.
$(STUBS)/.installed: $(BIN)/python Makefile
	rm -rf $(STUBS)
	$(INSTALL) --no-deps --target $(STUBS) tensorrt-stubs==10.13.0.35.1
	sed -i.bak -e 's/, in: /, in_: /' -e 's/channel_axis: int)/channel_axis: int = ...)/' \
		$(STUBS)/tensorrt_bindings/tensorrt.pyi
	touch $@

$(SCALE)/.installed: tests/scale/requirements.txt constraints.txt pyproject.toml
	$(SCALE_PYTHON) -m venv $(SCALE)
	$(SCALE)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--requirement tests/scale/requirements.txt --editable ".[cpu,ray,serve]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
