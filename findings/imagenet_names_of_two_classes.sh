#!/bin/bash
# torchvision and open_clip: of each library's 1,000 names of ImageNet's classes, some stand for two classes.
#
# The guess: both lists have 1,000 different names, the same ones in the same order, so each class has a prompt of its
# own and may be found by its name in either.
# What is so: the order is the same, but 296 names are not, upper and lower case apart. open_clip's list has "missile"
# for 657 and 744 and "sunglasses" for 836 and 837. torchvision's has "Cardigan", a dog, for 264 and "cardigan" for 474:
# to CLIP's tokenizer, which takes no notice of case, these are one text. A zero-shot classifier by such names gives two
# classes one prompt, and is right for one of them at most.
#
# Versions: torchvision 0.29.1, open_clip_torch 3.3.0. Source: _IMAGENET_CATEGORIES in torchvision/models/_meta.py,
# IMAGENET_CLASSNAMES in open_clip/zero_shot_metadata.py.
# Needs python3 with venv; about 50 MB in a temporary folder; the two files are read without torch.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work" HF_HUB_OFFLINE=1 HF_HOME="$work/hub" TQDM_DISABLE=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check \
  --no-deps torchvision==0.29.1 open_clip_torch==3.3.0
"$work/venv/bin/python" - "$work" <<'END'
import runpy
import sys
from importlib.metadata import distribution


def variable(package, file, name):
    """The value of a variable of a file that needs nothing else of its package."""
    return runpy.run_path(str(distribution(package).locate_file(file)))[name]


def repeated(names):
    """Name -> its class ids, of names that have more than one."""
    return {name: [k for k, other in enumerate(names) if other == name] for name in names if names.count(name) > 1}


lists = {
    "torchvision": variable("torchvision", "torchvision/models/_meta.py", "_IMAGENET_CATEGORIES"),
    "open_clip": variable("open_clip_torch", "open_clip/zero_shot_metadata.py", "IMAGENET_CLASSNAMES"),
}
versions = [f"{name} {distribution(name).version}" for name in ("torchvision", "open_clip_torch")]
print(f"version: {', '.join(versions)}")
print("guess: 1,000 names each, all different, of the same classes")
twice, folded = {}, {}
for library, names in lists.items():
    twice[library], folded[library] = repeated(names), repeated([name.lower() for name in names])
    print(f"seen: {library}: {len(names)} classes; names of two classes: {twice[library]}")
    print(f"seen: {library}: in lower case: {folded[library]}")
pairs = list(zip(lists["torchvision"], lists["open_clip"], strict=True))
differ = sum(one.lower() != other.lower() for one, other in pairs)
print(f"seen: {differ} of 1,000 names differ, upper and lower case apart")
for index in (638, 744, 836):
    print(f"seen: class {index}: {pairs[index][0]!r} of torchvision, {pairs[index][1]!r} of open_clip")
of_two = {"missile": [657, 744], "sunglasses": [836, 837]}
if twice != {"torchvision": {}, "open_clip": of_two} or folded["torchvision"] != {"cardigan": [264, 474]}:
    sys.exit("CHANGED: wanted two names of open_clip for two classes each, and in lower case one of torchvision")
if differ != 296:
    sys.exit("CHANGED: wanted 296 names that differ")
print("behaviour as described: names of each list stand for two classes")
END
