"""The file format of edits: a readable JSON file, and a safetensors file next to it with the tensors.

    {"format": "dit_lens.edits", "version": 1, "tensors": {"file": "edits.safetensors", "sha256": "..."}, "edits": [
      {"names": "blocks.3.attn.hook_z", "kind": "patch", "heads": [2], "tokens": [1, {"slice": [0, 2, null]}, 0],
       "values": {"source": {"tensor": "0"}}}]}

A value is a number, {"tensor": name}, or {"steps": {step: name}}; `tokens` are frame, row and column.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from dit_lens.axes import Selection
from dit_lens.choices import check_choice
from dit_lens.edits.changes import CHANGES
from dit_lens.edits.edit import Edit, Value
from dit_lens.hook_points import HookFunction, NamesFilter

FORMAT, VERSION = "dit_lens.edits", 1


def save(edits: Sequence[tuple[NamesFilter, HookFunction]], path: str | Path) -> None:
    """Writes a list of (names, edit), as `lens.hooks` takes it, to a JSON file; tensors go to a safetensors file.

    Args:
        path: the JSON file; the file of tensors has the same name with the suffix .safetensors.

    Raises:
        TypeError: names are a predicate, or a hook is not an edit of `dit_lens.edits`.
        ValueError: the path would give both files the same name.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        raise ValueError(f"got {path} · expected the name of the JSON file, such as {path.with_suffix('.json').name}")
    tensors = _Tensors()
    entries = [_entry(names, edit, tensors) for names, edit in edits]
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = {"format": FORMAT, "version": VERSION, "tensors": tensors.write(path.with_suffix(".safetensors"))}
    path.write_text(json.dumps(contents | {"edits": entries}, indent=1) + "\n")


def load(path: str | Path) -> list[tuple[str | list[str], Edit]]:
    """The list of (names, edit) that `save` wrote, tensors on the CPU.

    Raises:
        FileNotFoundError: the file or its tensors do not exist.
        ValueError: not a file of edits, a newer version, an unknown kind of edit, or a file of other tensors.
    """
    path = Path(path)
    contents = json.loads(path.read_text())
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise ValueError(f"got {path}, which holds no edits · expected a file that edits.save wrote")
    if contents["version"] > VERSION:
        raise ValueError(
            f"got {path} of version {contents['version']} · expected at most {VERSION} · update dit_lens to read it"
        )
    tensors = _read(path, contents["tensors"])
    return [(entry["names"], _edit(entry, tensors)) for entry in contents["edits"]]


class _Tensors:
    """Tensors named by numbers; a tensor that several edits share is stored once."""

    def __init__(self) -> None:
        self._held: list[Tensor] = []

    def name(self, tensor: Tensor) -> str:
        for number, held in enumerate(self._held):
            if held is tensor:
                return str(number)
        self._held.append(tensor)
        return str(len(self._held) - 1)

    def write(self, file: Path) -> dict[str, str] | None:
        if not self._held:
            return None
        save_file({str(i): tensor.detach().cpu().clone().contiguous() for i, tensor in enumerate(self._held)}, file)
        return {"file": file.name, "sha256": _digest(file)}


def _entry(names: NamesFilter, edit: HookFunction, tensors: _Tensors) -> dict[str, Any]:
    if callable(names):
        raise TypeError("got names by a predicate · expected a name, a glob or a list of these · a file holds no code")
    if not isinstance(edit, Edit):
        raise TypeError(
            f"got the hook {getattr(edit, '__name__', edit)} at {names} · expected an edit, such as edits.zero()"
            " · a file holds no code"
        )
    return {
        "names": names if isinstance(names, str) else list(names),
        "kind": edit.kind,
        "heads": None if edit.heads is None else [int(head) for head in edit.heads],
        "tokens": None if edit.tokens is None else [_part(part) for part in edit.tokens],
        "values": {name: _value(value, tensors) for name, value in edit.values.items()},
    }


def _part(part: Selection) -> Any:
    if isinstance(part, slice):
        return {"slice": [part.start, part.stop, part.step]}
    return [int(place) for place in part] if isinstance(part, list) else int(part)


def _value(value: Value, tensors: _Tensors) -> Any:
    if isinstance(value, Tensor):
        return {"tensor": tensors.name(value)}
    if isinstance(value, Mapping):
        return {"steps": {str(step): tensors.name(tensor) for step, tensor in value.items()}}
    return value


def _read(path: Path, reference: dict[str, str] | None) -> dict[str, Tensor]:
    if reference is None:
        return {}
    file = path.with_name(reference["file"])
    if _digest(file) != reference["sha256"]:
        raise ValueError(
            f"got {file} with other tensors than {path.name} was written with · expected the pair that edits.save wrote"
            " · save both again, or find the file that belongs to it"
        )
    return load_file(file)


def _edit(entry: dict[str, Any], tensors: Mapping[str, Tensor]) -> Edit:
    values = {name: _unpacked(value, tensors) for name, value in entry["values"].items()}
    parts = [slice(*part["slice"]) if isinstance(part, dict) else part for part in entry["tokens"] or ()]
    tokens = (parts[0], parts[1], parts[2]) if parts else None
    return Edit(check_choice(entry["kind"], CHANGES, "kind of edit"), values, entry["heads"], tokens)


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Value:
    match value:
        case {"tensor": name}:
            return tensors[name]
        case {"steps": names}:
            return {int(step): tensors[name] for step, name in names.items()}
    return value


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
