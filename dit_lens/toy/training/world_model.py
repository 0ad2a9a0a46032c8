"""Trains a mini-wan from scratch, measures it, and writes a diffusers folder with its card."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dit_lens.models.codec import fit_patch_pca
from dit_lens.toy.mini_wan import assemble, save
from dit_lens.toy.miniphys import MiniPhys
from dit_lens.toy.training.card import card, draw_pictures, evaluate
from dit_lens.toy.training.flow_matching import STATE, Config, State, encode_pairs, train
from dit_lens.video import to_tensor

LAW = {"mini-wan": "physics", "mini-wan-null": "lawless", "mini-wan-swap": "swap"}
CODEC_SAMPLE = 550


def run(config: Config) -> Path:
    """Trains (or resumes), evaluates and writes the folder; returns it."""
    folder = config.out or Path("runs") / f"{config.model}-{config.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    sample = MiniPhys("pretrain", min(CODEC_SAMPLE, config.quadruplets))
    codec = fit_patch_pca(to_tensor(np.stack([q["A"].frames, q["B"].frames])) for q in sample)
    state = State(config)
    if (folder / STATE).is_file():
        state.load(folder / STATE)
    if config.compile:
        state.model.compile()
    world = MiniPhys("pretrain", config.quadruplets, law=LAW[config.model])
    train(state, encode_pairs(codec, tqdm(world, desc="encoding", unit="quadruplet")), config, folder)
    report = evaluate(state.average, codec, config)
    draw_pictures(state.average, codec, config, folder)
    parameters = sum(p.numel() for p in state.average.parameters())
    save(assemble(state.average.cpu(), codec), folder)
    settings = asdict(config) | {"out": str(folder), "report": report, "torch": torch.__version__}
    (folder / "training.json").write_text(json.dumps(settings, indent=1))
    (folder / "README.md").write_text(card(config, report, parameters, state.step, state.seconds))
    return folder
