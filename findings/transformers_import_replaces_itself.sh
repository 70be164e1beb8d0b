#!/bin/bash
# transformers: `import transformers` before and after a model is imported are two module objects.
#
# The guess: a package is one object in sys.modules; a name that is set on it (a class registered, a function replaced)
# is there for whoever imports the package later.
# What is so: importing transformers.processing_utils, which most models' modules and so most of diffusers do, executes
# the package's __init__ again and puts another object into sys.modules. What was set on the first one is gone for all
# later imports. Models are of the same classes in both. diffusers 0.42.1 meets it: its pipelines/prx/__init__.py sets
# T5GemmaEncoder on the `transformers` that it imported before such a module, so `from transformers import
# T5GemmaEncoder` works or fails by what was imported first.
#
# Versions: transformers 5.24.0. Source: direct_transformers_import in transformers/utils/import_utils.py, called where
# transformers/processing_utils.py is imported.
# Needs python3 with venv; about 150 MB in a temporary folder; no torch.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work" HF_HUB_OFFLINE=1 HF_HOME="$work/hub"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check numpy==2.4.6 transformers==5.24.0
"$work/venv/bin/python" - <<'END'
import sys

import transformers

first = transformers
first.registered = "set by a user"
print(f"version: transformers {first.__version__}")
print("guess: one object, and the name is there for later imports")
before = sys.modules["transformers"] is first

import transformers.processing_utils  # noqa: E402

second = sys.modules["transformers"]
print(f"seen: sys.modules has the object that was imported: {before} before, {second is first} after")
print(f"seen: the name is there: {hasattr(first, 'registered')} on it, {hasattr(second, 'registered')} on the other")
print(f"seen: a class of both is one: {first.CLIPTokenizer is second.CLIPTokenizer}")
if not before or second is first or hasattr(second, "registered"):
    sys.exit("CHANGED: wanted another object in sys.modules, without the name")
print("behaviour as described: what was set on the package is lost when a model's module is imported")
END
