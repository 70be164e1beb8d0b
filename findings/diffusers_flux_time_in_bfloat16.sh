#!/bin/bash
# diffusers: in bfloat16, Flux sees a more exact time if it is rounded once more on the way.
#
# The guess: a time in 0..1000 should be divided by 1000 in float32 and rounded to bfloat16 once, at the end; rounding
# it before the division too, as the pipeline does, can only add error.
# What is so: the network multiplies by 1000 again, in bfloat16. From a time that was rounded first this nearly gives
# the rounded time back; from one that was divided first it gives the error of two other roundings. Over 1..1000 the
# time that reaches the network's sinusoids is off by 0.625 on average and 2 at most if rounded first, else by 0.747 and
# 3.
#
# Versions: diffusers 0.42.1. Source: FluxPipeline.__call__ in diffusers/pipelines/flux/pipeline_flux.py, and
# FluxTransformer2DModel.forward in diffusers/models/transformers/transformer_flux.py.
# Needs python3 with venv; about 1.3 GB in a temporary folder with a CPU build of torch.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work" HF_HUB_OFFLINE=1 HF_HOME="$work/hub" TQDM_DISABLE=1
export DIFFUSERS_VERBOSITY=error TRANSFORMERS_VERBOSITY=error
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check \
  torch==2.13.0 numpy==2.4.6 diffusers==0.42.1 transformers==5.24.0 accelerate==1.15.0 safetensors==0.8.0
"$work/venv/bin/python" - "$work" <<'END'
import sys

import diffusers
import torch
from diffusers import FluxTransformer2DModel

network = FluxTransformer2DModel(
    patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, num_attention_heads=2, attention_head_dim=16,
    joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8),
).to(torch.bfloat16)
reached = []
network.time_text_embed.time_proj.register_forward_pre_hook(lambda _, args: reached.append(args[0].double()))
time = torch.arange(1, 1001, dtype=torch.float32)


def error_of(level):
    """Mean and largest distance of the time at the sinusoids from 1..1000."""
    n, zeros = len(level), lambda *shape: torch.zeros(*shape, dtype=torch.bfloat16)
    with torch.inference_mode():
        network(
            hidden_states=zeros(n, 1, 4), encoder_hidden_states=zeros(n, 1, 16), pooled_projections=zeros(n, 16),
            timestep=level, img_ids=torch.zeros(1, 3), txt_ids=torch.zeros(1, 3),
        )
    distance = (reached[-1] - time).abs()
    return float(distance.mean()), float(distance.max())


first = error_of(time.bfloat16() / 1000)
last = error_of((time / 1000).bfloat16())
print(f"version: diffusers {diffusers.__version__}, torch {torch.__version__}")
print("guess: dividing in float32 and rounding once is at least as exact")
print(f"seen: rounded, divided and rounded: off by {first[0]:.3f} on average, {first[1]:.0f} at most")
print(f"seen: divided and rounded once: off by {last[0]:.3f} on average, {last[1]:.0f} at most")
if not (first[0] < last[0] and first[1] < last[1]):
    sys.exit("CHANGED: wanted a smaller error of the time that is rounded first")
print("behaviour as described: the time that is rounded twice is the nearer one")
END
