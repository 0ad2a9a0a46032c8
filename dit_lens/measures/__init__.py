"""Measures: what follows from the result of an analysis. Pure functions of a Dataset; no model, no torch, no drawing.

One module for each question (`measures.patch_heads`), with its scores, `verdict(result)` (one sentence in plain words:
what was found, how sure, against which control) and `table(result, full=False)`; and what they share:

- `labels`: the label effect, content, halves of the scenes;
- `selection`: which scenes are pooled, and those of each property;
- `comparison`: whether a value is above chance and above its controls, in a sentence;
- `side_by_side`: every measure of a probe in the same columns, the relative one never without the label's share;
- `text` and `columns`: how numbers, intervals and tables are printed;
- `reference_numbers`: published accuracies.

Results have the dimension `scene`, with the coordinates `property`, `group` (scenes of one group are not independent)
and `crossed`; clips of a scene have the dimension `role`: "A" and "B" possible, "C" and "D" impossible. A and C are a
pair, B and D another. Data of single pairs have the roles A and C alone.
"""
