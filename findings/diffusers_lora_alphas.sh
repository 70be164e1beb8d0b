#!/bin/bash
# diffusers: of a LoRA file whose modules have different alphas, attention modules get the alpha of others.
#
# The guess: the alpha that a file in kohya's layout holds for each module is the one that this module gets.
# What is so: the most frequent alpha of the file becomes the default, and the others a pattern by name. Names of
# attention modules in that pattern are those of before a conversion and match none, so these modules get the default:
# too strong or too weak. Feed-forward and convolution modules of the same file are right. peft warns of keys that match
# nothing; the LoRA is loaded all the same. LoRAs that were resized or weighted by block are such files.
#
# Versions: diffusers 0.42.1 with peft 0.21.2. Source: get_peft_kwargs in diffusers/utils/peft_utils.py.
# Needs python3 with venv; about 1.3 GB in a temporary folder with a CPU build of torch.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work" HF_HUB_OFFLINE=1 HF_HOME="$work/hub" TQDM_DISABLE=1
export DIFFUSERS_VERBOSITY=error
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check \
  torch==2.13.0 numpy==2.4.6 diffusers==0.42.1 transformers==5.24.0 accelerate==1.15.0 safetensors==0.8.0 peft==0.21.2
"$work/venv/bin/python" - "$work" <<'END'
import sys
import warnings

import diffusers
import peft
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel

warnings.simplefilter("ignore")
torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=8, block_out_channels=[8, 16], layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
    cross_attention_dim=16,
)
before = {key: value.clone() for key, value in unet.state_dict().items()}
rank, block = 4, "attentions.0.transformer_blocks.0"
alphas = {
    f"down_blocks.1.{block}.attn1.to_q": 1.0,
    f"down_blocks.1.{block}.attn2.to_k": 1.0,
    f"mid_block.{block}.attn1.to_v": 4.0,
    f"mid_block.{block}.ff.net.0.proj": 4.0,
    "down_blocks.1.resnets.0.conv1": 2.0,
}
file, wanted = {}, {}
for module, alpha in alphas.items():
    weight = before[f"{module}.weight"]
    down = torch.randn(rank, *weight.shape[1:])
    up = torch.randn(len(weight), rank, *[1] * (weight.ndim - 2))
    key = "lora_unet_" + module.replace(".", "_")
    file |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
    wanted[module] = alpha / rank * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
pipeline = StableDiffusionPipeline(
    AutoencoderKL(), None, None, unet, DDPMScheduler(clip_sample=False), None, None, requires_safety_checker=False
)
pipeline.load_lora_weights(file)
pipeline.fuse_lora()
pipeline.unload_lora_weights()
after = unet.state_dict()

print(f"version: diffusers {diffusers.__version__}, peft {peft.__version__}, torch {torch.__version__}")
print("guess: each module changes by alpha / rank times up times down, with its alpha in the file")
applied = {}
for module, change in wanted.items():
    found = after[f"{module}.weight"] - before[f"{module}.weight"]
    applied[module] = float((found * change).sum() / change.square().sum()) * alphas[module]
    print(f"seen: {module}: alpha {alphas[module]} in the file, {applied[module]:.3f} applied")
others = [module for module in alphas if module != f"mid_block.{block}.attn1.to_v"]
right = all(abs(applied[module] - alphas[module]) < 1e-3 for module in others)
if not right or abs(applied[f"mid_block.{block}.attn1.to_v"] - 1.0) > 1e-3:
    sys.exit("CHANGED: wanted alpha 1 of the file's 4 for mid_block's to_v, and the file's alpha for the others")
print("behaviour as described: an attention module with alpha 4 gets the most frequent alpha, 1")
END
