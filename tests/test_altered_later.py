"""What is done to a transformer after a lens was put on it is noticed at the next call: refused by name, or looked at
anew and served as a new lens would."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig
from small_models import build
from small_pipelines import CALL, experts, lens_on, noise, text, wan
from test_alterations import CACHES, CPU
from torch import Tensor, nn

from dit_lens import Conditioning, DiTLens, laws
from dit_lens.families.fingerprint import fingerprint

PLACE = {"latent": noise(), "timestep": 400.0}
TOLD = {"prompt_embeds": text(), "guidance_scale": 1.0, "num_inference_steps": 2, "latents": noise(), **CALL}


class Passing:
    """An attention processor of a stranger's."""

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states


class Packed(Tensor):
    """A weight that says float32 and is held otherwise, as torchao's are."""


class Louder(nn.Linear):
    """A last layer that does more than its weights say."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


def packed(transformer: Any) -> None:
    weight = transformer.blocks[0].ffn.net[2].weight
    transformer.blocks[0].ffn.net[2].weight = nn.Parameter(weight.detach().as_subclass(Packed), requires_grad=False)


def adapted(*layers: str) -> Callable[[Any], None]:
    torch.manual_seed(4)
    config = LoraConfig(r=2, target_modules=[*layers], init_lora_weights=False)
    return lambda transformer: transformer.add_adapter(config)


def strange_forward(transformer: Any) -> None:
    plain = transformer.forward
    transformer.forward = MethodType(lambda self, *args, **kwargs: plain(*args, **kwargs), transformer)


def strange_block(transformer: Any) -> None:
    plain = transformer.blocks[1].forward
    transformer.blocks[1].forward = lambda *args, **kwargs: plain(*args, **kwargs)


def processors(transformer: Any) -> None:
    for block in transformer.blocks:
        block.attn1.set_processor(Passing())


def no_block(transformer: Any) -> None:
    transformer.blocks[1] = nn.Identity()


REFUSED: list[tuple[Callable[[Any], Any], str]] = [
    *((lambda t, c=config: t.enable_cache(c), rf"step caching \({name}\)") for name, config in CACHES.items()),
    (lambda t: t.compile(backend="eager"), "a module compiled in place"),
    (lambda t: t.compile_repeated_blocks(backend="eager"), r"a module compiled in place at blocks\.0"),
    (lambda t: t.fuse_qkv_projections(), r"fused query, key and value projections at blocks\.0"),
    (lambda t: t.enable_group_offload(CPU, CPU, "block_level", 1), "group offloading"),
    (lambda t: cpu_offload(t, CPU), "weights offloaded layer by layer"),
    (packed, r"weights held as test_altered_later's Packed at blocks\.0\.ffn\.net\.2\.weight"),
    (adapted("attn1.to_out.0"), r"an adapter that is not merged into the weights at blocks\.0\.attn1\.to_out\.0"),
    (processors, r"an attention processor that is not diffusers' \(Passing\) at blocks\.0\.attn1"),
    (strange_forward, "a forward that was replaced"),
    (strange_block, r"a forward that was replaced at blocks\.1"),
    (no_block, r"small, whose modules are not those of the family wan"),
]  # fmt: skip


def ways(lens: DiTLens) -> list[Callable[[], Any]]:
    """Ways to evaluate a model, plain and looked into, of ours and of its pipeline."""

    def hooked() -> None:
        with lens.hooks([("hook_latent", lambda x, hook: None)]):
            lens.pipeline(**TOLD)

    return [
        lambda: lens.invert(noise(), 2, "euler"),
        lambda: lens.run_with_cache(**PLACE),
        lambda: lens.trace(**PLACE),
        lambda: lens.generate(names_filter="hook_latent", **TOLD),
        hooked,
    ]


@pytest.mark.parametrize(("alter", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_what_hook_points_do_not_survive_is_refused_at_the_next_call(alter: Any, message: str) -> None:
    lens = lens_on(wan())
    alter(lens.transformer)
    for act in ways(lens):
        with pytest.raises(TypeError, match=rf"got {message}.* · expected"):
            act()


def test_what_is_undone_is_served_again() -> None:
    lens = lens_on(wan())
    before, kept = lens.run_with_cache(**PLACE)
    for alter, undo in (
        (lambda t: t.enable_cache(CACHES["FirstBlockCache"]), lambda t: t.disable_cache()),
        (lambda t: t.fuse_qkv_projections(), lambda t: t.unfuse_qkv_projections()),
        (adapted("attn1.to_out.0"), lambda t: t.delete_adapters("default") or t.unload_lora()),
    ):
        alter(lens.transformer)
        with pytest.raises(TypeError):
            lens.run_with_cache(**PLACE)
        undo(lens.transformer)
        after, again = lens.run_with_cache(**PLACE)
        assert before is not None and after is not None
        torch.testing.assert_close(after, before)
        assert all(torch.allclose(kept[name], again[name], atol=1e-5) for name in kept)


def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lenses whose laws are asked for, from here on."""
    log: list[str] = []
    verify = laws.verify
    monkeypatch.setattr(
        laws, "verify", lambda model, *args, **options: (log.append(model.name), verify(model, *args, **options))[1]
    )
    return log


def verified(pipeline: Any) -> DiTLens:
    return DiTLens(pipeline, "small", Conditioning({"encoder_hidden_states": text()}))


def test_an_adapter_added_later_is_verified_once_and_read_as_by_a_new_lens(monkeypatch: pytest.MonkeyPatch) -> None:
    log = asked(monkeypatch)
    lens = verified(wan())
    plain, _ = lens.run_with_cache(**PLACE)
    lens.invert(noise(), 2, "euler")
    assert log == ["small"]
    adapted("attn1.to_q", "ffn.net.2")(lens.transformer)
    velocity, cache = lens.run_with_cache(**PLACE)
    lens.invert(noise(), 2, "euler")
    assert log == ["small"] * 2
    expected, kept = verified(lens.pipeline).run_with_cache(**PLACE)
    assert velocity is not None and plain is not None and expected is not None
    assert torch.equal(velocity, expected) and not torch.allclose(velocity, plain)
    assert all(torch.equal(cache[name], kept[name]) for name in kept)


def test_an_adapter_s_state_counts_too() -> None:
    lens = lens_on(wan())
    merged: Any = lens.transformer
    adapted("attn1.to_out.0")(merged)
    merged.fuse_lora()
    lens.run_with_cache(**PLACE)
    merged.unfuse_lora()
    with pytest.raises(TypeError, match="an adapter that is not merged"):
        lens.run_with_cache(**PLACE)
    merged.disable_lora()
    lens.run_with_cache(**PLACE)
    merged.enable_lora()
    with pytest.raises(TypeError, match="an adapter that is not merged"):
        lens.run_with_cache(**PLACE)


def test_what_breaks_a_law_later_is_refused_at_every_call() -> None:
    lens = verified(wan())
    attention = lens.transformer.blocks[1].attn1
    stock = attention.to_out[0]
    attention.to_out[0] = Louder(stock.in_features, stock.out_features)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"got blocks\.1\..* off by .* laws broken"):
            lens.run_with_cache(**PLACE)
    attention.to_out[0] = stock
    lens.run_with_cache(**PLACE)
    attention.to_out[0] = nn.Linear(stock.in_features, stock.out_features)  # other weights alone break none
    lens.run_with_cache(**PLACE)


@pytest.mark.parametrize("part", ["transformer", "transformer_2"])
def test_another_transformer_in_the_pipeline_is_refused(part: str) -> None:
    lens = lens_on(experts())
    setattr(lens.pipeline, part, build("wan", seed=5))
    with pytest.raises(TypeError, match=r"got small, whose pipeline has another transformer .* make a new lens"):
        lens.invert(noise(), 4, "euler")
    setattr(lens.pipeline, part, torch.compile(build("wan"), backend="eager"))
    with pytest.raises(TypeError, match=r"got a module compiled by torch\.compile"):
        lens.invert(noise(), 4, "euler")


def test_a_forward_replaced_in_its_class_is_refused_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    lens = lens_on(wan())
    kind = type(lens.transformer)
    plain = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, *args, **kwargs: plain(self, *args, **kwargs))
    for act in (lambda: lens.run_with_cache(**PLACE), lambda: DiTLens(transformer=build("wan"))):
        with pytest.raises(TypeError, match="got a WanTransformer3DModel whose forward was replaced in its class"):
            act()


def test_what_is_altered_while_hooks_are_active_is_refused() -> None:
    lens = lens_on(wan())
    with lens.hooks([("hook_latent", lambda x, hook: None)]):
        lens.run_with_cache(**PLACE)
        adapted("attn1.to_q")(lens.transformer)
        with pytest.raises(RuntimeError, match="altered while hooks are active"):
            lens.run_with_cache(**PLACE)
        lens.transformer.enable_cache(CACHES["FirstBlockCache"])
        with pytest.raises(TypeError, match="step caching"):
            lens.pipeline(**TOLD)


def test_weights_dtype_and_torch_hooks_are_free_to_change() -> None:
    lens = verified(wan())
    transformer = lens.transformer
    before = fingerprint(transformer)
    with torch.no_grad():
        transformer.proj_out.weight.mul_(2)
    transformer.blocks[0].register_forward_hook(lambda *_: None)
    with lens.hooks([("hook_latent", lambda x, hook: None)]):
        lens.pipeline(**TOLD)
    assert fingerprint(transformer) == before
    transformer.double()
    assert fingerprint(transformer) != before
    assert lens.run_with_cache(**PLACE)[1]["z", 1].dtype == torch.float64
