#!/bin/bash
# transformers: a CLIP tokenizer without its vocabulary is an empty one, to which all words are alike.
#
# The guess: `CLIPTokenizer.from_pretrained` of a folder without vocab.json, merges.txt and tokenizer.json is an error.
# What is so: it is a tokenizer of two tokens, and every letter is its unknown token. Prompts of one length have the
# same ids, so a text encoder gives them the same embedding, and a zero-shot classifier the same score for each. An
# interrupted download of a model can leave such a folder.
#
# Versions: transformers 5.24.0. Source: CLIPTokenizer.__init__ in transformers/models/clip/tokenization_clip.py.
# Needs python3 with venv; about 150 MB in a temporary folder; no torch.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work" HF_HUB_OFFLINE=1 HF_HOME="$work/hub" TQDM_DISABLE=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check numpy==2.4.6 transformers==5.24.0
"$work/venv/bin/python" - "$work" <<'END'
import json
import sys
import warnings
from pathlib import Path

import transformers
from transformers import AutoTokenizer, CLIPTokenizer

end = "<|endoftext|>"
config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": "<|startoftext|>"}
config |= {"eos_token": end, "pad_token": end, "unk_token": end}
folder = Path(sys.argv[1]) / "tokenizer"
folder.mkdir()
(folder / "tokenizer_config.json").write_text(json.dumps(config))
print(f"version: transformers {transformers.__version__}")
print(f"guess: an error, since {folder.name}/ holds {[path.name for path in folder.iterdir()]} alone")
as_described = True
for cls in (CLIPTokenizer, AutoTokenizer):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokenizer = cls.from_pretrained(folder)
    cat, dog = (tokenizer(f"a photo of a {animal}").input_ids for animal in ("cat", "dog"))
    print(f"seen: {cls.__name__}: {len(tokenizer)} tokens, {len(caught)} warnings")
    print(f"seen: a photo of a cat: {cat}")
    print(f"seen: a photo of a dog: {dog}")
    as_described &= cat == dog and len(tokenizer) < 5 and not caught
if not as_described:
    sys.exit("CHANGED: wanted a tokenizer of a few tokens, one list of ids for both prompts, and no warning")
print("behaviour as described: no error, and the prompts cannot be told apart")
END
