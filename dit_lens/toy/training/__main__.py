"""`python -m dit_lens.toy.training --model mini-wan`: trains a mini-wan or one of its twins from scratch."""

from __future__ import annotations

import tyro

from dit_lens.toy.training.flow_matching import Config
from dit_lens.toy.training.world_model import run

if __name__ == "__main__":
    print("saved", run(tyro.cli(Config, prog="python -m dit_lens.toy.training", description=__doc__)))
