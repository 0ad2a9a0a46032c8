"""Changes along a trajectory equal whole paths walked under hooks, nulls are zero, nothing earlier is run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dit_lens import edits
from dit_lens.conditioning import Conditioning, Guidance
from dit_lens.flow import Solver
from dit_lens.hook_points import Hook
from dit_lens.interventions import Intervention, PathSegment, sweep, sweep_along, sweep_to_clip
from dit_lens.interventions.effects import run
from dit_lens.lens import DiTLens
from dit_lens.metrics import Readout
from dit_lens.probing import Probe, Reads
from dit_lens.trajectory import Trajectory

STEPS, ON_THE_WAY, READOUT = 5, (2, 3), 4
SAME = 1e-5
WRITES = [(f"blocks.1.hook_{write}", edits.zero()) for write in ("attn_out", "cross_attn_out", "mlp_out")]
CHANGES = [
    Intervention.single("blocks.0.attn.hook_z", edits.zero(heads=[2])),
    Intervention(WRITES),
    Intervention.single("blocks.2.hook_resid_post", edits.noise(0.5, seed=0)),
    Intervention.single("blocks.5.hook_mlp_out", edits.scale(3.0)),
    Intervention.single("hook_latent", edits.scale(0.9)),
    Intervention([("blocks.3.hook_resid_post", edits.scale(1.1)), ("blocks.3.hook_resid_post", edits.noise(0.1, 1))]),
]


@pytest.fixture(scope="module")
def latent() -> Tensor:
    return torch.randn(2, 16, 5, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def path(lens: DiTLens, latent: Tensor) -> Trajectory:
    return lens.invert(latent, steps=STEPS, solver="euler")


@pytest.fixture(scope="module")
def metrics() -> Mapping:
    weight = torch.randn(128, generator=torch.Generator().manual_seed(0))
    probe = Probe(weight, 0.3, 1.0, Reads("blocks.3.hook_resid_post", READOUT, 0.8, "random"))
    return {
        "logit": probe.logit,
        "x0": Readout(lambda v, cache: 10 * cache["hook_x0"].flatten(1)[:, ::7].mean(1), ("hook_x0",)),
    }


@torch.no_grad()
def literally(
    lens: DiTLens,
    path: Trajectory,
    steps: Sequence[int],
    readout: int,
    changes: Sequence[Intervention],
    metrics: Mapping,
) -> dict[str, dict[str, Tensor]]:
    """One whole inversion from the data per change, under `lens.hooks`, and one evaluation per reading."""
    guidance, solver = path.guidance, path.solver
    assert solver is not None

    def read(there: Trajectory, bound: Mapping, hooks: Sequence) -> dict[str, Tensor]:
        with lens.hooks(hooks):
            points = [point for point, _ in hooks]
            ran = run(lens, lens.evaluation(there, readout), metrics.values(), points)
        return {name: metric(ran.velocity, ran.cache) for name, metric in bound.items()}

    unchanged = run(lens, lens.evaluation(path, readout), metrics.values())
    bound = {name: metric.bind(unchanged, unchanged) for name, metric in metrics.items()}
    before = read(path, bound, [])
    effects: dict[str, dict[str, list[Tensor]]] = {way: {name: [] for name in metrics} for way in ("end", "both")}
    for change in changes:
        with lens.hooks(change.edits, steps=steps):
            there = lens.invert(path.latent(0), steps=STEPS, solver=solver, until=readout, guidance=guidance)
        for way, hooks in (("end", []), ("both", change.edits)):
            for name, value in read(there, bound, hooks).items():
                effects[way][name].append(value - before[name])
    return {way: {name: torch.stack(v, 1) for name, v in by_name.items()} for way, by_name in effects.items()}


SOLVERS = {
    "euler": (Solver("euler"), SAME, CHANGES),
    "at the target's time": (Solver("euler", "target"), SAME, CHANGES[:3]),
    "heun": (Solver("heun"), SAME, CHANGES),
    "implicit": (Solver("implicit_euler"), 1e-4, CHANGES[:2]),  # which goes on until every clip of its batch is solved
}


@pytest.mark.parametrize(("solver", "same", "changes"), SOLVERS.values(), ids=SOLVERS)
def test_a_sweep_equals_whole_inversions_under_hooks(
    lens: DiTLens, latent: Tensor, metrics: Mapping, solver: Solver, same: float, changes: list[Intervention]
) -> None:
    path = lens.invert(latent, steps=STEPS, solver=solver)
    fast = sweep_along(lens, PathSegment(path, ON_THE_WAY, READOUT), changes, metrics)
    slow = literally(lens, path, ON_THE_WAY, READOUT, changes, metrics)
    for name in metrics:
        for way, effects in (("end", fast.end), ("both", fast.both)):
            torch.testing.assert_close(effects.effect[name], slow[way][name], rtol=same, atol=same)
            assert slow[way][name].abs().mean(0).min() > same
        assert (fast.both.effect[name] - fast.end.effect[name]).abs().max() > 100 * SAME


def test_guided_paths_are_walked_with_guidance(lens: DiTLens, latent: Tensor, metrics: Mapping) -> None:
    texts = torch.randn(2, *lens.conditioning.tensors["encoder_hidden_states"].shape[1:])  # of each clip its own
    guidance = Guidance(2.0, Conditioning({"encoder_hidden_states": texts}, "other"))
    path = lens.invert(latent, steps=STEPS, solver="euler", guidance=guidance)
    fast = sweep_along(lens, PathSegment(path, ON_THE_WAY, READOUT), CHANGES[:3], metrics, batch_size=7)
    slow = literally(lens, path, ON_THE_WAY, READOUT, CHANGES[:3], metrics)
    torch.testing.assert_close(fast.end.effect["logit"], slow["end"]["logit"], rtol=SAME, atol=SAME)
    plain = literally(lens, replace(path, guidance=None), ON_THE_WAY, READOUT, CHANGES[:3], metrics)
    assert (plain["end"]["logit"] - slow["end"]["logit"]).abs().max() > 100 * SAME


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_what_changes_nothing_has_an_effect_of_exactly_zero(
    lens: DiTLens, path: Trajectory, metrics: Mapping, batch_size: int
) -> None:
    nulls: list[Intervention] = [
        Intervention.single("blocks.2.attn.hook_z", lambda x, hook: None),
        Intervention.single("blocks.4.hook_resid_post", edits.scale(1.0)),
        Intervention.single("blocks.1.hook_mlp_out", edits.add(torch.zeros(128))),
        CHANGES[0],
    ]
    effects = sweep_along(lens, PathSegment(path, ON_THE_WAY, READOUT), nulls, metrics, batch_size=batch_size)
    clip = sweep_to_clip(
        lens, PathSegment(path, (2, 1), 0), nulls, {"sum": lambda x: x.sum((1, 2, 3, 4))}, batch_size=batch_size
    )
    for effect in (*effects.end.effect.values(), *effects.both.effect.values(), clip.effect["sum"]):
        assert not effect[:, :3].any() and effect[:, 3].all()


def test_what_acts_at_the_readout_alone_is_the_effect_of_a_plain_sweep(
    lens: DiTLens, path: Trajectory, metrics: Mapping
) -> None:
    def late(x: Tensor, hook: Hook) -> Tensor | None:
        return 0.5 * x if hook.step == READOUT else None

    changes = [Intervention.single("blocks.1.hook_attn_out", late)]
    effects = sweep_along(lens, PathSegment(path, ON_THE_WAY, READOUT), changes, metrics)
    plain = sweep(lens, lens.evaluation(path, READOUT), changes, metrics)
    for name in metrics:
        assert not effects.end.effect[name].any() and plain.effect[name].abs().min() > 100 * SAME
        torch.testing.assert_close(effects.both.effect[name], plain.effect[name], rtol=SAME, atol=SAME)


def test_a_shift_of_the_velocity_arrives_times_the_length_of_its_step(lens: DiTLens, path: Trajectory) -> None:
    shift = torch.randn(16, 5, 8, 8, generator=torch.Generator().manual_seed(1))
    change, summed = Intervention.single("hook_velocity", edits.add(shift)), lambda x: x.flatten(1)
    metric = Readout(lambda velocity, cache: summed(cache["hook_latent"]), ("hook_latent",))
    up = sweep_along(lens, PathSegment(path, [READOUT - 1], READOUT), [change], {"": metric})
    sigmas = path.schedule.sigmas
    expected = (sigmas[READOUT] - sigmas[READOUT - 1]) * shift.flatten().expand(2, 1, -1)
    torch.testing.assert_close(up.end.effect[""], expected, rtol=0, atol=SAME)
    down = sweep_to_clip(lens, PathSegment(path, [1], 0), [change], {"": summed})
    torch.testing.assert_close(down.effect[""], -sigmas[1] * shift.flatten().expand(2, 1, -1), rtol=0, atol=SAME)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_on_to_the_clip_equals_whole_samples_under_hooks(lens: DiTLens, latent: Tensor, solver: str) -> None:
    path, steps = lens.sample(latent, steps=STEPS, solver=solver), (3, 2, 1)
    metrics: dict[str, Callable[[Tensor], Tensor]] = {
        "far": lambda x: (x - path.latent(0)).flatten(1).norm(dim=1),
        "light": lambda x: lens.family.decode(lens.vae, x).mean((1, 2, 3, 4)),
    }
    fast = sweep_to_clip(lens, PathSegment(path, steps, 0), CHANGES, metrics)
    for i, change in enumerate(CHANGES):
        with lens.hooks(change.edits, steps=steps):
            there = lens.sample(latent, steps=STEPS, solver=solver).latent(0)
        for name, metric in metrics.items():
            slow = metric(there) - metric(path.latent(0))
            torch.testing.assert_close(fast.effect[name][:, i], slow, rtol=SAME, atol=2 * SAME)
    assert fast.effect["far"].min() > 100 * SAME and fast.before["far"].abs().max() < 1e-4


def test_an_inverted_path_is_sampled_on_from_its_own_latents(lens: DiTLens, path: Trajectory) -> None:
    """By Euler's rule written out, one evaluation at a time."""
    sigmas, (change, *_) = path.schedule.sigmas, CHANGES

    def sampled(hooks: Sequence, x: Tensor) -> Tensor:
        for step in (3, 2, 1):
            at = replace(path, latents=x.expand(step + 1, *x.shape))
            with lens.hooks(hooks if step > 1 else []):
                velocity = lens.run_with_cache(at, step=step, names_filter="hook_velocity")[0]
            assert velocity is not None
            x = x + (sigmas[step - 1] - sigmas[step]) * velocity
        return x

    fast = sweep_to_clip(lens, PathSegment(path, (2, 3), 0), [change], {"": lambda x: x.flatten(1)})
    whole, without = (sampled(hooks, path.latent(3)) for hooks in ([], change.edits))
    torch.testing.assert_close(fast.before[""], whole.flatten(1), rtol=SAME, atol=SAME)
    torch.testing.assert_close(fast.effect[""][:, 0], (without - whole).flatten(1), rtol=SAME, atol=SAME)
    assert (without - whole).abs().max() > 100 * SAME


@pytest.mark.parametrize(("solver", "first"), [("euler", 2), (Solver("euler", "target"), 2), ("heun", 1)])
def test_nothing_earlier_is_run_again(
    lens: DiTLens, latent: Tensor, solver: str | Solver, first: int, metrics: Mapping
) -> None:
    """Heun evaluates step 2 on the way from step 1 to it."""
    path, timesteps = lens.invert(latent, steps=STEPS, solver=solver), []
    handle = lens.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: timesteps.append(float(kwargs["timestep"].min())), with_kwargs=True
    )
    sweep_along(lens, PathSegment(path, ON_THE_WAY, READOUT), CHANGES[:2], metrics)
    handle.remove()
    assert min(timesteps) == path.schedule.timesteps[first] and max(timesteps) == path.schedule.timesteps[READOUT]


def test_only_what_can_be_walked_is(lens: DiTLens, latent: Tensor, path: Trajectory, metrics: Mapping) -> None:
    def refused(error: type[Exception], says: str, path: Trajectory, steps: Sequence[int], readout: int) -> None:
        with pytest.raises(error, match=says):
            sweep_along(lens, PathSegment(path, steps, readout), CHANGES[:1], metrics)

    refused(ValueError, "readout amid|above all of them", path, (1, 3), 2)
    refused(ValueError, "one step or more", path, (), 2)
    refused(IndexError, "got step 4 · expected of", path, (2, 4), 4)  # Euler does not evaluate where it arrives
    refused(IndexError, "expected 0", path, (2,), STEPS + 1)
    refused(IndexError, "stopped", lens.invert(latent, steps=STEPS, solver="euler", until=3), (2,), 4)
    for name in ("midpoint", "fireflow"):
        between = lens.invert(latent, steps=STEPS, solver=name, until=2)
        refused(ValueError, "evaluates between steps", between, (1,), 2)
    refused(ValueError, "by noising", lens.noising(latent, torch.randn_like(latent), steps=STEPS), (1,), 3)
    refused(ValueError, "by sample to integrate up", lens.sample(latent, steps=STEPS, solver="euler"), (1,), 3)


def test_only_what_can_be_changed_is(lens: DiTLens, path: Trajectory, metrics: Mapping) -> None:
    segment, down = PathSegment(path, (2,), 3), PathSegment(path, (2,), 0)
    read_only = Intervention.single(next(n for n, p in lens.table.points.items() if p.write is None), edits.zero())
    with pytest.raises(TypeError, match="can only be read"):
        sweep_along(lens, segment, [read_only], metrics)
    with pytest.raises(TypeError, match="can only be read"):
        sweep_to_clip(lens, down, [read_only], {"": lambda x: x.sum((1, 2, 3, 4))})
    with pytest.raises(KeyError, match="did you mean"):
        sweep_along(lens, segment, [Intervention.single("blocks.1.attn.hook_zz", edits.zero())], metrics)
    with pytest.raises(ValueError, match="no interventions"):
        sweep_along(lens, segment, [], metrics)
    with pytest.raises(ValueError, match="no interventions"):
        sweep_to_clip(lens, down, [], {"": lambda x: x})
    with pytest.raises(ValueError, match="no metrics"):
        sweep_to_clip(lens, down, CHANGES, {})
    with lens.hooks([("hook_latent", lambda x, hook: None)]):
        for swept in (
            lambda: sweep_along(lens, segment, CHANGES, metrics),
            lambda: sweep_to_clip(lens, down, CHANGES, {"": lambda x: x}),
        ):
            with pytest.raises(RuntimeError, match="active hooks"):
                swept()
        lens.run_with_cache(path, step=1)
