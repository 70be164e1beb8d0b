#!/bin/bash
# transformers: CLIP takes the pooled text at a token that was added, not at the end of the text.
#
# The guess: the pooled output is that of the end token, with textual inversion's tokens too.
# What is so: where the configuration has eos_token_id 2, as older ones have, the pooled output is that at the largest
# id of the prompt. The end token has the largest id of the original vocabulary, a token that was added has a larger
# one. Attention is causal, so the pooled text then holds nothing of the words behind the added token: prompts that
# differ there have the same pooled embedding, to the bit.
#
# Versions: transformers 5.24.0. Source: the pooling of CLIPTextModel in transformers/models/clip/modeling_clip.py.
# Needs python3 with venv; about 1.1 GB in a temporary folder with a CPU build of torch.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work" HF_HUB_OFFLINE=1 HF_HOME="$work/hub" TQDM_DISABLE=1
export TRANSFORMERS_VERBOSITY=error
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check \
  torch==2.13.0 numpy==2.4.6 transformers==5.24.0
"$work/venv/bin/python" - "$work" <<'END'
import sys

import torch
import transformers
from transformers import CLIPTextConfig, CLIPTextModel

START, END, ADDED = 17, 18, 19
prompts = torch.tensor([[START, ADDED, 5, 9, END, END], [START, ADDED, 6, 3, END, END]])
print(f"version: transformers {transformers.__version__}, torch {torch.__version__}")
print(f"guess: both prompts are pooled at position 4, that of the first end token; ids {prompts.tolist()}")
places, apart = {}, {}
for eos_token_id in (2, END):
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=19, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=START, eos_token_id=eos_token_id, pad_token_id=END,
    )
    model = CLIPTextModel(config).eval()
    model.resize_token_embeddings(20)
    with torch.inference_mode():
        out = model(prompts)
    same = (out.last_hidden_state == out.pooler_output[:, None]).all(-1)
    places[eos_token_id] = [row.nonzero().flatten().tolist() for row in same]
    apart[eos_token_id] = float((out.pooler_output[0] - out.pooler_output[1]).abs().max())
    print(
        f"seen: eos_token_id {eos_token_id}: pooled at {places[eos_token_id]}; "
        f"the two pooled texts differ by {apart[eos_token_id]:.3g} at most"
    )
if places != {2: [[1], [1]], END: [[4], [4]]} or apart[2] != 0 or apart[END] == 0:
    sys.exit("CHANGED: wanted pooling at the added token with eos_token_id 2, and at the end with the right id")
print("behaviour as described: with eos_token_id 2 the pooled text ends at the added token")
END
