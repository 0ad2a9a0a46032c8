"""Trajectories: latents at every noise level between data and noise, and what made them.

- `schedule`: the noise levels that a path visits, and what the model is fed at each;
- `record`: how the steps of an integration went;
- `path`: latents, schedule, conditioning, solver and record together, saved and opened;
- `on_disk`: paths too long for memory, written step by step and read as they are touched.
"""

from dit_lens.trajectory.path import Trajectory
from dit_lens.trajectory.record import record_of
from dit_lens.trajectory.schedule import Schedule

__all__ = ["Schedule", "Trajectory", "record_of"]
