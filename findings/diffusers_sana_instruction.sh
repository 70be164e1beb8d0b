#!/bin/bash
# diffusers: Sana's pipeline reads a prompt after an instruction of many lines, its `encode_prompt` without.
#
# The guess: `encode_prompt(prompt)` gives the embedding with which `pipeline(prompt)` samples, as in other pipelines,
# so it may be computed once and passed as `prompt_embeds`.
# What is so: `__call__` has an instruction as its default of complex_human_instruction and puts it before the prompt;
# the default of `encode_prompt` is none. Both have the same shape, and nothing warns: embeddings that were computed
# beforehand are those of another text than the network was trained with.
#
# Versions: diffusers 0.42.1. Source: SanaPipeline.__call__ and SanaPipeline.encode_prompt in
# diffusers/pipelines/sana/pipeline_sana.py.
# Needs python3 with venv; about 1.3 GB in a temporary folder with a CPU build of torch.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work" HF_HUB_OFFLINE=1 HF_HOME="$work/hub" TQDM_DISABLE=1
export TRANSFORMERS_VERBOSITY=error
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check \
  torch==2.13.0 numpy==2.4.6 diffusers==0.42.1 transformers==5.24.0 accelerate==1.15.0 safetensors==0.8.0
"$work/venv/bin/python" - "$work" <<'END'
import string
import sys

import diffusers
import torch
from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

torch.manual_seed(0)
tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *string.ascii_lowercase]
tokenizer = GemmaTokenizer(vocab={token: k for k, token in enumerate(tokens)}, merges=[])
language = Gemma2Model(
    Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16,
    )
)
network = SanaTransformer2DModel(
    num_layers=1, num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4,
    num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=32,
    sample_size=8, patch_size=1,
)
blocks = {"encoder_block_types": "ResBlock", "decoder_block_types": "ResBlock"}
for side in ("encoder", "decoder"):
    blocks |= {f"{side}_block_out_channels": (8, 8, 8), f"{side}_layers_per_block": (1, 1, 1)}
    blocks |= {f"{side}_qkv_multiscales": ((), (), ())}
scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
pipeline = SanaPipeline(tokenizer, language, AutoencoderDC(latent_channels=4, **blocks), network, scheduler)
pipeline.set_progress_bar_config(disable=True)
read = []
network.register_forward_pre_hook(
    lambda _, args, kwargs: read.append(kwargs["encoder_hidden_states"]), with_kwargs=True
)
prompt = "a photo of a cat"
how = {"num_inference_steps": 1, "guidance_scale": 1.0, "height": 32, "width": 32, "output_type": "latent"}
with torch.inference_mode():
    pipeline(prompt, use_resolution_binning=False, **how)
    pipeline(prompt, use_resolution_binning=False, complex_human_instruction=None, **how)
    encoded, *_ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
as_called, without = read
apart, same = float((as_called - encoded).abs().max()), float((without - encoded).abs().max())
print(f"version: diffusers {diffusers.__version__}, torch {torch.__version__}")
print("guess: the network samples with what encode_prompt gives for the prompt")
print(f"seen: shapes {tuple(as_called.shape)} and {tuple(encoded.shape)}")
print(f"seen: of the pipeline's call they differ by {apart:.3g} at most")
print(f"seen: of a call with complex_human_instruction=None they differ by {same:.3g} at most")
if as_called.shape != encoded.shape or apart < 0.1 or same > 1e-5:
    sys.exit("CHANGED: wanted embeddings of one shape, that differ by default, and do not without the instruction")
print("behaviour as described: encode_prompt leaves out the instruction that sampling puts before the prompt")
END
