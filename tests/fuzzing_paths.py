"""Wild arguments of what goes along a path, for `fuzzing`: a small stock Wan pipeline, two clips at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from small_pipelines import lens_on, noise, wan
from wild_arguments import MANY, NAME, SCALAR, TENSOR, TOKENS, VALUE, WILD, Z, mostly

from dit_lens.cache import ActivationCache

LATENT = torch.cat([noise(0), noise(1)])
WRONG = st.sampled_from([
    LATENT[:, :3], LATENT[..., :3], LATENT[0], LATENT[:0], LATENT.long(), LATENT * torch.nan, LATENT.half(),
    LATENT[:1], LATENT.numpy(), LATENT.tolist(), "clip.mp4",
])  # fmt: skip
LATENTS = mostly(st.just(LATENT), WRONG | TENSOR | WILD)
SIGMA = mostly(st.sampled_from([0.0, 0.3, 1, np.float64(0.5)]), SCALAR | st.sampled_from([-0.1, 1.1, np.array([0.5])]))
STEP = mostly(st.sampled_from([0, 1, 2, np.int64(1)]), SCALAR)
DTYPE = st.sampled_from([torch.float16, torch.float64, torch.int64, "float16", "bfloat16", float, np.float32, 3])
DEVICE = st.sampled_from(["cpu", "cuda", "cuda:9", "gpu", "", "meta", torch.device("cpu"), 3, 0.5, b"cpu"])
STEPS = mostly(
    st.sampled_from([1, 2, [0.0, 0.5, 1.0], [0, 1]]),
    SCALAR | MANY | st.sampled_from([[0.0, 2.0], [1.0, 0.0], [0.5], [], "2", [0, "a"]]),
)
STEPS = STEPS.filter(lambda steps: not (isinstance(steps, int) and steps > 100))


class OnPath:
    """Calls on a small Wan pipeline."""

    def __init__(self) -> None:
        self.lens = lens_on(wan())
        self.path = self.lens.invert(LATENT, steps=2, solver="euler")

    def cached(self, draw: Callable) -> Any:
        """`run_with_cache` at a place on a trajectory."""
        path = draw(mostly(st.just(self.path), WILD))
        place = draw(st.sampled_from([{"step"}, {"sigma"}, {"steps"}, {"step", "sigma"}, {"branch", "step"}]))
        kinds = {
            "step": STEP,
            "sigma": SIGMA,
            "steps": mostly(st.just([0, 2]), MANY | SCALAR),
            "branch": mostly(st.just("cond"), NAME),
        }
        where = {name: draw(kinds[name]) for name in sorted(place)}
        return self._kept(draw, path, **where)

    def cached_latent(self, draw: Callable) -> Any:
        """`run_with_cache` of a latent and a timestep."""
        arguments = {
            "latent": draw(LATENTS),
            "timestep": draw(mostly(st.sampled_from([500.0, [500.0, 200.0]]), SIGMA | VALUE)),
        }
        if not draw(mostly(st.just(True), st.just(False))):
            arguments[draw(st.sampled_from(["encoder_hidden_states", "text", "timestep"]))] = draw(VALUE)
        return self._kept(draw, None, **arguments)

    def _kept(self, draw: Callable, path: Any, **where: Any) -> Any:
        options = {
            "names_filter": mostly(st.just(Z), NAME | MANY), "reduce": mostly(st.just(lambda x: x.mean(1)), VALUE),
            "tokens": TOKENS, "device": DEVICE, "dtype": DTYPE, "start_at": SCALAR, "stop_at": NAME,
            "entering": st.just({}) | MANY,
        }  # fmt: skip
        asked = draw(st.lists(st.sampled_from(sorted(options)), max_size=2, unique=True))
        velocity, cache = self.lens.run_with_cache(path, **where, **{name: draw(options[name]) for name in asked})
        assert isinstance(cache, ActivationCache) and (velocity is None) == ("stop_at" in asked)
        return None if velocity is None or "steps" in where or len(where.get("latent", LATENT)) == 1 else velocity

    def inverted(self, draw: Callable) -> Any:
        options = {"solver": NAME | st.just("euler"), "until": SCALAR, "batch_size": SCALAR, "guidance": SCALAR,
                   "prompt": st.just("") | NAME | MANY}  # fmt: skip
        asked = draw(st.lists(st.sampled_from(sorted(options)), max_size=2, unique=True))
        self.lens.invert(draw(LATENTS), draw(STEPS), **{name: draw(options[name]) for name in asked})

    def sampled(self, draw: Callable) -> Any:
        options = {"solver": NAME | st.just("pipeline"), "steps": STEPS, "batch_size": SCALAR, "guidance": SCALAR,
                   "generator": st.just(torch.Generator()) | SCALAR}  # fmt: skip
        asked = draw(st.lists(st.sampled_from(sorted(options)), max_size=2, unique=True))
        self.lens.sample(
            draw(st.just(self.path) | st.just(LATENT) | LATENTS), **{"steps": 2} | {n: draw(options[n]) for n in asked}
        )

    def noised(self, draw: Callable) -> Any:
        latents, noise = draw(LATENTS), draw(LATENTS)
        path = self.lens.noising(latents, noise, draw(STEPS))
        assert path.latents.shape[1:] == latents.shape and path.latents.isfinite().all()

    def decoded(self, draw: Callable) -> Any:
        return self.lens.decode(draw(mostly(st.just(self.path), WILD | LATENTS)), draw(STEP))

    def sized(self, draw: Callable) -> Any:
        """Of schedules, shapes, blocks and estimates."""
        calls = [
            lambda: self.lens.schedule(draw(STEPS), draw(st.none() | LATENTS | MANY)),
            lambda: self.lens.latent_shape(draw(SCALAR), draw(st.just(32) | SCALAR), draw(st.just(32) | SCALAR)),
            lambda: self.lens.block(draw(WILD)),
            lambda: self.path.latent(draw(WILD)),
            lambda: self.path.schedule.step_at(draw(SIGMA)),
            lambda: self.path.schedule.shifted(draw(SIGMA)),
            lambda: self.lens.estimate(draw(LATENTS), draw(NAME), draw(SCALAR)),
            lambda: self.lens.fidelity(draw(WILD | LATENTS)),
        ]
        draw(st.sampled_from(calls))()
