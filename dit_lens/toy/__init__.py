"""A small world whose truth is known: moving shapes, models trained on them, and what a tracker sees in their videos.

Everything here needs ground truth of objects; nothing outside needs it. The defaults of all options (mini-wan on
miniphys) lie here, so that every question runs on a laptop within minutes and its answer can be checked.

miniphys: scenes with possible and impossible clips. mini_wan, mini_vae: the architectures; weights: the trained models;
training: their recipes. tracker: objects found in frames. behaviour: what a model's continuations show. truth:
generated videos compared with true tracks. content: visible content of a clip as a label. views, view_probes: states of
objects, and probes that decode them.
"""
