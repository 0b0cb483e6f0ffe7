#!/usr/bin/env python3
"""Compares a model written by `qbench quantize` with one that transformers and bitsandbytes quantise themselves.

    qbench quantize MODEL --mode 4bit_nf4_double --out QUANTISED
    python check_transformers.py MODEL QUANTISED

Loads QUANTISED, and MODEL with the same settings; every tensor of the two state dicts and the logits for random
tokens must be equal. Needs torch, transformers, bitsandbytes and accelerate (checked with 2.11.0, 5.23.0, 0.50.2 and
1.15.0, on a CPU), so it is not part of the test suite, which holds the digests of the libraries' own files instead.
"""

import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig


def main(model: str, quantised: str) -> int:
    # The libraries' mean of scales depends on the number of threads.
    torch.set_num_threads(1)
    settings = AutoConfig.from_pretrained(quantised).quantization_config
    settings = {key: value for key, value in settings.items() if key != "quant_method"}
    ours = AutoModelForCausalLM.from_pretrained(quantised, device_map="cpu").eval()
    theirs = AutoModelForCausalLM.from_pretrained(
        model, quantization_config=BitsAndBytesConfig(**settings), device_map="cpu"
    ).eval()

    # Before the first pass, which may repack weights for the CPU.
    a, b = ours.state_dict(), theirs.state_dict()
    wrong = sorted(a.keys() ^ b.keys())
    for name in a.keys() & b.keys():
        same = a[name].dtype == b[name].dtype and a[name].shape == b[name].shape
        if not (same and torch.equal(a[name], b[name])):
            wrong.append(name)
    kinds = sorted({type(module).__name__ for module in ours.modules() if "Linear" in type(module).__name__})
    print(f"{len(a)} tensors, modules {', '.join(kinds)}, different: {wrong or 'none'}")

    tokens = torch.randint(ours.config.vocab_size, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (ours(tokens).logits - theirs(tokens).logits).abs().max().item()
    print(f"largest difference of a logit: {difference}")
    return 0 if not wrong and difference == 0 else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
