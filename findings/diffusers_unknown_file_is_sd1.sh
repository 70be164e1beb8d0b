#!/bin/bash
# diffusers: a single file that it does not recognise is Stable Diffusion 1.5.
#
# The guess: the kind of model that `from_single_file` finds in a file is an error where the file is of no known kind.
# What is so: the last branch of its detection is "v1", so everything else is: a Qwen-Image or CogView 4 in diffusers'
# own layout, a language model, one tensor of any name. Its configuration is then taken from Stable Diffusion 1.5's
# repository.
#
# Versions: diffusers 0.42.1. Source: infer_diffusers_model_type and fetch_diffusers_config in
# diffusers/loaders/single_file_utils.py.
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
from diffusers import CogView4Transformer2DModel, QwenImageTransformer2DModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import fetch_diffusers_config, infer_diffusers_model_type
from transformers import BertConfig, BertModel

few = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}
qwen = QwenImageTransformer2DModel(
    patch_size=2, in_channels=16, out_channels=4, joint_attention_dim=16, axes_dims_rope=(8, 4, 4), **few
)
cogview = CogView4Transformer2DModel(
    in_channels=4, out_channels=4, text_embed_dim=16, time_embed_dim=16, condition_dim=8, **few
)
unet = UNet2DConditionModel(
    block_out_channels=[32, 32], layers_per_block=1, cross_attention_dim=2048,
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
)
bert = BertModel(BertConfig(vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
files = {
    "a Qwen-Image in diffusers' layout": qwen.state_dict(),
    "a CogView 4 in diffusers' layout": cogview.state_dict(),
    "a U-Net as wide in its text as Stable Diffusion XL, in diffusers' layout": unet.state_dict(),
    "a BERT": bert.state_dict(),
    "one tensor": {"weight": torch.zeros(2)},
}
print(f"version: diffusers {diffusers.__version__}")
print("guess: an error, since these are no known kinds of single file")
kinds = set()
for name, tensors in files.items():
    kind = infer_diffusers_model_type(tensors)
    config = fetch_diffusers_config(tensors)["pretrained_model_name_or_path"]
    kinds.add(kind)
    print(f"seen: {name}: {kind}, to be read by the configuration of {config}")
if kinds != {"v1"}:
    sys.exit(f"CHANGED: wanted v1 for all of these, found {sorted(kinds)}")
print("behaviour as described: whatever is not recognised is Stable Diffusion 1.5")
END
