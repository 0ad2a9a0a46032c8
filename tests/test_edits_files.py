"""Edits that come back from disk do what they did, bit for bit; what cannot be stored or read is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_edits import Z, all_edits, same_bits
from torch import Tensor

from dit_lens import edits
from dit_lens.axes import Region

NAME = "blocks.0.attn.hook_z"
PLACES = [(None, None), ([1, -1], (1, slice(None), slice(0, 4, 2))), ([], (slice(0, 0), 0, 0))]


@pytest.fixture
def z(generator: torch.Generator) -> Tensor:
    return torch.randn(2, 24, 5, 6, generator=generator)


@pytest.mark.parametrize(("heads", "tokens"), PLACES)
def test_every_kind_comes_back_and_does_the_same_to_the_bit(
    z: Tensor, tmp_path: Path, heads: list[int] | None, tokens: Region | None
) -> None:
    before = [(NAME, edit) for edit in all_edits(heads, tokens).values()]
    before += [(["blocks.*.hook_mlp_out", NAME], edits.patch({3: 2 * z, 7: z}, heads, tokens))]
    edits.save(before, tmp_path / "new" / "some.json")
    after = edits.load(tmp_path / "new" / "some.json")
    assert [(names, edit.kind) for names, edit in after] == [(names, edit.kind) for names, edit in before]
    for (_, saved), (_, loaded) in zip(before, after, strict=True):
        assert same_bits(saved(z, Z), loaded(z, Z)), saved
    if heads is None:
        assert not any(same_bits(edit(z, Z), z) for _, edit in after)


def test_tensors_keep_their_dtype_and_layout_is_none_of_theirs(tmp_path: Path) -> None:
    vectors = {
        "transposed": torch.arange(6.0).view(2, 3).T,
        "bfloat16": torch.ones(2).bfloat16(),
        "trained": torch.ones(2, dtype=torch.float64, requires_grad=True),
    }
    edits.save([(NAME, edits.add(vector)) for vector in vectors.values()], tmp_path / "some.json")
    for (_, edit), vector in zip(edits.load(tmp_path / "some.json"), vectors.values(), strict=True):
        loaded = edit.values["vector"]
        assert isinstance(loaded, Tensor) and loaded.dtype == vector.dtype and torch.equal(loaded, vector)


def test_a_tensor_that_several_edits_hold_is_stored_once(z: Tensor, tmp_path: Path) -> None:
    edits.save([(NAME, edits.patch(z, heads=[head])) for head in range(5)], tmp_path / "some.json")
    assert (tmp_path / "some.safetensors").stat().st_size < 1.5 * z.nbytes


def test_edits_without_tensors_need_one_file(tmp_path: Path) -> None:
    edits.save([(NAME, edits.zero())], tmp_path / "some.json")
    assert [file.name for file in tmp_path.iterdir()] == ["some.json"]
    assert repr(edits.load(tmp_path / "some.json")) == f"[('{NAME}', zero())]"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, r"version 2 · expected at most 1 · update dit_lens"),
        ({"format": "other"}, "holds no edits"),
        ({"edits": [{"names": NAME, "kind": "zerro", "heads": None, "tokens": None, "values": {}}]}, "mean 'zero'"),
    ],
)
def test_what_is_newer_unknown_or_something_else_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    file = tmp_path / "some.json"
    edits.save([(NAME, edits.zero())], file)
    assert edits.load(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        edits.load(file)


def test_tensors_of_another_file_are_refused(tmp_path: Path) -> None:
    for name, vector in (("one", torch.ones(2)), ("other", torch.zeros(2))):
        edits.save([(NAME, edits.add(vector))], tmp_path / f"{name}.json")
    (tmp_path / "other.safetensors").replace(tmp_path / "one.safetensors")
    with pytest.raises(ValueError, match=r"got .*one\.safetensors with other tensors than one\.json"):
        edits.load(tmp_path / "one.json")
    with pytest.raises(FileNotFoundError, match=r"other\.safetensors"):
        edits.load(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ((lambda name: True, edits.zero()), "got names by a predicate · expected a name"),
        ((NAME, lambda x, hook: x), r"got the hook <lambda> at blocks\.0\.attn\.hook_z · expected an edit"),
    ],
)
def test_code_is_refused_and_nothing_is_written(tmp_path: Path, hook: tuple, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        edits.save([(NAME, edits.add(torch.ones(2))), hook], tmp_path / "some.json")
    assert not list(tmp_path.iterdir())


def test_the_name_of_the_tensors_file_is_refused_for_the_list(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected the name of the JSON file, such as some\.json"):
        edits.save([(NAME, edits.zero())], tmp_path / "some.safetensors")
