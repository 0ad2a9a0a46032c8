"""Conformance: what every family owes, on small random models of the stock diffusers classes."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from small_models import SMALL, build
from torch import Tensor

from dit_lens import DiTLens, laws
from dit_lens.families import wan
from dit_lens.families.family import Family
from dit_lens.hook_points import Hook
from dit_lens.running import Evaluation, HookedTransformer, Model, Request

ROOT = ("hook_latent", "hook_embed", "hook_time_embed", "hook_velocity", "hook_x0")
BLOCK = (
    "hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_q", "attn.hook_k", "attn.hook_v",
    "attn.hook_rot_q", "attn.hook_rot_k", "attn.hook_pattern", "attn.hook_z", "attn.hook_result", "attn.hook_raw_out",
    "mlp.hook_pre", "mlp.hook_post", "hook_resid_mid_attn",
)  # fmt: skip


@pytest.fixture(scope="module", params=list(SMALL))
def model(request: pytest.FixtureRequest) -> HookedTransformer:
    return HookedTransformer(build(request.param), f"small {request.param}")


@pytest.fixture(scope="module")
def evaluation(model: HookedTransformer) -> Evaluation:
    return laws.example(model)


def test_every_name_of_the_vocabulary_is_there_or_absent_for_a_reason(model: HookedTransformer) -> None:
    wanted = [*ROOT, *(f"blocks.{block}.{name}" for block in range(len(model.table.blocks)) for name in BLOCK)]
    for name in wanted:
        reasons = [reason for pattern, reason in model.table.absent.items() if fnmatchcase(name, pattern)]
        assert (name in model.table.points) != bool(reasons), name
        assert all(len(reason) > 5 for reason in reasons)
    assert not [name for name in model.table.points for pattern in model.table.absent if fnmatchcase(name, pattern)]
    letters = {letter for point in model.table.points.values() for letter in point.axes.split()}
    assert letters <= {
        "b", "c", "f", "h", "w", "n", "m", "a", "n2", "m2", "a2", "n+m", "n+m2", "k", "e", "d", "d_mlp"
    }  # fmt: skip


def test_the_unhooked_model_is_the_stock_model_to_the_bit(model: HookedTransformer, evaluation: Evaluation) -> None:
    stock = copy.deepcopy(model.transformer)(**evaluation.inputs)
    everything, cache = model.run_with(evaluation, {}, Request(list(model.table.points)))
    assert torch.equal(model.velocity(evaluation), model.family.velocity(evaluation.inputs, stock))
    assert torch.equal(everything, model.velocity(evaluation))
    assert set(cache) == set(model.table.points)
    assert all(torch.isfinite(value).all() for value in cache.values())


def test_the_laws_hold(model: HookedTransformer) -> None:
    findings = laws.verify(model)
    stated = {finding.law for finding in findings}
    assert stated == {"idle", "identity", "sum", "between", "attention", "heads"}
    summed = {finding.point for finding in findings if finding.law == "sum"}
    assert {f"blocks.{block}.hook_resid_post" for block in range(len(model.table.blocks))} <= summed
    joined = {finding.point for finding in findings if finding.law == "between"}
    entered = {point for block in range(len(model.table.blocks)) for point in model.table.entering(block)}
    without_embedding = {"blocks.0.text.hook_resid_pre"}
    assert model.table.closing is not None
    assert joined | without_embedding == entered | without_embedding | {model.table.closing.name}


def test_writing_back_what_was_read_changes_no_bit(model: HookedTransformer, evaluation: Evaluation) -> None:
    before = model.velocity(evaluation)
    for name, point in model.table.points.items():
        if point.write is not None:
            after, _ = model.run_with(evaluation, {name: [lambda x, hook: x.clone()]}, Request())
            assert torch.equal(after, before), name


def test_an_edit_reaches_the_velocity(model: HookedTransformer, evaluation: Evaluation) -> None:
    before = model.velocity(evaluation)
    last = len(model.table.blocks) - 1
    for name, point in model.table.points.items():
        beside = "text" in name or "audio" in name
        if point.write is None or (beside and f"blocks.{last}." in name) or name == "audio.hook_velocity":
            continue  # what the last block makes of text and audio is not read again
        after, _ = model.run_with(evaluation, {name: [_shifted]}, Request())
        assert not torch.equal(after, before), name


def _shifted(x: Tensor, hook: Hook) -> Tensor:
    """Another value, in another direction at every place (softmax and norms do not feel a uniform one)."""
    return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)


def test_an_edit_is_read_back_where_it_was_made(model: HookedTransformer, evaluation: Evaluation) -> None:
    for short in ("attn.hook_z", "hook_attn_out", "hook_mlp_out", "hook_resid_post"):
        name = f"blocks.1.{short}"
        _, read = model.run_with(evaluation, {}, Request(name))
        _, cache = model.run_with(evaluation, {name: [lambda x, hook: 2 * x]}, Request([name, "blocks.1.*"]))
        torch.testing.assert_close(cache[name], 2 * read[name])


def test_an_edited_write_moves_the_stream_by_as_much(model: HookedTransformer, evaluation: Evaluation) -> None:
    for before, writes, after in laws.streams(list(model.table.points)):
        for name in writes:
            _, plain = model.run_with(evaluation, {}, Request([before, *writes, after]))
            _, cache = model.run_with(evaluation, {name: [lambda x, hook: 0 * x]}, Request([before, after]))
            if name == writes[-1]:  # later writes of the same stretch answer to an earlier one
                torch.testing.assert_close(
                    cache[after], plain[after] - plain[name].type_as(plain[after]), atol=1e-4, rtol=1e-4
                )


def test_a_restart_equals_the_whole_and_runs_no_earlier_block(
    model: HookedTransformer, evaluation: Evaluation, counted: list[int]
) -> None:
    lens = DiTLens(transformer=model.transformer, verify=False)
    velocity, cache = lens.model.run_with(evaluation, {}, Request("*"))
    for start in range(1, lens.blocks):
        counted.clear()
        again, _ = lens.model.run_suffix(evaluation, start, cache, {}, Request())
        assert torch.equal(again, velocity), start
        assert sorted(set(counted)) == list(range(start, lens.blocks))


@pytest.fixture
def counted(model: HookedTransformer) -> Iterator[list[int]]:
    """Which blocks ran a linear layer of their own."""
    ran: list[int] = []
    handles = []
    for index, path in enumerate(model.table.blocks):
        block = model.transformer.get_submodule(path)
        layer = next(m for m in block.modules() if isinstance(m, torch.nn.Linear))
        handles.append(layer.register_forward_hook(lambda *_, index=index: ran.append(index)))
    yield ran
    for handle in handles:
        handle.remove()


def test_gradients_flow_from_the_velocity_to_every_stream(model: HookedTransformer, evaluation: Evaluation) -> None:
    held: dict[str, Tensor] = {}

    def hold(x: Tensor, hook: Hook) -> Tensor:
        held[hook.name] = x.detach().requires_grad_()
        return held[hook.name]

    name = "blocks.0.hook_resid_pre"
    velocity, _ = model.run_with(evaluation, {name: [hold]}, Request())
    velocity.square().sum().backward()
    assert held[name].grad.abs().max() > 0


def test_nothing_is_left_on_the_model(model: HookedTransformer, evaluation: Evaluation) -> None:
    def stop(x: Tensor, hook: Hook) -> None:
        raise KeyboardInterrupt

    before = copy.deepcopy(model.transformer)(**evaluation.inputs)[0]
    with pytest.raises(KeyboardInterrupt), Model(model).hooks([("blocks.1.hook_resid_pre", stop)]):
        model.velocity(evaluation)
    assert torch.equal(model.transformer(**evaluation.inputs)[0], before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.transformer.modules())


@pytest.mark.parametrize("broken", ["hook_attn_out", "hook_mlp_out"])
def test_a_wrong_write_does_not_load(model: HookedTransformer, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"blocks.1.{broken}"
    right = model.table.points[name]
    wrong = replace(right, read=lambda *values: 1.01 * right.read(*values))
    monkeypatch.setattr(model, "table", replace(model.table, points={**model.table.points, name: wrong}))
    with pytest.raises(ValueError, match=r"got blocks\.1\.\S+ of small .* off by .* · expected at most 1.0e-05"):
        laws.verify(model)


def test_a_wrong_attention_does_not_load(model: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    table = model.table
    for index, law in enumerate(table.laws[:2]):

        def wrong(*values: Any, read: Any = law.read) -> Tensor:
            first, second = read(*values)
            return torch.stack([1.01 * first, second])

        stated = [*table.laws]
        stated[index] = replace(law, read=wrong)
        monkeypatch.setattr(model, "table", replace(table, laws=tuple(stated)))
        with pytest.raises(ValueError, match=re.escape(law.name)):
            laws.verify(model)


def test_a_misspelt_part_of_a_family_is_an_error_and_not_left_out() -> None:
    parts = {name: getattr(wan.FAMILY, name) for name in ("name", "transformer", "conditioning", "example", "inputs")}
    assert Family(**parts, hook_table=wan.hook_table, given_frames=wan.FAMILY.given_frames).given_frames is not None
    with pytest.raises(TypeError, match="guided_frames"):
        Family(**parts, hook_table=wan.hook_table, guided_frames=wan.FAMILY.given_frames)  # type: ignore[call-arg]
