"""Tokenizers of the released classes, trained on a few sentences: T5 (also as SentencePiece), Llama 3 and CLIP."""

from __future__ import annotations

import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPTokenizer, T5Tokenizer

TEXT = (
    "a red ball rolls behind a wall and comes out on the other side",
    "a blue cube falls from the table onto the floor",
    "two discs collide, and one of them stops; the camera does not move",
    "worst quality, low quality, blurry, distorted, watermark",
    "a video of an object that vanishes where it cannot be seen",
)
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
# Tokens of HunyuanVideo's prompt template before the prompt: the pipeline crops as many, whatever the tokenizer.
TEMPLATE_TOKENS: int = DEFAULT_PROMPT_TEMPLATE["crop_start"]
LLAMA_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LLAMA_PAD = "<|pad|>"
LLAMA_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def t5_pieces() -> tuple[tuple[str, float], ...]:
    """Pieces and log probabilities as in T5: padding, end, unknown, then what was learnt."""
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer: Any = trainers.UnigramTrainer(
        vocab_size=160, special_tokens=special, unk_token="<unk>", initial_alphabet=BYTES[:94], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    pieces = json.loads(tokenizer.to_str())["model"]["vocab"]
    return tuple((piece, score) for piece, score in pieces)


def write_t5(folder: Path, length: int, sentencepiece: bool = False) -> int:
    """Writes a T5 tokenizer; returns the number of its ids, the 100 sentinels included.

    Args:
        folder: may exist.
        length: `model_max_length`.
        sentencepiece: only spiece.model, as CogVideoX and LTX-Video are released (transformers 5 reads it with the
            packages sentencepiece and protobuf); otherwise tokenizer.json.
    """
    sentinels = [f"<extra_id_{i}>" for i in range(100)]
    vocab = [*t5_pieces(), *((sentinel, 0.0) for sentinel in reversed(sentinels))]
    T5Tokenizer(vocab=vocab, model_max_length=length).save_pretrained(folder)
    if sentencepiece:
        (folder / "tokenizer.json").unlink()
        (folder / "spiece.model").write_bytes(_spiece(t5_pieces()))
    return len(vocab)


def _spiece(pieces: tuple[tuple[str, float], ...]) -> bytes:
    """A sentencepiece ModelProto of a unigram model, put together by hand: no package is needed to write it."""
    unknown, control, normal = 2, 3, 1
    kinds = {"<unk>": unknown, "<pad>": control, "</s>": control}
    proto = b""
    for piece, score in pieces:
        text = piece.encode()
        inside = _field(1, text) + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kinds.get(piece, normal)])
        proto += _field(1, inside)
    # trainer_spec: model_type UNIGRAM, unk_id 2, no bos, eos_id 1, pad_id 0
    minus_one = b"\xff" * 9 + b"\x01"
    proto += _field(2, b"\x18\x01" + b"\xc0\x02\x02" + b"\xc8\x02" + minus_one + b"\xd0\x02\x01" + b"\xd8\x02\x00")
    return proto + _field(3, _field(1, b"identity"))  # normalizer_spec


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


@cache
def _llama() -> Tokenizer:
    """Byte-level BPE as Llama 3 has it; every word of HunyuanVideo's template is one token."""
    tokenizer: Any = Tokenizer(models.BPE(byte_fallback=False, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=BYTES, show_progress=False)
    tokenizer.train_from_iterator([DEFAULT_PROMPT_TEMPLATE["template"], *TEXT], trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (*LLAMA_SPECIAL, LLAMA_PAD)])
    begin = LLAMA_SPECIAL[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin}:0 $A:0", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    return tokenizer


def write_llama3(folder: Path) -> dict[str, int]:
    """Writes the tokenizer of HunyuanVideo's Llama 3, byte-level though its class is LlamaTokenizerFast; its ids."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _llama()
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = tokenizer.get_vocab(with_added_tokens=True)
    special = {
        str(ids[token]): {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "special": True,
                          "single_word": False}
        for token in (*LLAMA_SPECIAL, LLAMA_PAD)
    }  # fmt: skip
    named = {"bos_token": LLAMA_SPECIAL[0], "eos_token": LLAMA_SPECIAL[1], "pad_token": LLAMA_PAD}
    config = {
        "added_tokens_decoder": special,
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 256,
        "padding_side": "right",
        "tokenizer_class": "LlamaTokenizer",
        **named,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    (folder / "special_tokens_map.json").write_text(json.dumps(named, indent=2))
    return ids


@cache
def _clip() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids and merges of a small CLIP vocabulary: bytes, bytes that end a word, merges, start and end."""
    tokenizer: Any = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer: Any = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=BYTES, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    merges = [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]
    tokens = [*BYTES, *(f"{byte}</w>" for byte in BYTES), *(left + right for left, right in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}, merges


def write_clip(folder: Path) -> dict[str, int]:
    """Writes a CLIP tokenizer; returns its ids."""
    ids, merges = _clip()
    CLIPTokenizer(vocab=ids, merges=merges, model_max_length=77).save_pretrained(folder)
    return ids
