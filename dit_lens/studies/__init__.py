"""Studies: what every question shares. Models, data, conditioning, the path to noise, compute and output, once for all.

options: the shared options, and defaults that follow the model and the data; light, so that they are checked before
anything heavy is imported. study: `Study`, which gives what they stand for. scenes: those to fit and to test on.
lenses: the models and controls. paths: how clips get to noise. price: what it will cost, said before it is done.
readers: models with frozen probes. scoring: grids of probes as tables. encoders: what turns clips into features.
outcome: results named by what was asked. Then what several questions share, or one of them asks: exchanges, readouts
(patching), head_shares (six methods), ablations, block_ablations, block_readings, integrated_gradients, shown
(attribution), velocity_errors (surprise), data_sets and protocol_scores (published tables), inversions (fidelity).
"""

from __future__ import annotations

from dit_lens.studies.options import LAWS, Size
from dit_lens.studies.study import ContinuationStudy, EncoderStudy, PatchStudy, ProbeStudy, Study

__all__ = ["LAWS", "ContinuationStudy", "EncoderStudy", "PatchStudy", "ProbeStudy", "Size", "Study"]
