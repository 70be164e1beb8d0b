#!/bin/bash
# torch: once one of the newer precision settings was made, reading the older flags raises RuntimeError.
#
# The guess: `torch.backends.cudnn.conv.fp32_precision = "ieee"`, for exact convolutions, and the older flag
# `torch.backends.cudnn.allow_tf32` are two names of one setting; at any rate the older may be read, by a library that
# saves and restores it or prints it.
# What is so: the older flag is of convolutions and recurrent networks together. Where these differ it has no value and
# reading it raises RuntimeError, also within `torch.backends.cudnn.flags()`, which reads it to restore it: so code that
# turns cuDNN off for a while fails. Likewise `torch.get_float32_matmul_precision()` where one backend's matrix product
# was set to TF32. And the older setter, `torch.set_float32_matmul_precision("high")`, is of the CPU too: of oneDNN.
#
# Versions: torch 2.13.0. Source: set_flags and flags in torch/backends/cudnn/__init__.py; Context::allowTF32CuDNN and
# Context::float32MatmulPrecision in aten/src/ATen/Context.cpp.
# Needs python3 with venv; about 1 GB in a temporary folder with a CPU build of torch. No GPU is needed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work" HF_HUB_OFFLINE=1 HF_HOME="$work/hub" TQDM_DISABLE=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check \
  torch==2.13.0 numpy==2.4.6
"$work/venv/bin/python" - "$work" <<'END'
import sys

import torch


def read(what):
    """What a setting is, or the error of reading it."""
    try:
        return what()
    except RuntimeError:
        return "RuntimeError"


def without_cudnn():
    with torch.backends.cudnn.flags(enabled=False):
        return "cuDNN was off"


print(f"version: torch {torch.__version__}")
print("guess: the older flags can be read whatever the newer are")
flag, matmul = (lambda: torch.backends.cudnn.allow_tf32), torch.get_float32_matmul_precision
found = {"before": (read(flag), read(without_cudnn), read(matmul))}
print(f"seen: before: cudnn.allow_tf32, cudnn.flags(enabled=False), float32 matmul: {found['before']}")
torch.set_float32_matmul_precision("high")
cpu = torch.backends.mkldnn.matmul.fp32_precision
print(f"seen: set_float32_matmul_precision('high'): the CPU's matrix product, of oneDNN, is {cpu}")
torch.set_float32_matmul_precision("highest")
torch.backends.cudnn.conv.fp32_precision = "ieee"
torch.backends.cuda.matmul.fp32_precision = "tf32"
found["after"] = (read(flag), read(without_cudnn), read(matmul))
print(f"seen: cudnn.conv ieee and cuda.matmul tf32: the same three: {found['after']}")
if "RuntimeError" in found["before"] or set(found["after"]) != {"RuntimeError"} or cpu != "tf32":
    sys.exit("CHANGED: wanted values before, RuntimeError after, and tf32 of oneDNN")
print("behaviour as described: the newer settings make the older ones unreadable")
END
