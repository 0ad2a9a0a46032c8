"""Which text tokens each word of a prompt has: the tokenizer's own tokens, joined to words.

Pipelines with a T5 encoder feed its tokens as they are, padded on the right, so that text key i is token i of the
prompt. Others put a template around the prompt, drop its first tokens, or reorder them: there words are placed by hand.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from dit_lens.lens import DiTLens

IN_ORDER = ("wan", "skyreels", "cogvideox", "ltx", "mochi", "allegro", "cosmos")
T5 = "T5"


def words_of(lens: DiTLens, prompt: str | None = None) -> dict[str, list[int]]:
    """The text tokens of each word of a prompt, in order; the end token has its own name.

    With the tokens "▁a", "▁bas", "ket", "ball" and "</s>" of "a basketball" it is {"a": [0], "basketball": [1, 2, 3],
    "</s>": [4]}. A word that comes again is called "a (2)".

    Args:
        prompt: that of the lens's own conditioning unless given; it is cleaned as by the pipeline.

    Raises:
        ValueError: the model has no tokenizer that gives offsets, or its text tokens are not those of the prompt in
            order.
    """
    text, tokenizer = lens.conditioning.prompt if prompt is None else prompt, _tokenizer(lens)
    text = _cleaned(lens.parts.pipeline, text)
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=True)
    spans = [(match.group(), *match.span()) for match in re.finditer(r"\S+", text)]
    places: dict[int, list[int]] = {}
    ends: dict[str, list[int]] = {}
    for token, (start, stop) in enumerate(encoded["offset_mapping"]):
        number = next((i for i, (_, first, last) in enumerate(spans) if start < last and stop > first), None)
        if number is None:
            name = str(tokenizer.convert_ids_to_tokens(encoded["input_ids"][token]))
            if name in tokenizer.all_special_tokens:
                ends.setdefault(name, []).append(token)
        else:
            places.setdefault(number, []).append(token)
    named: dict[str, list[int]] = {}
    for number, tokens in places.items():
        named[_new(spans[number][0], named)] = tokens
    return named | ends


def _tokenizer(lens: DiTLens) -> Any:
    """The tokenizer of a lens whose text keys are its tokens in order."""
    tokenizer = None if lens.parts.pipeline is None else getattr(lens.parts.pipeline, "tokenizer", None)
    name, kind = lens.family.name, type(tokenizer).__name__
    in_order = name in IN_ORDER and (name != "cosmos" or kind.startswith(T5))
    if tokenizer is None or not getattr(tokenizer, "is_fast", False) or not in_order:
        raise ValueError(
            f"got {lens.name} of family {name} with tokenizer {kind} · expected one that gives offsets, whose tokens"
            " are the model's text tokens in order · place words by hand: attention.words({'ball': [2, 3]})"
        )
    return tokenizer


def _cleaned(pipeline: Any, text: str) -> str:
    """The prompt as the pipeline's encoder gets it."""
    clean = getattr(sys.modules[type(pipeline).__module__], "prompt_clean", None)
    if clean is not None:
        return clean(text)
    if hasattr(pipeline, "_text_preprocessing"):  # Allegro, as `encode_prompt` calls it
        return pipeline._text_preprocessing(text, clean_caption=True)[0]
    return text


def _new(word: str, named: dict[str, list[int]]) -> str:
    """The word, or with a number where it was there before."""
    number, name = 1, word
    while name in named:
        number += 1
        name = f"{word} ({number})"
    return name
