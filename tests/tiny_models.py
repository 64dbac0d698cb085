"""Small real models of four architectures, and batches for them."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)


def tiny_bert(n_labels: int = 2, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, num_labels=n_labels
        )
        return BertForSequenceClassification(config).eval()


def save_bert(folder: Path, **changes: float) -> str:
    """The folder, with a random BERT saved as any model is and MiniLM's tokenizer."""
    from companion import data  # here, since some tests load these models where `companion` is not installed

    tokenizer = data.load_tokenizer("minilm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
        BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **sizes | changes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def tiny_llama(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48
        )
        return LlamaForCausalLM(config).eval()


def tiny_vit(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = ViTConfig(
            image_size=16, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, num_labels=3
        )
        return ViTForImageClassification(config).eval()


def tiny_gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=32, n_layer=1, n_head=4)).eval()


def text_batches(n: int, sizes: list[int] | int, seed: int = 0, n_labels: int = 2) -> list[dict]:
    """n examples of 3 to 9 tokens, padded by batch; `sizes` as for `torch.split`."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(5, 60, rng.integers(3, 10)) for _ in range(n)]
    labels = rng.integers(0, n_labels, n) if n_labels > 1 else rng.standard_normal(n).astype("f4")
    batches = []
    for chosen in torch.arange(n).split(sizes):
        width = max(len(rows[i]) for i in chosen)
        ids = torch.zeros(len(chosen), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(chosen):
            ids[row, : len(rows[i])] = torch.from_numpy(rows[i])
            mask[row, : len(rows[i])] = 1
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": torch.from_numpy(labels[chosen.numpy()])})
    return batches


def causal_batches(n: int, sizes: list[int] | int, seed: int = 0) -> list[dict]:
    """The same texts with every real token but the first as a label (padding is -100)."""
    return [
        {**batch, "labels": torch.where(batch["attention_mask"] == 1, batch["input_ids"], -100)} for batch in text_batches(n, sizes, seed)
    ]


def image_batches(n: int, sizes: list[int] | int, seed: int = 0) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(n, 3, 16, 16, generator=generator)
    labels = torch.randint(0, 3, (n,), generator=generator)
    return [{"pixel_values": p, "labels": y} for p, y in zip(pixels.split(sizes), labels.split(sizes), strict=True)]


def wide_model(kind: str, hidden: int, seed: int = 0) -> nn.Module:
    """One layer of a BERT, Llama or ViT of some width, from its configuration."""
    sizes = {"hidden_size": hidden, "num_hidden_layers": 1, "num_attention_heads": 8, "intermediate_size": 2 * hidden}
    makers = {
        "bert": lambda: BertForSequenceClassification(BertConfig(vocab_size=2000, num_labels=3, **sizes)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=2000, **sizes)),
        "vit": lambda: ViTForImageClassification(ViTConfig(image_size=64, patch_size=8, num_labels=3, **sizes)),
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return makers[kind]().eval()


def wide_batches(kind: str, n: int, size: int, seed: int = 0) -> list[dict]:
    """n examples of 64 tokens or patches for `wide_model`, `size` to a batch."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    if kind == "vit":
        data = {"pixel_values": torch.randn(n, 3, 64, 64, generator=generator), "labels": labels}
    else:
        ids = torch.randint(5, 2000, (n, 64), generator=generator)
        data = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids if kind == "llama" else labels}
    return [{key: value[i : i + size] for key, value in data.items()} for i in range(0, n, size)]
