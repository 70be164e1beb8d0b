#!/bin/bash
# peft: a model with a PiSSA adapter that is disabled, or unloaded, is not the model that it was before.
#
# The guess: with `disable_adapter()` a model gives what it gave without the adapter, and `unload()` gives it back; an
# adapter's file holds a difference from the base model.
# What is so: init_lora_weights="pissa" takes the largest singular values out of the base weights when an adapter is
# added, at loading too. Disabled or unloaded, these are missing. The tensors of the file added to the base weights, as
# other tools add a LoRA, are another model than the trained one. With a Gaussian start all three guesses hold.
#
# Versions: peft 0.21.2. Source: pissa_init in peft/tuners/lora/layer.py.
# Needs python3 with venv; about 1.2 GB in a temporary folder with a CPU build of torch.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work" HF_HUB_OFFLINE=1 HF_HOME="$work/hub" TQDM_DISABLE=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check \
  torch==2.13.0 numpy==2.4.6 peft==0.21.2 transformers==5.24.0 accelerate==1.15.0 safetensors==0.8.0
"$work/venv/bin/python" - "$work" <<'END'
import copy
import sys

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

work = sys.argv[1]
torch.manual_seed(0)
base = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
x = torch.randn(8, 16)
print(f"version: peft {peft.__version__}, torch {torch.__version__}")
print("guess: disabled, unloaded, and added by hand are the base, the base, and the trained model")
found = {}
for start in ("gaussian", "pissa"):
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["0"], init_lora_weights=start)
    trained = get_peft_model(copy.deepcopy(base), config)
    optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        trained(x).square().mean().backward()
        optimizer.step()
    trained.save_pretrained(f"{work}/{start}")
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), f"{work}/{start}")
    tensors = load_file(f"{work}/{start}/adapter_model.safetensors")
    by_hand = copy.deepcopy(base)
    with torch.no_grad():
        up, down = (tensors[f"base_model.model.0.lora_{half}.weight"] for half in "BA")
        by_hand[0].weight += up @ down  # alpha / rank is 1
        again = float((loaded(x) - trained(x)).abs().max())
        with loaded.disable_adapter():
            off = float((loaded(x) - base(x)).abs().max())
        added = float((by_hand(x) - trained(x)).abs().max())
        unloaded = float((loaded.unload()(x) - base(x)).abs().max())
    found[start] = (again, off, unloaded, added)
    print(f"seen: {start}: loaded by peft it is off the trained model by {again:.2g} at most")
    print(f"seen: {start}: disabled it is off the base by {off:.2g}, unloaded by {unloaded:.2g}")
    print(f"seen: {start}: added to the base by hand it is off the trained model by {added:.2g}")
if max(found["gaussian"]) > 1e-5 or found["pissa"][0] > 1e-5 or min(found["pissa"][1:]) < 1e-2:
    sys.exit("CHANGED: wanted no difference of the Gaussian start, and of PiSSA only as peft loads it")
print("behaviour as described: a PiSSA adapter changes the base weights, and leaves them changed")
END
