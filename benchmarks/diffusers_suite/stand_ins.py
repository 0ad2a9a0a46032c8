"""Small random text encoders and tokenizers under the names by which diffusers' tests ask the hub for them."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Qwen2Tokenizer,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)

from tests.released.tokenizers import TEXT, write_clip, write_llama3, write_t5

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(folder: Path) -> None:
    """Writes them below a folder; who runs in it finds "owner/name" there before the hub is asked."""
    torch.manual_seed(0)
    _t5(folder / "hf-internal-testing/tiny-random-t5")
    write_clip(folder / "hf-internal-testing/tiny-random-clip")
    write_llama3(folder / "finetrainers/dummy-hunyaunvideo/tokenizer")
    _qwen(folder / "hf-internal-testing/tiny-random-Qwen2VLForConditionalGeneration")
    _qwen(folder / "hf-internal-testing/tiny-cosmos3-modular-pipe/text_tokenizer")
    _gemma(folder / "hf-internal-testing/tiny-gemma3")
    _siglip(folder / "hf-internal-testing/tiny-random-SiglipVisionModel")


def _t5(folder: Path) -> None:
    write_t5(folder, 512)
    config = T5Config(vocab_size=1103, d_model=32, d_kv=8, d_ff=37, num_layers=5, num_heads=4)
    T5EncoderModel(config).save_pretrained(folder)


def _qwen(folder: Path) -> Qwen2Tokenizer:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=500, initial_alphabet=letters, show_progress=False))
    ids = raw.get_vocab()
    tokenizer = Qwen2Tokenizer(vocab=ids, merges=[], model_max_length=1024, pad_token=SPECIAL[0])
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return tokenizer


def _gemma(folder: Path) -> None:
    tokenizer = _qwen(folder)
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 16,
    }  # fmt: skip
    image = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
             "image_size": 16, "patch_size": 8}  # fmt: skip
    Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=image)).save_pretrained(folder)


def _siglip(folder: Path) -> None:
    config = SiglipVisionConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, image_size=30, patch_size=2
    )
    SiglipVisionModel(config).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 30, "width": 30}).save_pretrained(folder)
