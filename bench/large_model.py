"""A cross-encoder of bge-reranker-v2-m3's size with random weights: how long it takes does not depend on what it knows.

Its vocabulary is learnt from the texts that it will read, so that passages have about as many tokens as with the real
one; the embedding table has the real one's size.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

VOCABULARY = 250_002
LAYERS, WIDTH, HEADS, INNER, POSITIONS = 24, 1024, 16, 4096, 8194
"""Source: config.json of https://huggingface.co/BAAI/bge-reranker-v2-m3 (XLM-RoBERTa-large, 568 million weights)."""

LEARNT_TOKENS = 8000


def save_large(folder: Path, texts: Iterable[str], *, layers: int = LAYERS, seed: int = 0) -> Path:
    """Make the model and save it as transformers would. About 2.3 GB with all layers.

    Args:
        folder: Where to.
        texts: What the tokenizer learns from.
        layers: Fewer make a smaller model of the same kind.
        seed: Of the random weights.
    """
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    tokenizer = _tokenizer(texts)
    torch.manual_seed(seed)
    config = XLMRobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        max_position_embeddings=POSITIONS,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        num_labels=1,
    )
    model = XLMRobertaForSequenceClassification(config).eval()
    with torch.no_grad():
        # As they come from the draw, all scores are nearly equal, and two orders could not be told apart.
        model.classifier.out_proj.weight.mul_(40.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(texts: Iterable[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=LEARNT_TOKENS, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=POSITIONS - 2,
        model_input_names=["input_ids", "attention_mask"],
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )
