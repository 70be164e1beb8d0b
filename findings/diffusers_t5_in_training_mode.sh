#!/bin/bash
# diffusers: the T5 of a single file is left in training mode, so a prompt has another embedding at every call.
#
# The guess: `from_single_file` gives a pipeline that is ready to sample, as `from_pretrained` does.
# What is so: the T5 encoder that it builds of the file stays in training mode, in which a new module is. Its dropout,
# of 0.1 by default, is active: two calls of `encode_prompt` with one prompt differ. The same weights read by
# `from_pretrained` are in evaluation mode.
#
# Versions: diffusers 0.42.1 with transformers 5.24.0. Source: create_diffusers_t5_model_from_checkpoint in
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
import string
import sys

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer
from transformers import T5Config, T5EncoderModel, T5Tokenizer

work = sys.argv[1]
torch.manual_seed(0)
words = [(f"\u2581{word}", -1.0) for word in ("a", "photo", "of", "cat")]
t5_tokenizer = T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *words], extra_ids=0)
t5 = T5EncoderModel(
    T5Config(vocab_size=len(t5_tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
)
tokens = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
tokens += ["<|startoftext|>", "<|endoftext|>"]
clip_tokenizer = CLIPTokenizer(vocab={token: k for k, token in enumerate(tokens)}, merges=[], model_max_length=77)
config = CLIPTextConfig(
    vocab_size=54, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
    projection_dim=16, bos_token_id=52, eos_token_id=53,
)
clip = CLIPTextModelWithProjection(config).eval()
transformer = SD3Transformer2DModel(
    sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2,
    attention_head_dim=8, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32,
    pos_embed_max_size=8,
).eval()
parts = {
    "transformer": transformer, "scheduler": FlowMatchEulerDiscreteScheduler(),
    "vae": AutoencoderKL(block_out_channels=[8], norm_num_groups=4, latent_channels=4).eval(),
    "text_encoder": clip, "tokenizer": clip_tokenizer, "text_encoder_2": clip, "tokenizer_2": clip_tokenizer,
    "tokenizer_3": t5_tokenizer,
}
StableDiffusion3Pipeline(text_encoder_3=t5, **parts).save_pretrained(f"{work}/folder")
prefix = "text_encoders.t5xxl.transformer."  # as the files of Stable Diffusion 3 have it
save_file({prefix + key: value.clone() for key, value in t5.state_dict().items()}, f"{work}/one.safetensors")

print(f"version: diffusers {diffusers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
print("guess: both pipelines are in evaluation mode: one prompt has one embedding")
pipelines = {
    "from_pretrained": StableDiffusion3Pipeline.from_pretrained(f"{work}/folder"),
    "from_single_file": StableDiffusion3Pipeline.from_single_file(
        f"{work}/one.safetensors", config=f"{work}/folder", **parts
    ),
}
training, differ = {}, {}
for name, pipeline in pipelines.items():
    with torch.inference_mode():
        first, second = (
            pipeline.encode_prompt("a photo of a cat", None, None, do_classifier_free_guidance=False)[0]
            for _ in range(2)
        )
    training[name] = pipeline.text_encoder_3.training
    differ[name] = float((first - second).abs().max())
    print(f"seen: {name}: training is {training[name]}; two calls differ by {differ[name]:.3g} at most")
loaded = pipelines["from_single_file"].text_encoder_3.state_dict()
assert all(torch.equal(value, loaded[key]) for key, value in t5.state_dict().items())
print("seen: the weights are the same")
if differ["from_pretrained"] != 0 or not training["from_single_file"] or differ["from_single_file"] < 1e-3:
    sys.exit("CHANGED: wanted the T5 of the file in training mode, and that of the folder not")
print("behaviour as described: the embedding of a prompt changes from call to call")
END
