"""Small models with random weights and a tokenizer of their kind, made on the spot and saved like published ones.

They know nothing; they have the file layout, tokenizer and positions of the families that people name in the settings.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    ModernBertModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

Family = Literal["bert", "xlm-roberta", "modernbert"]
FAMILIES: tuple[Family, ...] = ("bert", "xlm-roberta", "modernbert")

POSITIONS = 128
"""How many tokens the tiny models read at once."""

CORPUS = [
    "The waiting period for critical illness is 180 days from the start of the contract.",
    "The waiting period for dental treatment is ninety days; for accidents there is none.",
    "Ibuprofen for children: 5 to 10 mg for each kilogram of body weight, every six to eight hours.",
    "Adults take 200 to 400 mg of ibuprofen; it blocks the enzymes COX-1 and COX-2.",
    "You can return an item for a refund within seven days from receipt.",
    "Die Wartezeit beträgt 180 Tage. Le délai d'attente est de 180 jours. 等待期为180天。",
]


def save_cross_encoder(folder: Path, family: Family, *, labels: int = 1, seed: int = 0) -> Path:
    """A cross-encoder as `CrossEncoder(folder)` loads it. Its logits spread over some units."""
    tokenizer = _tokenizer(family)
    torch.manual_seed(seed)
    config = _config(family, tokenizer, num_labels=labels)
    model_class = {
        "bert": BertForSequenceClassification,
        "xlm-roberta": XLMRobertaForSequenceClassification,
        "modernbert": ModernBertForSequenceClassification,
    }[family]
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(80.0 if name.startswith("classifier") else 8.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_language_model_reranker(folder: Path, *, prompt: str = "Does the passage answer? ") -> Path:
    """An LLM that scores by its logits of yes and no, with a chat template and a prompt, saved as a cross-encoder."""
    from sentence_transformers import CrossEncoder

    tokenizer = _tokenizer("modernbert")
    tokenizer.add_tokens(["yes", "no"])
    tokenizer.chat_template = "{% for message in messages %}<{{message.role}}>{{message.content}}{% endfor %}"
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=64,
        max_position_embeddings=POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(20.0)
    plain = folder.with_name(folder.name + "-language-model")
    model.save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    reranker = CrossEncoder(
        str(plain), local_files_only=True, device="cpu", prompts={"own": prompt}, default_prompt_name="own"
    )
    reranker.save(str(folder), create_model_card=False)
    return folder


def save_embedder(folder: Path, family: Family, *, prompts: dict[str, str] | None = None, seed: int = 0) -> Path:
    """A bi-encoder with mean pooling as sentence-transformers saves one."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    tokenizer = _tokenizer(family)
    torch.manual_seed(seed)
    model_class = {"bert": BertModel, "xlm-roberta": XLMRobertaModel, "modernbert": ModernBertModel}[family]
    plain = folder.with_name(folder.name + "-transformer")
    model_class(_config(family, tokenizer)).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    transformer = Transformer(str(plain))
    model = SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean")], prompts=prompts, device="cpu"
    )
    model.save(str(folder), create_model_card=False)
    return folder


def change_config(folder: Path, change: Callable[[dict[str, object]], None]) -> Path:
    """Edit the model's config.json in place."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    return folder


def _config(family: Family, tokenizer: PreTrainedTokenizerFast, **more: object):
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }
    if family == "bert":
        return BertConfig(max_position_embeddings=POSITIONS, **shape)
    if family == "xlm-roberta":
        reserved = tokenizer.pad_token_id + 1
        return XLMRobertaConfig(max_position_embeddings=POSITIONS + reserved, type_vocab_size=1, **shape)
    special = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    return ModernBertConfig(
        max_position_embeddings=POSITIONS,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        local_attention=16,
        **special,
        **shape,
    )


def _tokenizer(family: Family) -> PreTrainedTokenizerFast:
    if family == "bert":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
        names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
        pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    elif family == "xlm-roberta":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False
        )
        names = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
        pair = "<s> $A </s> </s> $B </s>"
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
        pair = "[CLS] $A [SEP] $B [SEP]"
    tokenizer.train_from_iterator(CORPUS, trainer)
    single = f"{names['cls']} $A {names['sep']}"
    ids = [(token, tokenizer.token_to_id(token)) for token in (names["cls"], names["sep"])]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if family == "bert" else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=POSITIONS,
        model_input_names=inputs,
        **{f"{role}_token": token for role, token in names.items()},
    )
