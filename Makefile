# make demo     runs patch_heads on the bundled model: verdict, table and figure
# make test     runs the tests; make test-slow runs those that take longer
# make figures  draws every figure, and computes the results that are missing
# make mutants  lists small changes of the code that no test notices (mutation testing): ROOM="edits sweeps" SAMPLE=50 SEED=0
# make check    checks format, lint and types
# make train    trains the bundled models again (about two hours; half an hour a model)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := HF_HUB_OFFLINE=1 $(BIN)/python
FIGURES := patch_heads patch_residual patch_mlp patch_attention patch_paths ablate_heads ablate_blocks \
	cut_attention compare_methods attribute_writes attribute_heads attribute_latents attribute_pixels steer know_and_show \
	compare_encoders probe_blocks probe_controls reproduce_invisible_hand probe_state probe_attention map_attention surprise \
	decode_states follow_training invert_clips forcing learning_curve
WEIGHTS := dit_lens/toy/weights

ROOM ?= metrics
SEED ?= 0

.PHONY: help demo test test-slow mutants figures check format train install clean
help:
	@sed -n 's/^# make/make/p' Makefile

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(VENV)/.installed

demo: $(VENV)/.installed
	$(RUN) -m analyses.patch_heads

figures: $(FIGURES:%=figures/out/%.pdf)

# An analysis shows the result that is up to date, or computes it; either way it draws the figure.
figures/out/%.pdf: figures/%.py analyses/%.py $(VENV)/.installed
	$(RUN) -m analyses.$* --figure $@

# One torch thread to a worker: more would fight for the cores.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n auto --dist loadfile -m "not slow"
	$(RUN) -m pytest -q --nbmake --nbmake-timeout=600 examples

test-slow: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n auto --dist loadfile -m slow

mutants: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mutants]'
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(RUN) tests/mutants.py $(ROOM) --seed $(SEED) $(SAMPLE:%=--sample %)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

train: $(VENV)/.installed
	$(RUN) -m dit_lens.toy.training --model mini-wan --out $(WEIGHTS)/mini-wan
	$(RUN) -m dit_lens.toy.training --model mini-wan-null --checkpoints --out $(WEIGHTS)/mini-wan-null
	$(RUN) -m dit_lens.toy.training --model mini-wan-swap --checkpoints --out $(WEIGHTS)/mini-wan-swap
	$(RUN) -m dit_lens.toy.training.planted --minutes 25 --out $(WEIGHTS)/mini-wan-planted
	$(RUN) -m dit_lens.toy.training.autoencoder --out $(WEIGHTS)/mini-vae

clean:
	rm -rf figures/data figures/out mutants .pytest_cache .ruff_cache build dist *.egg-info
