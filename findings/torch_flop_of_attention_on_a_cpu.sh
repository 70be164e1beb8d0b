#!/bin/bash
# torch: FlopCounterMode counts no FLOP for scaled_dot_product_attention on a CPU.
#
# The guess: the FLOP of a network depend on its shapes, so that they may be counted on any device.
# What is so: they are looked up by kernel, and the kernel of attention on a CPU,
# aten._scaled_dot_product_flash_attention_for_cpu, is not in the table: it counts as 0, without a warning. On the meta
# device, where attention consists of matrix products, all of it is counted.
#
# Versions: torch 2.13.0. Source: flop_registry in torch/utils/flop_counter.py.
# Needs python3 with venv; about 1 GB in a temporary folder with a CPU build of torch. No GPU is needed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check \
  torch==2.13.0 numpy==2.4.6
"$work/venv/bin/python" - <<'END'
import sys

import torch
from torch.utils.flop_counter import FlopCounterMode


def counted(device):
    """FLOP of attention with 2 heads, 64 tokens, 8 channels."""
    words = torch.zeros(1, 2, 64, 8, device=device)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        torch.nn.functional.scaled_dot_product_attention(words, words, words)
    return counter.get_total_flops()


wanted = 2 * 2 * 2 * 64 * 64 * 8  # two products, two FLOP each, two heads
print(f"version: torch {torch.__version__}")
print(f"guess: {wanted:,} FLOP on every device")
found = {device: counted(device) for device in ("meta", "cpu")}
print(f"seen: {found}")
if found != {"meta": wanted, "cpu": 0}:
    sys.exit("CHANGED: wanted all of it on meta, 0 on a CPU")
print("behaviour as described: attention on a CPU counts as 0")
END
