"""A training step of Tucker-LoRA against PEFT's LoRA at equal parameters: ``python tests/bench/bench_tucker_lora.py``.

Same base, same batch, same run, the two in turn: forward, backward and AdamW on queries and values. The target is a ratio of
at most 1.15.
"""

import sys
import time
from functools import partial

import numpy as np
import peft
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from companion.tucker_lora import TuckerLoraConfig

ROUNDS = 9


def bert(hidden: int) -> tuple[nn.Module, list[str], dict]:
    config = BertConfig(hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=2, vocab_size=2000)
    return BertForSequenceClassification(config), ["query", "value"], batch(8, 64)


def llama() -> tuple[nn.Module, list[str], dict]:
    config = LlamaConfig(
        vocab_size=2000, hidden_size=512, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=4, intermediate_size=1024
    )
    inputs = batch(8, 64)
    return LlamaForCausalLM(config), ["q_proj", "v_proj", "o_proj"], inputs | {"labels": inputs["input_ids"]}


def batch(size: int, length: int) -> dict:
    ids = torch.randint(5, 2000, (size, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(size) % 2}


CASES = [  # model, rank of LoRA, ranks of Tucker-LoRA with as many parameters
    ("2 layers of MiniLM", partial(bert, 384), 8, (8, 15, 11)),
    ("2 layers of MiniLM", partial(bert, 384), 1, (2, 2, 2)),
    ("2 layers of MiniLM", partial(bert, 384), 4, (2, 3, 8)),
    ("2 layers of BERT-base", partial(bert, 768), 8, (6, 16, 13)),
    ("2 layers of a Llama", llama, 8, (4, 16, 11)),
]


def trainer(model: nn.Module, config: peft.PeftConfig, inputs: dict, device: str):
    """A training step, and the number of adapter parameters."""
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, config).to(device).train()
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    inputs = {key: value.to(device) for key, value in inputs.items()}

    def step() -> None:
        adapted(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, sum(p.numel() for p in trained)


def seconds(step, device: str) -> float:
    """Time of a step; on a CPU that of the process, which other work on the machine does not change."""
    if device == "cpu":
        start = time.process_time()
        step()
        return time.process_time() - start
    start = time.perf_counter()
    for _ in range(20):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / 20


def main(device: str = "cpu") -> None:
    for name, make, rank, ranks in CASES:
        found = {}
        for kind in ("lora", "tucker"):
            model, targets, inputs = make()
            settings = {"target_modules": targets}
            if kind == "lora":
                config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, **settings)
            else:
                config = TuckerLoraConfig(r=ranks, **settings)
            found[kind] = trainer(model, config, inputs, device)
        (lora, n_lora), (tucker, n_tucker) = found["lora"], found["tucker"]
        seconds(lora, device), seconds(tucker, device)  # warm up
        times = np.array([[seconds(tucker, device), seconds(lora, device)] for _ in range(ROUNDS)])
        ratios = times[:, 0] / times[:, 1]
        print(
            f"{name:22s} Tucker {ranks!s:12s} {n_tucker:7,} parameters {np.median(times[:, 0]):8.4f} s   LoRA r={rank} {n_lora:7,} "
            f"{np.median(times[:, 1]):8.4f} s   ratio {np.median(ratios):.3g} ({ratios.min():.3g} … {ratios.max():.3g})",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
