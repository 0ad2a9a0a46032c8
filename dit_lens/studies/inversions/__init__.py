"""What may be asked of the inversions of a study, a module each.

probes: a probe on inverted states, which all others use. solvers: costs and errors by solver and number of steps.
reports: one inversion step by step, with sentences. prompts: how far it depends on its prompt. labels: whether its
error alone separates possible from impossible clips.
"""
