"""Trajectories: latents at every noise level between data and noise, with a record of how they were computed.

- `schedule`: the noise levels of a path, and the timestep that the model gets at each;
- `record`: evaluations, residual and convergence of each integration step;
- `path`: latents, schedule, conditioning, solver and record in one object, saved to and opened from a file;
- `on_disk`: paths too long for memory, written step by step and read lazily.
"""

from dit_lens.trajectory.path import Trajectory, checked
from dit_lens.trajectory.record import record_of
from dit_lens.trajectory.schedule import Schedule

__all__ = ["Schedule", "Trajectory", "checked", "record_of"]
