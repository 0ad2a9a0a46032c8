"""Small pipelines as folders, with a text encoder and a tokenizer, as they are released."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from small_pipelines import wan
from test_prompts import text_parts


def saved(folder: Path, **others: Any) -> Path:
    """A Wan of two layers' text encoder, saved; `others` are other parts of it."""
    logging.disable(logging.WARNING)  # parts that are None are "not saved"
    wan(**{**text_parts(), **others}).save_pretrained(folder)
    logging.disable(logging.NOTSET)
    return folder
