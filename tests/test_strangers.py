"""Strangers' input: data stays data, no code of theirs is run."""

import json
import os
import pickle
import runpy
import shlex
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import OF_DIT, OF_WINO, ROOT, call_main, listing, picture, write_small_run

from diffusion.data import catalogue

SD, DIT, WINO = "eval_prob_adaptive.py", "eval_prob_dit.py", "run_winoground.py"
ACC, DIT_ACC, PRINT_WINO = "scripts/print_acc.py", "scripts/print_dit_acc.py", "scripts/print_winoground.py"
ERRORS, BUDGET = "scripts/plot_errors.py", "studies/plot_budget.py"

START = {  # what comes before a row's words; argparse takes the last of a flag
    SD: "--version digits --dataset digits --to_keep 1 --n_samples 2",
    DIT: "--version digits --dataset digits",
    WINO: "--version digits --dataset digits-pairs",
}
HEAD = "prompt,classname,classidx\n"


def run_there(log: Path, script: str, words: str):
    """`call_main` of any script as `__main__`, the words of its command line split as a shell does."""
    path = str(ROOT / script)
    module = SimpleNamespace(__file__=path, main=lambda _: runpy.run_path(path, run_name="__main__"))
    return call_main(log, module, *shlex.split(START.get(script, "")), *shlex.split(words))


# ---- data is data ----

NAMES = {
    "quotes": """"; rm -rf '~' `id` $(id) | & > x""",
    "lines": "a\nb\r\n\tc",
    "up": "a/../../../up",
    "unicode": "犬 é \u202e 🐶",
    "long": "x" * 200,
    "formats": "{0.__class__} %s {{x}} {",
    "mathematics": r"$\frac$ a_b^c \n",
}
LENGTHY = "a photo of " * 910


def texts(found: dict):
    return pytest.mark.parametrize("text", found.values(), ids=found)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """`elsewhere(script, words)`: works or refuses in one line, and writes in LOG_DIR only; the exit code."""
    for name in ("cwd", "log"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    np.save(tmp_path / "subset.npy", np.array([0]))

    def run(script, words):
        before = [path for path in listing(tmp_path) if path.split("/")[0] != "log"]
        outside = os.listdir(tmp_path.parent)
        one = "--device cpu --subset_path ../subset.npy " if script in START else ""
        result = run_there(tmp_path / "log", script, one + words)
        assert result.code in (0, 1) or (result.code == 2 and result.err.count("\n") == 1), result
        assert [path for path in listing(tmp_path) if path.split("/")[0] != "log"] == before
        assert sorted(os.listdir(tmp_path.parent)) == sorted(outside)
        return result.code

    return run


def run_folder(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "log").rglob("run.json")
    return found.parent


def quoted(text: str) -> str:
    """As a cell of a csv."""
    return '"' + text.replace('"', '""') + '"'


def test_prompts(elsewhere, tmp_path):
    """Each is a prompt, and the name of a class."""
    named = [*NAMES.items(), ("cat", "a cat"), ("dog", "a dog"), ("very long", LENGTHY)]
    rows = [f"{quoted(text)},{quoted(name if text == LENGTHY else text)},{k}\n" for k, (name, text) in enumerate(named)]
    (tmp_path / "p.csv").write_text(HEAD + "".join(rows), newline="")
    assert elsewhere(SD, "--prompt_path ../p.csv") == 0
    folder = shlex.quote(str(run_folder(tmp_path)))
    assert elsewhere(ERRORS, f"{folder} ../log/errors.png") == 0
    assert elsewhere(ACC, f"{folder} --confusion ../log/confusion.png") == 0


@pytest.mark.slow
def test_pairs(elsewhere, tmp_path):
    picture(tmp_path / "own/images/a.png")
    lines = []
    for text in (*NAMES.values(), LENGTHY):
        line = {"id": text, "tag": text, "caption_0": text, "caption_1": f"not {text}"}
        lines.append(json.dumps(line | {"image_0": "a", "image_1": "a"}))
    (tmp_path / "own/examples.jsonl").write_text("\n".join(lines))
    np.save(tmp_path / "all.npy", np.arange(len(lines)))
    assert elsewhere(WINO, "--dataset ../own --t_interval 500 --gallery ../log/g.png --subset_path ../all.npy") == 0
    assert elsewhere(PRINT_WINO, shlex.quote(str(run_folder(tmp_path)))) == 0


@texts(NAMES)
def test_images_named_so(elsewhere, tmp_path, text):
    """A name is looked for as it stands, and never made."""
    line = {"caption_0": "a one.", "caption_1": "a two.", "image_0": text, "image_1": text}
    (tmp_path / "own").mkdir()
    (tmp_path / "own/examples.jsonl").write_text(json.dumps(line))
    (tmp_path / "own.csv").write_text(f"path,label\n{quoted(text)},a\na.png,b\n", newline="")
    elsewhere(WINO, "--dataset ../own --t_interval 500")
    elsewhere(SD, "--dataset ../own.csv")


def test_class_folders(elsewhere, tmp_path):
    names = [text.replace("/", "\\") for text in NAMES.values()]
    for name in names:
        picture(tmp_path / "own" / name / "a.png")
    assert elsewhere(SD, "--dataset ../own") == 0
    assert {name for _, name, _ in json.loads((run_folder(tmp_path) / "run.json").read_text())["arms"]} == set(names)


@texts(NAMES | {name: name for name in ("...", "-rf", "a.csv")})
def test_data_set_folders(elsewhere, tmp_path, text):
    name = text.replace("/", "\\")
    for label in "ab":
        picture(tmp_path / name / label / "a.png")
    elsewhere(SD, f"--dataset {shlex.quote(f'../{name}')}")


# ---- code stays where it is ----

CODE = """open("ran", "w").close()
from diffusers import UNet2DConditionModel as MyUnet, StableDiffusionPipeline as Evil
from transformers import CLIPTextModel as MyText, CLIPTokenizer as MyTokenizer
"""
LOADED = {"auto_map": {name: "my.MyText" for name in ("AutoConfig", "AutoModel", "CLIPTextModel")}, "model_type": "my"}
AUTO = {"text_encoder": ["transformers", "AutoModel"]}
VISION = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 1}
TEXT = {"hf_model_name": "m", "hf_tokenizer_name": "m", "hf_proj_type": "mlp"}
HF_TEXT = {"model_cfg": {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": TEXT}}
TOKENIZER = {"auto_map": {"AutoTokenizer": ["my.MyTokenizer", "my.MyTokenizer"]}, "tokenizer_class": "MyTokenizer"}


class Bait:
    """Unpickled, it leaves a file named ran."""

    def __reduce__(self):
        return open, ("ran", "w")


def pickled(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(Bait()))


def saved(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"x": torch.zeros(1), "y": Bait()}, path)


def objects(path: Path) -> None:
    np.save(path, np.array([Bait()], dtype=object), allow_pickle=True)


def merge(path: Path, change: dict) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | change))


def model(of="digits-sd", *, code=None, weights=None, **configs):
    """Builds m, a copy of an embedded model: with python at `code`, pickled weights, parts of its json replaced."""

    def build(folder: Path) -> None:
        shutil.copytree(ROOT / "models" / of, folder / "m")
        for name, change in configs.items():
            merge(folder / "m" / f"{name.replace('__', '/')}.json", change)
        if code:
            (folder / "m" / code).write_text(f"{CODE}# {folder}")  # else transformers takes it for the last test's
        if weights:
            for path in (folder / "m" / weights).parent.glob("*.safetensors"):
                path.unlink()
            saved(folder / "m" / weights)

    build.__name__ = " ".join(filter(None, [code, weights, *configs]))
    return build


def run_folders(folder: Path) -> None:
    for name, change in {"run": {}, "dit": OF_DIT, "wino": OF_WINO}.items():
        write_small_run(folder / name, change, {"more": Bait()})


def scripts(folder: Path) -> None:
    """Images in class folders, and beside them what might be taken for a loading script."""
    for name in "ab":
        picture(folder / "own" / name / "1.png")
    for name in ("own", "my", "dataset", "__init__"):
        (folder / "own" / f"{name}.py").write_text(CODE)
    write_small_run(folder / "run", {"dataset": "hf:own"}, {})
    write_small_run(folder / "wino", OF_WINO | {"dataset": "hf:own"}, {})


def shards(folder: Path) -> None:
    (folder / "own").mkdir()
    pickled(folder / "test.pkl")
    objects(folder / "test.npy")
    with tarfile.open(folder / "own/test.tar", "w") as tar:
        for suffix in ("pyd", "pickle", "pkl", "npy"):
            tar.add(folder / f"test.{'npy' if suffix == 'npy' else 'pkl'}", f"0.{suffix}")


def known(folder: Path) -> None:
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        pickled(folder / "cifar-10-batches-py" / name)
    for name in ("training.pt", "test.pt"):
        saved(folder / "MNIST/processed" / name)


CLIP = "--model clip --version"
BAITS = [
    (ACC, "run", run_folders),
    (ACC, "run --loss l1", run_folders),
    (ERRORS, "run x.png", run_folders),
    (BUDGET, "run", run_folders),
    (DIT_ACC, "dit", run_folders),
    (PRINT_WINO, "wino", run_folders),
    (ACC, "run", lambda folder: pickled(folder / "run/0.pt")),
    (SD, "--noise_path n.pt", lambda folder: saved(folder / "n.pt")),
    (SD, "--lora n.bin", lambda folder: saved(folder / "n.bin")),
    (SD, "--lora n.bin", lambda folder: pickled(folder / "n.bin")),
    (DIT, "--noise_path n.pt", lambda folder: pickled(folder / "n.pt")),
    (SD, "--subset_path o.npy", lambda folder: objects(folder / "o.npy")),
    (SD, "--dataset own", scripts),
    (SD, "--dataset hf:own", scripts),
    (SD, "--dataset hf:own/own.py", scripts),
    (SD, "--dataset hf:own", shards),
    (WINO, "--dataset hf:own", scripts),
    (ERRORS, "run x.png", scripts),
    (PRINT_WINO, "wino --gallery x.png", scripts),
    (SD, "--dataset cifar10", known),
    (SD, "--dataset mnist", known),
    (SD, "--version m", model(weights="unet/diffusion_pytorch_model.bin")),
    (SD, "--version m", model(weights="vae/diffusion_pytorch_model.bin")),
    (DIT, "--version m", model("digits-dit", weights="transformer/diffusion_pytorch_model.bin")),
    (DIT, "--vae m/vae", model(weights="vae/diffusion_pytorch_model.bin")),
    (SD, "--version m", model(weights="text_encoder/pytorch_model.bin")),
    (SD, "--version m", model(code="pipeline.py", model_index={"_class_name": ["pipeline", "Evil"]})),
    (SD, "--version m", model(code="unet/my_unet.py", model_index={"unet": ["my_unet", "MyUnet"]})),
    (SD, "--version m", model(code="vae/my.py", model_index={"vae": ["my", "MyUnet"]})),
    (SD, "--version m", model(code="tokenizer/my.py", model_index={"tokenizer": ["my", "MyTokenizer"]})),
    (SD, "--version m", model(code="text_encoder/my.py", model_index={"text_encoder": ["my", "MyText"]})),
    (SD, "--version m", model(model_index={"unet": ["subprocess", "Popen"]})),
    (SD, "--version m", model(code="more.py", model_index={"more": ["more", "MyUnet"]})),
    (SD, "--version m", model(code="pipeline.py", model_index={"_class_name": "pipeline"})),
    (SD, "--version m", model(code="text_encoder/my.py", text_encoder__config=LOADED)),
    (SD, "--version m", model(code="tokenizer/my.py", tokenizer__tokenizer_config=TOKENIZER)),
    (SD, "--version m", model(code="text_encoder/my.py", model_index=AUTO, text_encoder__config=LOADED)),
    (WINO, f"{CLIP} m", model("digits-clip", weights="open_clip_pytorch_model.bin")),
    (WINO, f"{CLIP} RN50 --pretrained w.pt", lambda folder: saved(folder / "w.pt")),
    (WINO, f"{CLIP} RN50 --pretrained w.pt", lambda folder: pickled(folder / "w.pt")),
    (WINO, f"{CLIP} m", model("digits-clip", code="my.py", tokenizer_config=TOKENIZER)),
    (WINO, f"{CLIP} m", model("digits-clip", code="my.py", config=LOADED, open_clip_config=HF_TEXT)),
]


@pytest.mark.slow
@pytest.mark.parametrize("script, words, build", BAITS, ids=lambda value: getattr(value, "__name__", value))
def test_no_code_of_theirs_runs(tmp_path, monkeypatch, script, words, build):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "DATASET_ROOT", tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    np.save("first.npy", np.array([0]))
    build(tmp_path)
    assert not Path("ran").exists()
    one = "--device cpu --subset_path first.npy " if script in START else ""
    try:
        assert run_there(tmp_path / "log", script, one + words).code in (0, 1, 2)
    finally:
        assert not Path("ran").exists()


def test_the_baits_would_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects(tmp_path / "o.npy")
    saved(tmp_path / "s.pt")
    for bite in (
        lambda: pickle.loads(pickle.dumps(Bait())),
        lambda: np.load("o.npy", allow_pickle=True),
        lambda: torch.load("s.pt", weights_only=False),
        lambda: exec(CODE, {}),
    ):
        bite()
        os.remove("ran")
