#!/bin/bash
# Pillow: a TIFF that lies on its side has its pixels mixed up if it is opened by path and not compressed.
#
# The guess: what `Image.open` reads does not depend on how the file is handed over or compressed.
# What is so: of Orientation 5 to 8, which swap height and width, an uncompressed grey TIFF that is opened by its path
# is mapped into memory with the width for the height: rows are cut at the wrong length. The same bytes from a file
# object are right, and so is the same picture compressed by LZW. There is no error, and the shape may be right or
# wrong.
#
# Versions: Pillow 13.0.0. Source: ImageFile.load in PIL/ImageFile.py, which maps the file, and TiffImageFile._setup in
# PIL/TiffImagePlugin.py, which swaps the size before.
# Needs python3 with venv; about 100 MB in a temporary folder.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work" HF_HUB_OFFLINE=1 HF_HOME="$work/hub" TQDM_DISABLE=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
"$work/venv/bin/python" - "$work" <<'END'
import io
import sys
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

ORIENTATION = 274
TURNED = {  # what the orientation of TIFF 6.0 means, of an array [height, width]
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.T, 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].T, 8: np.rot90,
}
path = Path(sys.argv[1]) / "picture.tif"
stored = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
print(f"version: Pillow {PIL.__version__}")
print("guess: by path, from a file object, and compressed, the picture is the same")
wrong = {"by path": [], "file object": [], "LZW, by path": []}
for orientation, turn in TURNED.items():
    wanted = turn(stored)
    Image.fromarray(stored).save(path, tiffinfo={ORIENTATION: orientation})
    found = {"by path": np.asarray(Image.open(path))}
    found["file object"] = np.asarray(Image.open(io.BytesIO(path.read_bytes())))
    Image.fromarray(stored).save(path, tiffinfo={ORIENTATION: orientation}, compression="tiff_lzw")
    found["LZW, by path"] = np.asarray(Image.open(path))
    for how, array in found.items():
        if not np.array_equal(array, wanted):
            wrong[how].append(orientation)
            print(f"seen: orientation {orientation}, {how}: {array.tolist()}, wanted {wanted.tolist()}")
print(f"seen: wrong orientations: {wrong}")
if wrong != {"by path": [5, 6, 7, 8], "file object": [], "LZW, by path": []}:
    sys.exit("CHANGED: wanted 5 to 8 wrong by path, and all else right")
print("behaviour as described: uncompressed, opened by path, 5 to 8 are mixed up")
END
