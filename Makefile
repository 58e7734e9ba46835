# One command each; the first one to run sets everything up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: install demo lab test test-slow support faults lint bench tensorboard clean

install: $(VENV)/installed

# torch comes first: pip would pick a build for GPUs where none is asked for.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps fairseq==0.12.2
	touch $@

demo: install
	$(BIN)/admin-init compare --config recipes/demo/compare.yaml

# An hour on two cores: every residual style at 6-6 and 18-18 layers, three seeds, and before training.
lab: install
	$(BIN)/admin-init compare --config recipes/lab/styles.yaml

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-slow: install
	$(BIN)/python -m pytest -m "slow and not faults"

# The tables of docs/, from the results of the tests that fill them.
support faults: install
	OMP_NUM_THREADS=1 $(BIN)/python docs/tables.py $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Half an hour on two cores that have nothing else to do.
bench: install
	$(BIN)/admin-init prepare --config benchmarks/multi30k.yaml
	$(BIN)/python benchmarks/training.py --data data-bin/multi30k_8k
	$(BIN)/python benchmarks/training.py --data data-bin/multi30k_8k --layers 18 --dim 64
	$(BIN)/python benchmarks/training.py --synthetic 100000
	$(BIN)/python benchmarks/roofline.py --data data-bin/multi30k_8k
	$(BIN)/python benchmarks/pipeline.py --data data-bin/multi30k_8k
	$(BIN)/python benchmarks/distributed.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/overhead.py --layers 4
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/monitor.py

tensorboard: install
	$(BIN)/tensorboard --logdir runs

clean:
	rm -rf $(VENV) runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
