"""What a user writes stays where it was written: in a hook, in a cache, on a thread, in one lens."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import build
from torch import Tensor

from dit_lens import DiTLens, laws, patching, reductions
from dit_lens.hook_points import Hook
from dit_lens.metrics import Readout
from dit_lens.running import Evaluation, HookedTransformer, Recorder, Request
from dit_lens.running.active import ActiveHooks, Where, called
from dit_lens.trajectory import Trajectory

WRITE = "blocks.1.hook_attn_out"


@pytest.fixture(scope="module")
def small() -> DiTLens:
    return DiTLens(transformer=build("wan"), verify=False)


@pytest.fixture(scope="module")
def fed(small: DiTLens) -> Evaluation:
    return laws.example(small.model.members[0])


@pytest.fixture(scope="module")
def path(lens: DiTLens) -> Trajectory:
    return lens.invert(torch.randn(2, *lens.latent_shape(17, 32, 32)[1:]), 3, "euler")


def velocity(lens: DiTLens, fed: Evaluation, hook: Any) -> Tensor:
    with lens.hooks([(WRITE, hook)]):
        return lens.model.velocity(fed)


# Inference mode.


def zero(x: Tensor, hook: Hook) -> None:
    x.zero_()


@pytest.mark.parametrize("name", ["wan", "cogvideox", "hunyuan", "ltx2"])
def test_inference_mode_is_no_grad_to_the_bit(name: str) -> None:
    def everything() -> dict[str, Tensor]:
        model = DiTLens(transformer=build(name)).model.members[0]  # with laws
        out, cache = model.run_with(laws.example(model), {WRITE: [zero]}, Request("*"))
        assert out is not None
        return cache | {"": out}

    with torch.no_grad():
        expected = everything()
    with torch.inference_mode():
        values = everything()
        with pytest.raises(RuntimeError, match="version counter"):  # what once distinguished hooks
            _ = values[""]._version
    assert values.keys() == expected.keys() and all(torch.equal(values[key], expected[key]) for key in expected)


def test_heads_are_patched_in_inference_mode(lens: DiTLens, path: Trajectory) -> None:
    clean = path
    corrupted = replace(path, latents=path.latents.flip(1))

    def effects() -> Any:
        metric = Readout(lambda velocity, cache: velocity.flatten(1).norm(dim=1))
        return patching.patch_heads(lens, clean, corrupted, [1], metric)

    with torch.no_grad():
        expected = effects()
    with torch.inference_mode():
        assert effects().equals(expected)
    assert abs(expected.effect).max() > 0


# Ways to write.


def through_data(x: Tensor, hook: Hook) -> None:
    x.data.zero_()


def new_data(x: Tensor, hook: Hook) -> None:
    x.data = torch.zeros_like(x)


def into_out(x: Tensor, hook: Hook) -> None:
    torch.mul(x, 0, out=x)


def into_numpy(x: Tensor, hook: Hook) -> None:
    x.numpy()[:] = 0


def new_storage(x: Tensor, hook: Hook) -> None:
    x.set_(torch.zeros_like(x))  # pyright: ignore[reportCallIssue, reportArgumentType]


def detached(x: Tensor, hook: Hook) -> None:
    x.detach().zero_()


def raw_bytes(x: Tensor, hook: Hook) -> None:
    x.untyped_storage().fill_(0)


def through_a_view(x: Tensor, hook: Hook) -> None:
    x.view(-1).copy_(torch.zeros(x.numel()))


def returned(x: Tensor, hook: Hook) -> Tensor:
    x.data.zero_()
    return x


WAYS = [through_data, new_data, into_out, into_numpy, new_storage, detached, raw_bytes, through_a_view, returned]


@pytest.mark.parametrize("write", WAYS)
def test_every_spelling_of_a_write_acts(small: DiTLens, fed: Evaluation, write: Callable) -> None:
    plain, expected = small.model.velocity(fed), velocity(small, fed, lambda x, hook: torch.zeros_like(x))
    assert not torch.equal(plain, expected)
    assert torch.equal(velocity(small, fed, write), expected)


@pytest.mark.parametrize("write", WAYS)
def test_so_it_does_in_one_branch_of_a_batch_of_two(write: Callable) -> None:
    active, x = ActiveHooks(), torch.randn(4, 3)
    hook = Hook(WRITE, "b d", None, 0, 0.5)  # pyright: ignore[reportArgumentType]
    point = HookedTransformer(build("wan"), "small").table.points[WRITE]
    with active.adding([([point], write)], Where.of(branches=("cond",))):
        (function,) = active.at(Evaluation({}, 0, 0.5, branches=("uncond", "cond")))[WRITE]
        new = called(function, x, hook, point)
    assert torch.equal(new[:2], x[:2]) and not new[2:].any() and x[2:].any()


def negated(x: Tensor, hook: Hook) -> None:
    x.data.neg_()


def test_a_hook_that_writes_nothing_leaves_the_model_untouched(small: DiTLens, fed: Evaluation) -> None:
    """Not a number equals itself here, and 0 is another number than -0."""
    point, hook = small.table.points["hook_x0"], Hook("hook_x0", "b d", None, 0, 0.5)  # pyright: ignore
    assert point.write is None
    for x in (torch.tensor([float("nan"), 0.0]), torch.randn(2, 0), torch.ones(3, dtype=torch.bfloat16)):
        assert called(lambda x, hook: None, x, hook, point) is x
    with pytest.raises(TypeError, match="can only be read"):
        called(negated, torch.zeros(2), hook, point)
    assert torch.equal(velocity(small, fed, lambda x, hook: None), small.model.velocity(fed))


def test_another_shape_is_refused_however_it_came(small: DiTLens, fed: Evaluation) -> None:
    def shorter(x: Tensor, hook: Hook) -> None:
        x.data = x[:, 1:].clone()

    with pytest.raises(ValueError, match="from a hook at"):
        velocity(small, fed, shorter)


# Memory.


def test_in_the_model_one_memory_has_two_names(small: DiTLens, fed: Evaluation) -> None:
    """The control of what follows: the stream behind a block is the stream before the next."""
    left, entered, latent = "blocks.0.hook_resid_post", "blocks.1.hook_resid_pre", "hook_latent"
    memory: dict[str, int] = {}

    def visit(point: Any, x: Tensor) -> Tensor:
        memory[point.name] = x.data_ptr()
        return x

    model = small.model.members[0]
    model.traced.run(fed.inputs, [model.table.points[name] for name in (latent, left, entered)], visit)
    assert memory[left] == memory[entered] and memory[latent] == fed.inputs["hidden_states"].data_ptr()


def test_editing_one_key_of_a_cache_leaves_all_else_as_it_is(lens: DiTLens, path: Trajectory) -> None:
    latents, part = path.latents.clone(), slice(0, 1)
    out, cache = lens.run_with_cache(path, 1, names_filter="*")
    assert out is not None
    known = {"velocity": out.clone(), **{name: x.clone() for name, x in cache.items()}}
    first = cache[part]
    for name in cache:
        first[name].fill_(3.0)
    for name in cache:
        now = {"velocity": out, **cache}
        assert all(torch.equal(now[key], known[key]) for key in known) and torch.equal(path.latents, latents), name
        cache[name].zero_()
        known[name].zero_()


REDUCTIONS = [None, lambda a: a[:, 0], lambda a: a[:, :3], lambda a: a.mean(1), lambda a: a.transpose(0, 1), torch.relu]


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_what_is_held_is_what_is_shown(lens: DiTLens, path: Trajectory, reduce: Callable | None) -> None:
    points, step, kept = "blocks.*.hook_resid_p*", 1, Recorder(lens.blocks, reduce)
    _, cache = lens.run_with_cache(path, step, names_filter=points, reduce=reduce)
    with lens.hooks([(points, kept)]):
        lens.model.velocity(lens.evaluation(path, step))
    held = [x.untyped_storage().nbytes() for x in cache.values()]
    assert held == [x.nbytes for x in cache.values()]
    assert held == [x.untyped_storage().nbytes() for x in kept.kept[0].cache.values()]
    assert sum(held) == lens.estimate(path.latents[step], points, reduce=reduce).kept_bytes
    whole = torch.zeros(2, 80)
    assert whole[:, 0].untyped_storage().nbytes() == 80 * whole[:, 0].nbytes  # a view holds all of it


def test_a_region_is_no_view_of_the_whole() -> None:
    grid = Hook("x", "b n d", HookedTransformer(build("wan"), "small").grid(laws.example(
        HookedTransformer(build("wan"), "small"))), 0, 0.5)  # fmt: skip
    x = torch.randn(1, grid.grid.tokens, 4)
    values = reductions.parse("region:0:*:*")(x, grid).values
    assert values.untyped_storage().nbytes() == values.nbytes < x.nbytes


def test_what_is_part_of_a_graph_stays_part_of_it(small: DiTLens, fed: Evaluation) -> None:
    latent = fed.inputs["hidden_states"].clone().requires_grad_()
    out, cache = small.run_with_cache(
        latent=latent, timestep=500.0, encoder_hidden_states=fed.inputs["encoder_hidden_states"]
    )
    assert out is not None
    slopes = torch.autograd.grad(out.sum(), [cache["resid_post", 1], latent])
    assert all(slope.any() for slope in slopes)


def test_a_reduction_to_anything_but_a_tensor_is_refused(lens: DiTLens, path: Trajectory) -> None:
    for reduce in (reductions.parse("mean"), lambda x: float(x.mean())):
        with pytest.raises(TypeError, match=r"from the reduction at hook_embed · expected a tensor"):
            lens.model.run(lens.evaluation(path, 1), Request("hook_embed", reduce))


# Threads and tasks.


def on_a_thread(call: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


def test_hooks_act_on_their_thread_alone(small: DiTLens, fed: Evaluation) -> None:
    plain, calls = (
        small.model.velocity(fed),
        (lambda: small.model.velocity(fed), lambda: small.transformer(**fed.inputs)[0]),
    )
    edited = velocity(small, fed, zero)
    with small.hooks([(WRITE, zero)]):
        for call in calls:  # a lens's own evaluation, and a call of a pipeline's
            assert torch.equal(on_a_thread(call), plain) and torch.equal(call(), edited)
    with pytest.raises(RuntimeError, match="on its thread"), small.hooks([(WRITE, zero)]):
        on_a_thread(calls[0])


def test_hooks_of_two_threads_at_once_act_each_on_its_own(small: DiTLens, fed: Evaluation) -> None:
    """They open and close in turn, the first to open closes first, and evaluations of the two collide."""
    expected = [velocity(small, fed, factor) for factor in (lambda x, hook: 0 * x, lambda x, hook: 2 * x)]
    meet, wrong = threading.Barrier(2, timeout=60), []

    def work(number: int) -> None:
        for _ in range(2):
            meet.wait()
            with small.hooks([(WRITE, lambda x, hook: 2 * number * x)]):
                meet.wait()
                for call in (small.model.velocity, lambda fed: small.transformer(**fed.inputs)[0]):
                    wrong.append(not torch.equal(call(fed), expected[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [False] * 8
    assert "active" not in vars(vars(small.transformer).get("forward", small.transformer))


def test_hooks_act_in_their_task_and_in_those_it_makes(small: DiTLens, fed: Evaluation) -> None:
    plain, edited = small.model.velocity(fed), velocity(small, fed, zero)

    async def evaluated() -> Tensor:
        return small.model.velocity(fed)

    async def hooked(other_may: asyncio.Event, go_on: asyncio.Event) -> Tensor:
        with small.hooks([(WRITE, zero)]):
            other_may.set()
            await go_on.wait()
            return await asyncio.create_task(evaluated())

    async def both() -> list[Tensor]:
        opened, go_on = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(hooked(opened, go_on))
        await opened.wait()
        beside = await evaluated()
        go_on.set()
        return [beside, await task]

    assert [torch.equal(*pair) for pair in zip(asyncio.run(both()), (plain, edited), strict=True)] == [True, True]


# Lenses.


def test_an_evaluation_inside_a_hook_is_refused(small: DiTLens, fed: Evaluation) -> None:
    with pytest.raises(RuntimeError, match="inside another, such as in a hook · expected one at a time"):
        velocity(small, fed, lambda x, hook: small.model.velocity(fed))
    assert velocity(small, fed, zero).isfinite().all()  # nothing is left of it


def test_a_second_lens_is_refused_while_the_first_has_hooks_open(small: DiTLens, fed: Evaluation) -> None:
    second, refused = DiTLens(transformer=small.transformer, verify=False), "hooks that another lens has open"
    with small.hooks([(WRITE, zero)]):
        small.model.velocity(fed)
        with pytest.raises(RuntimeError, match=refused):
            velocity(second, fed, zero)
        with pytest.raises(RuntimeError, match=refused):
            second.model.velocity(fed)
        with pytest.raises(RuntimeError, match=refused):
            DiTLens(transformer=small.transformer)
    assert torch.equal(velocity(second, fed, zero), velocity(small, fed, zero))


def test_a_lens_is_neither_copied_nor_pickled(small: DiTLens) -> None:
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"got a lens on .* to copy or pickle · expected one lens for each model"):
            copied(small)
    twin = DiTLens(transformer=copy.deepcopy(small.transformer), verify=False)
    assert twin.blocks == small.blocks
