#!/bin/bash
# Pillow: a grey TIFF in which 0 is white is inverted if it has 8 bits, and not if it has 16.
#
# The guess: PhotometricInterpretation 0 (WhiteIsZero) is undone for all depths, or left to the reader for all.
# What is so: of 8 bits Pillow gives the values inverted, so that 255 is white; of 16 bits it gives them as they are in
# the file, in mode "I;16", where 65535 is then black. Nothing in the image says so but its tag 262. Scans and X-rays
# may be stored so: a data set of both depths is half negatives.
#
# Versions: Pillow 13.0.0. Source: OPEN_INFO in PIL/TiffImagePlugin.py.
# Needs python3 with venv; about 100 MB in a temporary folder.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work" HF_HUB_OFFLINE=1 HF_HOME="$work/hub" TQDM_DISABLE=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
"$work/venv/bin/python" - "$work" <<'END'
import io
import struct
import sys

import numpy as np
import PIL
from PIL import Image


def tiff(values, bits, photometric):
    """An uncompressed grey TIFF of one strip; values [h, w]."""
    height, width = values.shape
    data = values.astype("u1" if bits == 8 else "<u2").tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    tags.append((279, len(data)))
    directory = struct.pack("<H", len(tags))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


print(f"version: Pillow {PIL.__version__}")
print("guess: the lightest pixel of the picture is the largest value of the array, in both depths or in neither")
found = {}
for bits in (8, 16):
    most = 2**bits - 1
    stored = np.array([[0, most // 3], [most // 3, most]])
    for name, photometric in (("BlackIsZero", 1), ("WhiteIsZero", 0)):
        with Image.open(io.BytesIO(tiff(stored, bits, photometric))) as image:
            array = np.asarray(image).astype(int)
        found[bits, name] = array
        print(f"seen: {bits} bits, {name}: {stored.tolist()} in the file, {array.tolist()} read, mode {image.mode}")
same = {key: np.array_equal(array, found[key[0], "BlackIsZero"]) for key, array in found.items()}
if same[8, "WhiteIsZero"] or not same[16, "WhiteIsZero"]:
    sys.exit("CHANGED: wanted 8 bits inverted and 16 bits as they are")
print("behaviour as described: 8 bits are inverted, 16 are not")
END
