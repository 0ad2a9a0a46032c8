"""Between pixels, latents and noise: what a lens does along a path, whatever is hooked on the way.

All functions take a lens first, and are methods of `DiTLens` too: `invert(lens, clips)` is `lens.invert(clips)`.

- `paths`: invert, sample and noising;
- `latents`: clips as latents and back, and the sizes that a model takes whole;
- `schedules`: the levels of the pipeline's scheduler;
- `prompts`: prompts as conditioning, cached on disk, with guidance;
- `solver_runs`: one loop over noise levels, in either direction; `scheduler_steps`: the pipeline's scheduler as solver;
- `interface`: what these functions need of a lens.
"""

from dit_lens.inversion.interface import Input, Lens, Steps
from dit_lens.inversion.latents import decode, encode, frames_of, latent_shape, sizes, supports
from dit_lens.inversion.paths import invert, noising, sample
from dit_lens.inversion.prompts import Prompt, Prompts
from dit_lens.inversion.schedules import levels_by_size, schedule
from dit_lens.inversion.solver_runs import SolverRun, evaluation, model_input, repeated, resume

__all__ = [
    "Input",
    "Lens",
    "Prompt",
    "Prompts",
    "SolverRun",
    "Steps",
    "decode",
    "encode",
    "evaluation",
    "frames_of",
    "invert",
    "latent_shape",
    "levels_by_size",
    "model_input",
    "noising",
    "repeated",
    "resume",
    "sample",
    "schedule",
    "sizes",
    "supports",
]
