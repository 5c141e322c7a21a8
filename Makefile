# The one way in. `make demo` and `make test` do all the set-up on a machine with Python, make and a compiler.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.setup-done
TEST_PROCESSES ?= $(shell echo $$(($$(nproc) + 1)))
export CXRBATCH_SHARED_DATA ?= $(realpath ../shared/data)

# Every worker process imports; compiled modules save it half of its start.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo demo-pacs test pytest check format reference catalogues docs bench bench-quick bench-intake bench-scale bench-tree
.PHONY: pixel-check anatomy-model arrivals gpu-check bench-worklist container-check slurm-check hosts-check fuzz hostile damage soak screenshots setup clean

demo: setup
	$(BIN)/cxrbatch demo -o demo

engines/demo/engine.json: | setup
	$(BIN)/cxrbatch demo -o demo

# With Debian's Orthanc, and public radiographs where CXRBATCH_SHARED_DATA names them; DEMO_PACS_ARGS="-o DIR" keeps it.
demo-pacs: setup engines/demo/engine.json
	$(BIN)/python scripts/demo_pacs.py $(DEMO_PACS_ARGS)

# Side by side: the checks take one core for a minute.
test: setup
	$(MAKE) --no-print-directory --jobs=2 check pytest

# One process more than cores: many tests wait for processes of their own. A file's fixtures stay in one process.
pytest: setup
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Containerfile
	$(BIN)/kubernetes-validate --strict --quiet docs/deploy/kubernetes/*.yaml

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# BENCH_ARGS is the number of studies, 50000 without.
bench-worklist: setup
	$(BIN)/python scripts/bench_worklist.py $(BENCH_ARGS)

bench: setup
	$(BIN)/python scripts/bench.py $(BENCH_ARGS)

# A minute; fails where a study costs a quarter more core-ms, beside the plain way's, than docs/measurements/bench.json says.
bench-quick: setup
	$(BIN)/python scripts/bench.py --quick $(BENCH_ARGS)

gpu-check: setup
	$(BIN)/python scripts/gpu_check.py $(GPU_CHECK_ARGS)

# Archives of 1,000, 10,000 and 100,000 studies; BENCH_SCALE_ARGS="--sizes 1000 10000 100000 1000000" takes half an hour more.
bench-scale: setup
	$(BIN)/python scripts/bench_growth.py $(BENCH_SCALE_ARGS)

bench-tree: setup
	$(BIN)/python scripts/bench_scale.py $(BENCH_TREE_ARGS)

bench-intake: setup
	$(BIN)/python scripts/bench_intake.py $(BENCH_INTAKE_ARGS)

arrivals: setup
	$(BIN)/python scripts/arrivals.py $(ARRIVALS_ARGS)

pixel-check: setup
	$(BIN)/python scripts/pixel_check.py $(FOREIGN)

# FOREIGN is a folder that `bash scripts/foreign_pictures.sh FOREIGN` filled.
anatomy-model: setup
	$(BIN)/python scripts/fit_anatomy.py $(FOREIGN) $(ANATOMY_ARGS)

fuzz: setup
	$(BIN)/python scripts/fuzz.py $(FUZZ_ARGS)

hostile: setup
	$(BIN)/python scripts/hostile.py -n $(TEST_PROCESSES) $(HOSTILE_ARGS)

# DAMAGE_ARGS="--engine demo" also tells whether scores move.
damage: setup
	$(BIN)/python scripts/damage.py $(DAMAGE_ARGS)

# Needs root, buildah, debootstrap, crun and an engine in engines/demo (`make demo`).
container-check: setup
	bash scripts/container_build.sh
	$(BIN)/python scripts/container_check.py $(CONTAINER_ARGS)

# Needs root, slurm-wlm and munge; SLURM_CHECKS="array requeue" runs these alone.
slurm-check: setup engines/demo/engine.json
	bash scripts/slurm_check.sh $(SLURM_CHECKS)

# Needs root, and Debian's iproute2, sshfs, openssh-server and faketime; HOSTS_ARGS="cable shards" runs these alone.
hosts-check: setup engines/demo/engine.json
	$(BIN)/python scripts/hosts_check.py $(HOSTS_ARGS)

# Random moments first, of the run and of its workers; then every fault at every time that a run reaches a fault point.
soak: setup
	$(BIN)/python scripts/soak.py $(SOAK_ARGS)
	$(BIN)/python scripts/soak.py --changes $(SOAK_ARGS)
	$(BIN)/python scripts/soak_workers.py
	CXRBATCH_EVERY_FAULT=1 $(BIN)/python -m pytest --quiet tests/run/test_killed.py tests/run/test_report_and_ledger.py \
		tests/run/test_moved.py tests/run/test_deidentified.py tests/cluster tests/system/test_workers.py tests/system/test_killed_workers.py \
		tests/run/test_dicom_objects.py tests/pacs/test_receive_torture.py

# Edit the .po files; CATALOGUES_ARGS=fr begins French.
catalogues: setup
	$(BIN)/python scripts/catalogues.py $(CATALOGUES_ARGS)

reference: setup
	$(BIN)/python scripts/reference.py
	$(BIN)/python scripts/conformance.py

# Nothing in the pages is fetched when they are read; they can be put on any disk or server.
docs: setup
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

screenshots: setup
	$(BIN)/python scripts/screenshots.py

setup: $(SETUP)

# Installed once; again only when what is asked for changes. uv's cache makes a second clone take seconds.
$(SETUP): setup.cfg setup.py scripts/system-packages.sh
	bash scripts/system-packages.sh
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[train,watch,serve,parquet,pacs,cluster,dev]'
	touch $(SETUP)

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
