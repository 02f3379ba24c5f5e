# Everything happens in .venv, which `make` makes. Python ≥ 3.11 and make are all that is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Threads that wait by spinning slow each other down when tests or tools run side by side.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test test-slow check install clean

demo: install
	$(BIN)/onnxcake extract examples/digits.onnx --range 0,1 --probe examples/digits-test.npz --out runs/digits

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: install
	$(BIN)/python -m pytest -m slow

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# torch first: pip then keeps this build for everything that asks for a torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist
