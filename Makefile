# One command each; the first one to run sets everything up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: install demo lab test test-slow coverage support faults lint docs links bench tensorboard clean

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
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-slow: install
	$(BIN)/python -m pytest -m "slow and not faults"

# Which lines the unit tests run: a table, and htmlcov/index.html.
coverage: install
	$(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report=term --cov-report=html tests/unit

# The tables of docs/, from the results of the tests that fill them.
support faults: install
	$(BIN)/python docs/tables.py $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

# The documentation site, into site/. A warning is an error; links between pages are checked.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The links that lead out of it, which takes a network.
links: install
	$(BIN)/python docs/links.py --check

# An hour on two cores that have nothing else to do; a JSON row per measurement, and a chart.
bench: MULTI30K := --data data-bin/multi30k_8k
bench: ROWS := runs/bench
bench: SPEEDS = $(addprefix $(ROWS)/,$(addsuffix .jsonl,training training_deep training_news decoding))
bench: install
	mkdir -p $(ROWS)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps \
		joeynmt==2.3.0 'importlib-metadata<9' zipp ctranslate2==4.8.5
	$(BIN)/admin-init prepare --config benchmarks/multi30k.yaml
	$(BIN)/admin-init fit --config benchmarks/model.yaml
	$(BIN)/python benchmarks/training.py $(MULTI30K) --updates 5 > $(ROWS)/training.jsonl
	$(BIN)/python benchmarks/training.py $(MULTI30K) --updates 3 --layers 18 --dim 64 \
		> $(ROWS)/training_deep.jsonl
	$(BIN)/python benchmarks/training.py --synthetic 100000 --updates 2 > $(ROWS)/training_news.jsonl
	$(BIN)/python benchmarks/decoding.py $(MULTI30K) --checkpoint runs/bench/last.ckpt \
		> $(ROWS)/decoding.jsonl
	$(BIN)/python benchmarks/roofline.py $(MULTI30K) --updates 2 > $(ROWS)/roofline.jsonl
	$(BIN)/python benchmarks/pipeline.py $(MULTI30K) > $(ROWS)/pipeline.jsonl
	$(BIN)/python benchmarks/distributed.py --repetitions 11 --layers 4 > $(ROWS)/distributed.jsonl
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/overhead.py > $(ROWS)/overhead.jsonl
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/monitor.py > $(ROWS)/monitor.jsonl
	cat $(addprefix $(ROWS)/,$(addsuffix .jsonl,roofline pipeline distributed overhead monitor))
	$(BIN)/python benchmarks/chart.py $(SPEEDS) --output $(ROWS)/speed.png
	$(BIN)/python benchmarks/table.py $(SPEEDS)

tensorboard: install
	$(BIN)/tensorboard --logdir runs

clean:
	rm -rf $(VENV) runs build site htmlcov .coverage *.egg-info \
		.mypy_cache .ruff_cache .pytest_cache .hypothesis
