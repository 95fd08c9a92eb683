# One virtual environment, made once: `make demo`, `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TOYCITY := data/toycity
WORK := work_dirs/toycity
# What a stray user-level package could change is kept out.
export PYTHONNOUSERSITE = 1
# Without bytecode every process compiles the whole stack anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install lock demo web ablation test coverage lint docs clean

install: $(VENV)/.installed

# A torch that PYTHON or an existing VENV has is used if it fits. LOCKED=1
# installs the versions of requirements.lock, compared with their hashes.
$(VENV)/.installed: setup.cfg requirements.txt requirements.lock pyproject.toml
	tools/install.sh $(PYTHON) $(VENV) $(if $(LOCKED),locked)
	touch $@

# Writes requirements.lock anew, with the newest versions that fit.
lock: install
	$(BIN)/python -m uv pip compile setup.cfg --extra dev --universal \
	  --python-version 3.11 --generate-hashes --no-annotate --upgrade \
	  --custom-compile-command 'make lock' --quiet --output-file \
	  requirements.lock

demo: install
	$(BIN)/python tools/make_toycity.py $(TOYCITY)
	$(BIN)/python tools/ablation.py --rows source all all_plus --seeds 0 \
	  --schedules short --work-dir $(WORK)/demo

# The models of `make demo` in the browser; `make web CHECKPOINT=FILE` another.
web: install
	$(BIN)/clouds demo $(CHECKPOINT)

ablation: install
	$(BIN)/python tools/make_toycity.py $(TOYCITY)
	$(BIN)/python tools/ablation.py --work-dir $(WORK)/ablation

# In a random order, whose seed is printed at the end; `make test SEED=N` runs
# that order again. -r sfE names what was skipped and why, and what failed.
# `make coverage` runs them too; a training takes half as long again while its
# lines are noted.
test coverage: install lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile \
	  --no-loadscope-reorder --max-worker-restart 0 -r sfE --durations=15 \
	  $(if $(SEED),--randomly-seed=$(SEED)) \
	  $(if $(filter coverage,$@),--cov --cov-report=term:skip-covered \
	  --cov-fail-under=90)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site in work_dirs/site. Broken links and unknown names are errors.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:
	rm -rf work_dirs .pytest_cache .ruff_cache .mypy_cache .coverage
