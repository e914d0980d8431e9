"""A tiny encoder of text in the files that Hugging Face publishes, made up and untrained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz"]
POSITIONS = 8


def tokenizer() -> Any:
    """Letters as words, between [CLS] and [SEP]."""
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return made


def model(seed: int = 0) -> Any:
    """BERT of 2 layers, 2 heads and 8 features, with large random weights."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=POSITIONS, initializer_range=0.5,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    return BertModel(config, add_pooling_layer=False).eval()


def write(folder: Path, seed: int = 0) -> Path:
    """The files of model and tokenizer in ``folder``."""
    model(seed).save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder
