#!/bin/bash
# diffusers: a flow-matching scheduler that is swapped by `from_config` becomes one that predicts epsilon.
#
# The guess: `UniPCMultistepScheduler.from_config(pipeline.scheduler.config)` keeps what the network predicts, as it
# does for the networks of Stable Diffusion 1 and 2; UniPC and DPM-Solver know flow matching.
# What is so: a flow-matching scheduler's configuration has no key that says it is one; its class alone does. The new
# scheduler has its defaults: prediction_type "epsilon", use_flow_sigmas False, linear betas. What is logged says only
# that `shift` is ignored. A pipeline saved so has no sign of flow matching in its scheduler.
#
# Versions: diffusers 0.42.1. Source: from_config and extract_init_dict in diffusers/configuration_utils.py; `__init__`
# of each scheduler.
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
import json
import sys
from pathlib import Path

import diffusers
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

work = Path(sys.argv[1])
flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
flow.set_timesteps(4)
print(f"version: diffusers {diffusers.__version__}")
print("guess: the swapped scheduler predicts the velocity of flow matching, with noise levels of 1 and less")
print(f"seen: FlowMatchEulerDiscreteScheduler: largest noise level {float(flow.sigmas.max()):.3f}")
as_described = True
for cls in (UniPCMultistepScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler):
    cls.from_config(flow.config).save_pretrained(work / cls.__name__)
    saved = json.loads((work / cls.__name__ / "scheduler_config.json").read_text())
    again = cls.from_pretrained(work / cls.__name__)
    again.set_timesteps(4)
    largest = float(again.sigmas.max())
    found = {key: saved.get(key) for key in ("prediction_type", "use_flow_sigmas", "beta_schedule", "shift")}
    print(f"seen: {cls.__name__} as saved: {found}; largest noise level {largest:.3f}")
    as_described &= saved["prediction_type"] == "epsilon" and not saved.get("use_flow_sigmas") and largest > 10
if not as_described:
    sys.exit("CHANGED: wanted prediction_type epsilon, no flow sigmas, and noise levels above 10")
print("behaviour as described: what was flow matching is now epsilon with linear betas, in the saved file too")
END
