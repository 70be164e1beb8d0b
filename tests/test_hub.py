"""The whole path to the hub, with its real client: a hub of our own, over loopback, as it is and as it fails."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import single_file
from local_hub import COMMIT, Hub, run

from diffusion.models import ALIASES

SCRIPT = "eval_prob_adaptive.py"
FIRST, MIRROR = ALIASES["text"]["2-0"]
SECONDS = 60  # a process imports for 13 s of one core, more on a busy machine
pytestmark = pytest.mark.slow


@pytest.fixture
def small(tmp_path) -> list:
    np.save(tmp_path / "first.npy", np.array([2]))
    return ["--dataset", "digits", "--device", "cpu", "--to_keep", 1, "--n_samples", 2,
            "--subset_path", tmp_path / "first.npy"]  # fmt: skip


@pytest.fixture
def hub(model_folder):
    """With the embedded model as 2-0 and its mirror."""
    served = Hub({FIRST: model_folder, MIRROR: model_folder})
    yield served
    served.shutdown()


def one_line(result, *says: str) -> None:
    done, seconds = result
    assert done.code == 2 and done.err.count("\n") == 1 and "Traceback" not in done.err, done
    assert all(word in done.err for word in says), done.err
    assert seconds < SECONDS, f"{seconds:.0f} s"


def options(tmp_path) -> dict:
    (path,) = (tmp_path / "data").rglob("run.json")
    return json.loads(path.read_text())["options"]


def test_an_alias(hub, tmp_path, small):
    """The first repository is used, by its commit; nothing is fetched twice, nor what is not needed."""
    done, _ = run(hub, tmp_path, SCRIPT, "--version", "2-0", *small)
    assert done.code == 0, done.err
    told = options(tmp_path)
    assert told["model"] == FIRST and told["weights of unet"] == f"commit {COMMIT}"
    blobs = [path for path in hub.asked if path.startswith("GET /blobs")]
    assert len(blobs) == len(set(blobs)) == 3 and not any(MIRROR in path for path in hub.asked)
    # again, and without a network: from the cache
    done, _ = run(None, tmp_path, SCRIPT, "--version", "2-0", *small)
    assert done.code == 0 and "1 done before" in done.out, done.err
    done, _ = run(None, tmp_path, SCRIPT, "--version", "2-0", *small, "--extra", "b", env={"HF_HUB_OFFLINE": "1"})
    assert done.code == 0, done.err
    # and when the hub fails
    hub.trouble = lambda path, headers: (500, {})
    done, seconds = run(hub, tmp_path, SCRIPT, "--version", "2-0", *small, "--extra", "c")
    assert done.code == 0 and seconds < SECONDS, done.err


def test_the_first_mirror_is_gone(hub, tmp_path, small):
    del hub.repos[FIRST]
    done, _ = run(hub, tmp_path, SCRIPT, "--version", "2-0", *small)
    assert done.code == 0 and options(tmp_path)["model"] == MIRROR, done.err


def test_the_first_mirror_has_no_weights(hub, tmp_path, small, model_folder):
    shutil.copytree(model_folder, tmp_path / "bare")
    (tmp_path / "bare/unet/diffusion_pytorch_model.safetensors").unlink()
    hub.repos[FIRST] = tmp_path / "bare"
    done, _ = run(hub, tmp_path, SCRIPT, "--version", "2-0", *small)
    assert done.code == 0 and options(tmp_path)["model"] == MIRROR, done.err


def test_all_mirrors_are_gone(hub, tmp_path, small):
    hub.repos.clear()
    one_line(run(hub, tmp_path, SCRIPT, "--version", "2-0", *small), FIRST, MIRROR, "no such repository")


GATED = {"X_Error_Code": "GatedRepo"}
TROUBLE = {
    "gated, not logged in": (401, GATED, ["gated", "ask for access", FIRST, "HF_TOKEN"]),
    "gated, no access": (403, GATED, ["gated", "ask for access", FIRST]),
    "forbidden": (403, {}, ["access"]),
    "private": (401, {"X_Error_Code": "RepoNotFound"}, ["HF_TOKEN"]),
    "too many": (429, {"Retry_After": 300}, ["429", "too many requests"]),
    "failing": (500, {}, ["500", "try again"]),
    "away": (503, {}, ["503"]),
}


@pytest.mark.parametrize("name", TROUBLE)
@pytest.mark.parametrize("where", ["all", "files"])
def test_trouble(hub, tmp_path, small, name, where):
    """From the first question on; or only when files are asked for, as for gated repositories."""
    status, headers, says = TROUBLE[name]
    hub.trouble = lambda path, _: (status, headers) if where == "all" or "/resolve/" in path else None
    one_line(run(hub, tmp_path, SCRIPT, "--version", FIRST, *small), *says)
    assert not (tmp_path / "data").exists()


def test_weights_that_are_refused(hub, tmp_path, small):
    """The configurations are there, and the weights are not given."""
    hub.trouble = lambda path, _: (403, GATED) if path.endswith(".safetensors") else None
    one_line(run(hub, tmp_path, SCRIPT, "--version", "2-0", *small), "gated", FIRST)
    assert not (tmp_path / "data").exists()


def test_nobody_is_there(tmp_path, small):
    one_line(run(None, tmp_path, SCRIPT, "--version", "2-0", *small), "cannot be reached", FIRST, MIRROR)
    one_line(run(None, tmp_path, SCRIPT, "--version", "2-0", *small, env={"HF_HUB_OFFLINE": "1"}), "offline")


def test_a_slow_hub(hub, tmp_path, small):
    hub.slow = 60
    done, seconds = run(hub, tmp_path, SCRIPT, "--version", FIRST, *small)
    assert done.code == 2 and done.err.count("\n") == 1 and "cannot be reached" in done.err and seconds < 40, done


def test_a_download_that_breaks_off(hub, tmp_path, small):
    """Is gone on with, in this run."""
    hub.cut = 1
    done, _ = run(hub, tmp_path, SCRIPT, "--version", FIRST, *small)
    assert done.code == 0, done.err


def test_a_cache_that_cannot_be_written(hub, tmp_path, small):
    if os.geteuid() == 0:
        (tmp_path / "hf").write_text("no folder")  # root may write everywhere
    else:
        (tmp_path / "hf").mkdir(mode=0o500)
    one_line(run(hub, tmp_path, SCRIPT, "--version", FIRST, *small), "HF_HOME")


def test_missing_weights_on_the_hub(hub, tmp_path, small, model_folder):
    from safetensors.torch import load_file, save_file

    shutil.copytree(model_folder, tmp_path / "part")
    path = tmp_path / "part/text_encoder/model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "layers.1." not in k}, path, {"format": "pt"})
    hub.repos[FIRST] = tmp_path / "part"
    one_line(run(hub, tmp_path, SCRIPT, "--version", FIRST, *small), "text_encoder", "16 of 52 weights are missing")


LAID_OUT = {  # as the repositories are: files of each part, beside what is not wanted
    "fp16 only": ("fp16.safetensors", []),
    "both": ("safetensors", ["fp16.safetensors", "bin", "fp16.bin", "non_ema.safetensors"]),
    "bin": ("bin", []),
}


@pytest.mark.parametrize("name", LAID_OUT)
def test_layouts(hub, tmp_path, small, model_folder, name):
    """Of several files of a part one is fetched: 3 in all, and no safety checker."""
    import torch
    from safetensors.torch import load_file

    suffix, more = LAID_OUT[name]
    folder = tmp_path / "repo"
    shutil.copytree(model_folder, folder)
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        path = folder / part / f"{stem}.safetensors"
        tensors, data = load_file(path), path.read_bytes()
        path.unlink()
        for each in [suffix, *more]:
            stem = "pytorch_model" if part == "text_encoder" and each.endswith("bin") else path.stem
            target = folder / part / f"{stem}.{each}"
            torch.save(tensors, target) if each.endswith("bin") else target.write_bytes(data)
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/model.safetensors").write_bytes(data)
    (folder / "v2-0.ckpt").write_bytes(data)
    hub.repos[FIRST] = folder
    done, _ = run(hub, tmp_path, SCRIPT, "--version", FIRST, *small)
    assert done.code == 0, done.err
    blobs = [path for path in hub.asked if path.startswith("GET /blobs")]
    assert len(blobs) == 3 and all(path.endswith(suffix) for path in blobs), blobs


def test_lora_vae_and_config_of_the_hub(hub, tmp_path, small, model_folder):
    import torch
    from safetensors.torch import save_file

    (tmp_path / "lora").mkdir()
    from diffusers import UNet2DConditionModel

    net = UNet2DConditionModel.from_pretrained(model_folder, subfolder="unet")
    name = next(n for n, _ in net.named_modules() if n.endswith("to_q"))
    out, into = net.get_submodule(name).weight.shape
    tensors = {f"unet.{name}.lora_A.weight": torch.ones(2, into), f"unet.{name}.lora_B.weight": torch.ones(out, 2)}
    save_file(tensors, tmp_path / "lora/pytorch_lora_weights.safetensors")
    hub.repos["some/lora"] = tmp_path / "lora"
    single_file.write(model_folder, tmp_path / "one.safetensors")
    args = ["--version", tmp_path / "one.safetensors", "--config", FIRST, "--lora", "some/lora:0.5", *small]
    done, _ = run(hub, tmp_path, SCRIPT, *args)
    assert done.code == 0, done.err
    assert options(tmp_path)["weights of --lora some/lora:0.5"].startswith(f"commit {COMMIT}")
    assert not any(path.startswith("GET /blobs/sd2") for path in hub.asked), "only its configuration"
    one_line(
        run(hub, tmp_path, SCRIPT, "--version", FIRST, "--lora", "some/none", *small), "--lora some/none", "no such"
    )


# ---- data sets ----


def parquet(folder: Path, columns: dict, name: str) -> None:
    import datasets

    (folder / "data").mkdir(parents=True)
    datasets.Dataset.from_dict(columns[0], features=columns[1]).to_parquet(folder / "data" / name)


def test_a_data_set_by_parquet(hub, tmp_path, model_folder):
    datasets = pytest.importorskip("datasets")
    from diffusion.datasets import load_dataset

    digits = load_dataset("digits", "test", tmp_path)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])})
    images = [digits.open(k).convert("RGB") for k in range(4)]
    parquet(tmp_path / "set", ({"image": images, "label": [0, 1, 0, 1]}, features), "test-00000-of-00001.parquet")
    hub.repos["some/set"] = tmp_path / "set"
    args = ["--version", "digits", "--dataset", "hf:some/set", "--device", "cpu", "--to_keep", 1, "--n_samples", 2]
    done, _ = run(hub, tmp_path, SCRIPT, *args)
    assert done.code == 0, done.err
    for trouble, says in ((401, "some/set"), (500, "some/set"), (429, "some/set")):
        hub.trouble = lambda path, _, status=trouble: (status, GATED if status == 401 else {})
        result = run(hub, tmp_path / "b", SCRIPT, *args)
        assert result[0].code == 2 and result[0].err.count("\n") == 1 and says in result[0].err, result
        assert result[1] < 60


def test_winoground_with_a_token(hub, tmp_path):
    datasets = pytest.importorskip("datasets")
    from diffusion.datasets import load_dataset

    digits = load_dataset("digits", "test", tmp_path)
    image, text = datasets.Image(), datasets.Value("string")
    features = datasets.Features(
        {"id": datasets.Value("int64"), "image_0": image, "image_1": image, "caption_0": text, "caption_1": text,
         "collapsed_tag": text}
    )  # fmt: skip
    one = {"id": [0], "image_0": [digits.open(0).convert("RGB")], "image_1": [digits.open(1).convert("RGB")]}
    one |= {"caption_0": ["a three."], "caption_1": ["a five."], "collapsed_tag": ["Object"]}
    parquet(tmp_path / "wino", (one, features), "test-00000-of-00001.parquet")
    hub.repos["facebook/winoground"] = tmp_path / "wino"
    hub.trouble = lambda path, headers: None if headers.get("Authorization") == "Bearer hf_right" else (401, GATED)
    args = ["--version", "digits", "--device", "cpu", "--t_interval", 500]
    done, _ = run(hub, tmp_path, "run_winoground.py", *args, env={"HF_TOKEN": "hf_right"})
    assert done.code == 0, done.err
    result = run(hub, tmp_path / "b", "run_winoground.py", *args)
    assert result[0].code == 2 and result[0].err.count("\n") == 1 and "winoground" in result[0].err, result
