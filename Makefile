# make demo     the main route on the bundled model: table and figure
# make test     the tests
# make figures  every figure, from tables that are made where they are missing
# make check    format, lint, types
# make train    the bundled models anew (about two hours; half an hour a model)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := HF_HUB_OFFLINE=1 $(BIN)/python
FIGURES := patch_heads patch_residual patch_mlp patch_attention patch_paths ablate_heads ablate_blocks \
	cut_attention compare_methods attribute_writes attribute_heads attribute_latents attribute_pixels steer know_and_show \
	compare_encoders probe_blocks probe_controls reproduce_invisible_hand probe_state probe_attention surprise \
	decode_states follow_training invert_clips forcing
WEIGHTS := dit_lens/models/weights

.PHONY: help demo test figures check format train install clean
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

figures/data/%.nc: | $(VENV)/.installed
	$(RUN) -m analyses.$*

figures/out/%.pdf: figures/%.py figures/data/%.nc
	$(RUN) -m figures.$*

.PRECIOUS: figures/data/%.nc

test: $(VENV)/.installed-dev
	$(RUN) -m pytest -q
	$(RUN) -m pytest -q --nbmake --nbmake-timeout=600 examples

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

train: $(VENV)/.installed
	$(RUN) -m dit_lens.training --model mini-wan --out $(WEIGHTS)/mini-wan
	$(RUN) -m dit_lens.training --model mini-wan-null --checkpoints --out $(WEIGHTS)/mini-wan-null
	$(RUN) -m dit_lens.training --model mini-wan-swap --checkpoints --out $(WEIGHTS)/mini-wan-swap
	$(RUN) -m dit_lens.training.planted --minutes 25 --out $(WEIGHTS)/mini-wan-planted
	$(RUN) -m dit_lens.training.autoencoder --out $(WEIGHTS)/mini-vae

clean:
	rm -rf figures/data figures/out .pytest_cache .ruff_cache build dist *.egg-info
