"""A CLIP of the same name with other weights is another run; one whose weights are not all there is refused."""

import shutil

import numpy as np
import pytest
import torch
from helpers import ROOT
from safetensors.torch import load_file, save_file

from diffusion import InputError
from diffusion.models.clip import clip_weights, find_clip, load_clip

ARGS = ["--model", "clip", "--dataset", "digits-pairs", "--device", "cpu", "--dtype", "float32"]

BASELINE = ["scripts/baseline.py", "--dataset", "digits", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("open_clip")
    shutil.copytree(ROOT / "models/digits-clip", tmp_path / "clip")
    return tmp_path / "clip"


def test_other_weights(run_main, tmp_path, folder):
    np.save(tmp_path / "first.npy", np.array([0]))
    args = ["run_winoground.py", *ARGS, "--version", folder, "--subset_path", tmp_path / "first.npy"]
    assert run_main(*args).code == 0
    (path,) = folder.glob("*.safetensors")
    save_file({key: value + 1e-3 for key, value in load_file(path).items()}, path)
    done = run_main(*args)
    assert done.code == 2 and "weights of CLIP was" in done.err and done.err.count("\n") == 1


def test_missing_weights(run_main, tmp_path, folder):
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    for some in (dict(list(tensors.items())[::2]), {f"module.x.{key}": value for key, value in tensors.items()}):
        save_file(some, path)
        name, tag = find_clip("clip", str(folder), None)
        with pytest.raises(InputError, match="cannot load its weights"):
            load_clip(name, tag, dtype="float32", device=torch.device("cpu"))
    for script in ["run_winoground.py", *ARGS, "--version", folder], [*BASELINE, "--model", folder]:
        done = run_main(*script)
        assert done.code == 2 and "cannot load its weights" in done.err and done.err.count("\n") == 1
        assert not (tmp_path / "data").exists(), "a run that cannot begin"


def test_what_is_known_of_them(tmp_path, folder):
    assert "bytes, sha256" in clip_weights(*find_clip("clip", str(folder), None))["weights of CLIP"]
    assert clip_weights("ViT-L-14", "openai") == {}
