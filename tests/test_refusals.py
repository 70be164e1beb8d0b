"""What cannot work is refused: exit code 2, one line that points at the flag or file, before a model is loaded."""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import OF_DIT, OF_WINO, ROOT, contents, folder_of, listing, picture, write_small_run
from safetensors.torch import load_file, save, save_file

SD, DIT, WINO = "eval_prob_adaptive.py", "eval_prob_dit.py", "run_winoground.py"
ACC, DIT_ACC, PRINT_WINO = "scripts/print_acc.py", "scripts/print_dit_acc.py", "scripts/print_winoground.py"
ERRORS, BUDGET, BENCH = "scripts/plot_errors.py", "studies/plot_budget.py", "scripts/benchmark.py"
LEVELS, CALIBRATE, MAPS = "scripts/plot_levels.py", "scripts/calibrate.py", "scripts/plot_maps.py"
REPORT, PROGRESS, ROBUST = "scripts/report.py", "scripts/progress.py", "scripts/print_robustness.py"
NOISE, PROMPTS, TRAIN = "scripts/save_noise.py", "scripts/write_prompts.py", "studies/train_embedded.py"
BASELINE, ADAPT, FIT = "scripts/baseline.py", "scripts/adapt.py", "scripts/train_classifier.py"
EXPORT, COMPARE, ENSEMBLE = "scripts/export.py", "scripts/compare.py", "scripts/ensemble.py"
MODELS = (SD, DIT, WINO)

START = {  # what comes before the words of a row; argparse takes the last of a flag
    SD: "--version digits --dataset digits --device cpu",
    DIT: "--version digits --dataset digits --device cpu",
    WINO: "--version digits --dataset digits-pairs --device cpu",
    BASELINE: "--dataset digits --device cpu",
    ADAPT: "digits --version digits --shots 1 --steps 3 --points 2 --levels 0.4-0.6",
    FIT: "own-train --out model --image_size 8 --channels 8 16",
    TRAIN: "--folder out",
}
LONG = "x" * 300  # longer than the name of a file may be
DIGITS = "9" * 5000  # more than Python makes an int of
HEAD = "prompt,classname,classidx\n"
TEN = "".join(f"a {k}.,{k},{k}\n" for k in range(10))
EXAMPLE = '{"image_0": "0.png", "image_1": "1.png", "caption_0": "a", "caption_1": "b"}'
PETS = f"--simulate {ROOT}/studies/data/pets_accuracy_by_points.csv"
BY_LEVEL = f"--by_level {ROOT}/studies/data/pets_accuracy_by_level.csv"

RUNS = {  # folder -> what differs in its run.json (...: is not there), and in its records
    "good": ({}, {}),
    "part": ({"cls": "0-1"}, {}),
    "no-arms": ({"arms": ...}, {}),
    "odd-arms": ({"arms": [["a", "b", "c"]]}, {}),
    "few-arms": ({"arms": []}, {}),
    "many": ({"images": "many"}, {}),
    "no-loss": ({"loss": ...}, {}),
    "cosine": ({"loss": "cosine"}, {}),
    "elsewhere": ({"dataset": "../nowhere"}, {}),
    "two-sets": ({"dataset": ["digits"]}, {}),
    "split": ({"split": "../.."}, {}),
    "blur": ({"interpolation": "blur"}, {}),
    "big": ({"img_size": "big"}, {}),
    "some-data": ({"data": "497, sha256 1"}, {}),
    "other-data": ({"data": "396, sha256 0"}, {}),
    "weighted": ({"weights": "w.csv"}, {}),
    "counts": ({}, {"counts": torch.tensor([5, 5])}),
    "stages": ({}, {"counts": torch.tensor([1, 3]), "levels": torch.arange(3), "noise": torch.zeros(3)}),
    "three": ({"arms": [["a 0.", "0", 0], ["a 1.", "1", 1], ["a 2.", "2", 2]]}, {}),
    "clip": ({"loss": "cosine"}, {"losses": ["cosine"], "errors": torch.arange(4.0).reshape(4, 1)}),
    "errors": ({}, {"errors": [1, 2]}),
    "nfe": ({}, {"nfe": "a lot"}),
    "tensors": ({}, {"candidates": [torch.zeros(2)]}),
    "nan": ({}, {"errors": torch.full([4, 3], float("nan"))}),
    "weights": ({}, {"weights": torch.full([2], -1.0)}),
    "weights-nan": ({}, {"weights": torch.full([2], torch.nan)}),
    "weights-few": ({}, {"weights": torch.ones(1)}),
    "map-nan": ({}, {"map": torch.full((8, 8), torch.nan), "map_of": [0, 1]}),
    "undone": ({}, {}),
    "dit": (OF_DIT, {}),
    "dit-arms": (OF_DIT | {"all_arms": "all"}, {}),
    "dit-indices": (OF_DIT | {"indices": ...}, {}),
    "dit-others": (OF_DIT | {"all_arms": "1-2"}, {}),
    "dit-three": (OF_DIT | {"arms": [[0, "0", 0]]}, {}),
    "dit-nfe": (OF_DIT, {"nfe": "a lot"}),
    "dit-losses": (OF_DIT, {"losses": 5}),
    "mixed/a": (OF_DIT, {}),
    "mixed/b": (OF_DIT | {"seed": 5}, {}),
    "wino": (OF_WINO, {}),
    "wino-race": (OF_WINO | {"search": "race"}, {}),
    "wino-examples": (OF_WINO | {"examples": {}}, {}),
    "wino-example": (OF_WINO | {"examples": {"0": {"id": 7, "tag": "", "captions": ["a", "b"]}}}, {}),
    "wino-items": (OF_WINO | {"items": {"0": {"images": [["0", None]], "right": []}}}, {}),
    "wino-right": (OF_WINO | {"items": {"0": {"images": [["0", None]], "right": [[9, 9]]}}}, {}),
    "wino-images": (OF_WINO | {"items": {"0": {"images": 7, "right": [[0, 0]]}}}, {}),
    "wino-bare": (OF_WINO | {"items": ...}, {}),
    "wino-chosen": (OF_WINO | {"chosen": ...}, {}),
    "wino-lacking": (OF_WINO | {"lacking": ...}, {}),
    "wino-loss": (OF_WINO | {"loss": "cosine"}, {}),
    "wino-counts": (OF_WINO, {"counts": torch.tensor([5, 5])}),
}
FILES = {  # what they hold; "" after the last slash: an empty folder
    "empty/": "",
    "file": "x",
    "labels.txt": "a/0.png cat\n",
    "text/run.json": "{",
    "list/run.json": "[]",
    "deep/run.json": "[" * 100_000,
    "folder/run.json/": "",
    "bare/0.txt": "no record",
    "json/examples.jsonl": "{",
    "blank/examples.jsonl": "\n\n",
    "latin/examples.jsonl": b"\xe9",
    "nest/examples.jsonl": "[" * 100_000,
    "gone/examples.jsonl": EXAMPLE,
    "none/examples.jsonl": EXAMPLE.replace('"b"', "null"),
    "name/examples.jsonl": EXAMPLE.replace("0.png", LONG),
    "half/examples.jsonl": EXAMPLE.replace("0.png", "a.png").replace("1.png", "a.png").replace('"a"', '"\\ud800"'),
    "modular/modular_model_index.json": '{"_class_name": "AnimaModularPipeline"}',
}
PICTURES = ["half/a.png", "own/a/1.png", "own/b/1.png", "ids/3/1.png", "ids/10/1.png", "twice/01/1.png",
            "twice/1/1.png", "alone/1.png", "own-train/train/a/1.png", "own-train/train/b/1.png",
            "splits/cats_train/1.png", "splits/cats_test/1.png", "splits/dogs_train/1.png", "splits/dogs_test/1.png",
            "beside/train/a/1.png", "beside/train/b/1.png", "beside/extra/1.png"]  # fmt: skip


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    """A folder of runs, files and images with which something is wrong."""
    folder = tmp_path_factory.mktemp("theirs")
    for name, differs in RUNS.items():
        write_small_run(folder / name, *differs)
    (folder / "undone/0.pt").unlink()
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for name in PICTURES:
        picture(folder / name)
    for name in (b"a", b"\xe9"):
        picture(folder / "latin" / os.fsdecode(name) / "a.png")
    embedded = ROOT / "models/digits-dit"
    for name in ("m" * 200, "wide", "plain"):
        shutil.copytree(embedded, folder / name, copy_function=os.symlink)
    for name, change in {"wide/vae": {"latent_channels": 16}, "plain/transformer": {"out_channels": 4}}.items():
        path = folder / name / "config.json"
        text = json.dumps(json.loads(path.read_text()) | change)
        path.unlink()  # it is a link
        path.write_text(text)
    os.mkfifo(folder / "fifo")
    torch.save(torch.zeros(40, 4, 8, 8), folder / "forty.pt")
    np.save(folder / f"{LONG[:190]}.npy", np.zeros((497, 10)))
    return folder


@pytest.fixture
def refused(run_main, tmp_path, monkeypatch):
    """`refused(script, words) -> (where, problem)`: exit code 2 and one line; nothing printed, loaded or written."""

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    loaders = ["diffusion.models.loading.load_model", "diffusion.models.clip.load_clip"]
    for name in (*loaders, "diffusers.ModelMixin.from_pretrained"):
        monkeypatch.setattr(name, load)

    def found() -> list[str]:
        return [path for path in listing(Path()) if not path.endswith(".index")]  # readers' cache

    def run(script: str, words: str) -> tuple[str, str]:
        before = found()
        result = run_main(script, *shlex.split(START.get(script, "")), *shlex.split(words))
        assert result.code == 2 and not result.out, result
        assert result.err.startswith(f"{Path(script).name}: ") and result.err.endswith("\n")
        assert result.err.count("\n") == 1 and found() == before
        return result.error.where.replace(f"{tmp_path / 'data'}/", ""), result.error.problem

    return run


def check(error: tuple[str, str], where: str, values: list[str]) -> None:
    assert error[0] == where and all(value in error[1] for value in values), error


# ---- command lines ----

SCHEDULE = "--to_keep 3 1 --n_samples 4 12"
READ = [(ERRORS, " x.png"), (BUDGET, ""), (LEVELS, ""), (CALIBRATE, ""), (REPORT, " --out x.html")]
# fmt: off
ROWS = [  # script, what is wrong with its command line, where the error points, values of the problem
    # numbers, names and devices, as all three scripts check them
    *((script, f"{flag} {value}", f"{flag} {value}", wanted) for script in MODELS for flag, value, wanted in (
        ("--n_trials", "0", "10000"), ("--n_trials", str(10**15), "10000"), ("--batch_size", "0", "1"),
        ("--in_flight", "0", "1"), ("--seed", "-1", "0"), ("--worker_idx", "1", "0..0"), ("--limit", "0", "1"),
        ("--dtype", "float16", "bfloat16"), ("--device", "nonsense", "cpu"), ("--subset_path", "none.npy", "none.npy"),
        ("--subset_path", LONG, "too long"), ("--noise_path", "none.pt", "none.pt"), ("--levels", "0.8-0.2", "0.2-0.8"),
    )),
    *((script, f"--extra '{name}'", f"--extra '{name}'") for script in MODELS for name in ("../x", "a b", "a/b", "")),
    *((script, "--compile", "--compile", "CUDA", "cpu") for script in MODELS),
    *((script, f"--weights {file}", file) for script in MODELS for file in ("file", "empty", "nowhere.csv", LONG)),
    *((script, f"--search race --z {z}", f"--z {z}", "0") for script in MODELS for z in ("0", "nan")),
    *((script, f"--search race --max_samples {n}", f"--max_samples {n}", "2..600", "0.2-0.8")
      for script in MODELS for n in (1, 601)),
    *((script, f"--version {name}", f"--version {name}", name)
      for script in MODELS for name in ("nobody/nothing", "no/such/folder")),
    *((script, f"--dataset '{name}'", f"dataset '{name}'", "cifar10", "hf:NAME")
      for script in (SD, DIT) for name in ("nope", "", LONG, "~no-such-user")),
    *((WINO, f"--dataset '{name}'", f"--dataset {name}", "winoground", "digits-pairs", "hf:NAME")
      for name in ("nope", "", LONG, "~no-such-user", "hf:", "digits", "examples.jsonl")),
    *((script, "--search race --n_samples 4 12", "--n_samples", "halving", "race") for script in (SD, DIT)),
    *((script, "--search race --budget 19", "--budget 19", "20 NFE") for script in (SD, DIT)),
    *((script, "--split val", "dataset 'digits'", "no split 'val'", "test", "train") for script in (SD, DIT)),
    *((script, f"--candidates 3 --candidates_from {file}", f"--candidates_from {file}")
      for script in (SD, DIT) for file in ("file", "empty", "nowhere.npy", LONG, f"clip:{LONG}", "clip:")),
    *((script, "--candidates 3 --candidates_from n.npy --pretrained x", "--pretrained", "clip:NAME")
      for script in (SD, DIT)),

    # the main script
    (SD, "--to_keep 5 --n_samples 4 12", "--to_keep 5 --n_samples 4 12"),
    (SD, "--to_keep 3 1 --n_samples 12 4", "--to_keep 3 1 --n_samples 12 4", "--n_samples"),
    (SD, "--to_keep 3 1 --n_samples 0 12", "--to_keep 3 1 --n_samples 0 12", "1"),
    (SD, "--to_keep 1 3 --n_samples 4 12", "--to_keep 1 3 --n_samples 4 12", "--to_keep"),
    (SD, "--to_keep 3 2 --n_samples 4 12", "--to_keep 3 2 --n_samples 4 12", "1", "2"),
    (SD, "--to_keep 3 1 --n_samples 4 1001", "--to_keep 3 1 --n_samples 4 1001", "1000"),
    *((SD, words, "--to_keep and --n_samples", "--search race") for words in ("--to_keep 3 1", "--n_samples 4 12")),
    *((SD, f"{SCHEDULE} {flag} 100", flag, "--search race") for flag in ("--budget", "--z", "--max_samples")),
    *((SD, f"--img_size {n}", f"--img_size {n}", "multiple of 4") for n in (33, -32, 0)),
    (SD, "--n_workers 0", "--n_workers 0", "1"),
    (SD, "--n_workers 3 --worker_idx 3", "--worker_idx 3", "0..2"),
    (SD, "--n_workers 3 --worker_idx -1", "--worker_idx -1", "0..2"),
    (SD, "--per_class -1", "--per_class -1", "1"),
    *((SD, f"--search race --levels={text}", f"--levels {text}", "0.2-0.8")
      for text in ("0.2", "0.2-1.1", "a-b", "0.5-0.5", "0.5-0.5004", "-0.1-0.5", "1-2-3", "٠-١")),
    (SD, "--levels 0-0.0005", "--levels 0-0.0005", "1000"),
    (SD, "--search race --levels 0.5-0.504 --max_samples 5", "--max_samples 5", "2..4", "0.5-0.504"),
    (SD, "--dataset mine.csv", "mine.csv", "mine.csv"),
    (SD, "--dataset cifar10", "dataset 'cifar10' not found", "cifar-10-batches-py", "DATASET_ROOT"),
    (SD, "--dataset hf:", "dataset 'hf:'", "hf:NAME"),
    (SD, "--dataset hf:empty", "dataset 'hf:empty'", "cannot be read", "empty"),
    (SD, "--dataset empty", "no image in empty", "'cat'"),
    (SD, "--dataset own --split val", "dataset 'own'", "no split 'val'", "test", "val/"),
    (SD, "--dataset own --value_range 5 5", "--value_range 5.0 5.0", "0 4095"),
    (SD, "--value_range 0 100", "--value_range", "8 bits", "digits"),
    (SD, "--dataset labels.txt", "dataset 'labels.txt'", ".csv, .tsv, .jsonl"),
    (SD, "--dataset twice", "classes '01' and '1'", "class id 1"),
    (SD, "--dataset splits", "dataset 'splits'", "cats_test", "dogs_train"),
    (SD, "--dataset beside --split train", "dataset 'beside'", "train", "extra"),
    (SD, "--dataset alone", "--dataset alone", "--prompts"),
    (SD, "--dataset ids", "--dataset ids", "--prompt_path"),
    (SD, "--dataset own-train", "dataset 'own-train'", "no split 'test'", "train"),
    (SD, "--dataset latin --to_keep 1 --n_samples 2", "latin/vdigits_1trials_1keep_2samples", "a photo of a"),
    (SD, "--version 'no\nmodel'", "--version no\nmodel"),
    (SD, "--version none.safetensors", "--version none.safetensors", "none.safetensors"),
    *((SD, f"--version {name}", f"--version {name}", ".safetensors") for name in ("x.gguf", "x.ckpt")),
    (SD, "--version modular", "--version modular", "modular"),
    (SD, "--config digits", "--config digits", ".safetensors", "digits"),
    (SD, "--t5", "--t5", "Stable Diffusion 3"),
    *((SD, f"--lora {name}", f"--lora {name}") for name in ("none/there", "a.safetensors")),
    *((SD, f"--lora a.safetensors:{w}", f"--lora a.safetensors:{w}", w) for w in ("0", "nan", "inf")),
    (SD, "--embeddings none.pt", "--embeddings none.pt"),
    (SD, f"--to_keep 1 --n_samples 2 --extra {'界' * 100}", f"digits_{'界' * 100}/vdigits_1trials_1keep_2samples",
     "too long"),
    *((SD, f"--prompt_path {name}", name) for name in ("empty", "none.csv", LONG)),
    (SD, "--prompts 'a cat' 'a dog'", "--prompts", "zero, one, two"),
    *((SD, f"--device {name}", f"--device {name}") for name in ("meta", "cpu:x")),
    (SD, "--candidates 1 --candidates_from clip:digits", "--candidates 1", "2..10"),
    (SD, "--candidates 11 --candidates_from clip:digits", "--candidates 11", "2..10"),
    (SD, "--candidates 3", "--candidates 3", "--candidates_from"),
    *((SD, f"{words} --candidates 3 --candidates_from {run}", f"--candidates_from {run}", *found)
      for words, run, found in (
        ("", "part", ()), ("", "wino", (WINO,)),
        ("--dataset digits-colour", "good", ("'digits'", "'digits-colour'")))),
    (SD, "--candidates 3 --candidates_from good --pretrained x", "--pretrained", "clip:NAME"),
    (SD, "--candidates 3 --candidates_from text", "--candidates_from text/run.json", "damaged"),
    (SD, "--candidates_from clip:digits", "--candidates_from", "--candidates K"),
    (SD, "--preset paper --dataset birds", "--preset paper --dataset birds", "pets", "--search race"),
    (SD, "--preset paper --dataset pets --to_keep 1 --n_samples 4", "--to_keep", "--preset paper"),
    (SD, "--preset paper --dataset pets --n_samples 4", "--n_samples", "--preset paper"),
    (SD, "--preset paper --dataset pets --search race", "--search", "--preset paper"),
    *((SD, f"--template {words}", f"--template '{name}'") for words, name in (
        ("'a photo'", "a photo"), ("'a {}' ''", ""), ("'a(n) big {}'", "a(n) big {}"), ("openai", "openai"),
        ("'a {}' 'the {}' 'a {}'", "a {}"), ("'a {}' --prompt_path p.csv", "a {}"), ("'a {}' --prompts x y", "a {}"),
    )),

    # classification by class ids
    *((DIT, f"--cls {words}", f"--cls {words}", "7 or 0-99")
      for words in ("seven", "1-2-3", "1.5", "3-", "1, 2", DIGITS)),
    (DIT, "--cls ''", "--cls ", "0-99"),
    (DIT, "--cls=-1", "--cls -1", "0-99"),
    (DIT, "--cls 5 9-3", "--cls 5 9-3", "0-99"),
    (DIT, "--cls 3 5-12", "--cls 3 5-12", "0..9"),
    (DIT, f"--cls {'0 1 2 3 4 5 6 7 8 9 ' * 12}", f"--cls {'0 1 2 3 4 5 6 7 8 9 ' * 2}0 1 2 3 4 5 6 ...", "0-99"),
    (DIT, "--search race --cls 3", "--cls", "halving", "race"),
    *((DIT, f"--t_interval {n}", f"--t_interval {n}", "1000") for n in (0, 7, 1001)),
    (DIT, "--t_interval=-5", "--t_interval -5", "1000"),
    (DIT, "--t_interval 10 --n_samples 5", "--t_interval 10", "--n_samples"),
    (DIT, "--to_keep 5 1", "--to_keep 5 1 --n_samples "),
    (DIT, "--to_keep 5 2 --n_samples 1 2", "--to_keep 5 2 --n_samples 1 2", "1", "2"),
    (DIT, "--to_keep 1 --n_samples 1001", "--to_keep 1 --n_samples 1001", "1000"),
    (DIT, "--search race --t_interval 50", "--t_interval", "halving", "race"),
    (DIT, "--z 2 --t_interval 50", "--z", "--search race"),
    (DIT, "--save_vb --spatial", "--save_vb --spatial"),
    (DIT, "--save_eps --save_eps_and_var", "--save_eps --save_eps_and_var"),
    (DIT, "--save_maps --cls 0-4", "--save_maps", "--cls"),
    (DIT, "--candidates 3 --candidates_from clip:digits --cls 0-4", "--candidates", "--cls"),
    (DIT, f"--candidates 3 --candidates_from {LONG[:190]}.npy", f"--candidates_from {LONG[:42]}...", "name"),
    (DIT, "--image-size 256", "--image-size 256", "--version digits"),
    *((DIT, f"--version dit-{n}", f"--version dit-{n}", f"facebook/DiT-XL-2-{n}") for n in (256, 512)),
    (DIT, f"--version {ROOT}/models/digits-sd", f"--version {ROOT}/models/digits-sd", "StableDiffusionPipeline", SD),
    (SD, f"--version {ROOT}/models/digits-dit", f"--version {ROOT}/models/digits-dit", "DiTPipeline", DIT),
    *((DIT, f"--vae {name}", f"--vae {name}", "config.json") for name in ("empty", f"{ROOT}/models/digits-dit")),
    (DIT, "--vae wide/vae", "--vae wide/vae", "16", "4"),
    *((DIT, f"--version plain {flag}", flag) for flag in ("--save_vb", "--save_eps_and_var")),
    (DIT, f"--version {'m' * 200}", f"--version {'m' * 50}...", "name"),
    (DIT, "--dataset digits-colour", "--dataset digits-colour", "60", "10"),
    (DIT, "--dataset imagenet", "dataset 'imagenet' not found", "imagenet/val"),
    (DIT, "--dataset own", "--dataset own", "2 classes", "--classes FILE"),
    (DIT, "--dataset ids", "--dataset ids", "[10]"),
    (DIT, "--imgs_to_eval 0", "--imgs_to_eval 0", "1"),
    *((DIT, f"{words} --noise_path forty.pt", "--noise_path forty.pt", "40 draws", needs) for words, needs in (
        ("--randomize_noise --t_interval 20", "50"), ("--randomize_noise --t_interval 40 --n_trials 2", "50"),
        ("--randomize_noise --to_keep 3 1 --n_samples 4 41", "41"), ("--t_interval 5 --n_trials 41", "41"),
        ("--randomize_noise --search race --max_samples 41", "41"),
    )),

    # images and captions
    *((WINO, f"--t_interval {n}", f"--t_interval {n}", "1000") for n in (0, 3, 2000)),
    *((WINO, f"{flag} 20", flag, "--search race") for flag in ("--z", "--max_samples", "--budget")),
    (WINO, "--search race --budget 3", "--budget 3", "4 NFE"),
    *((WINO, f"--search race {words}", words.split()[0], "grid", "race")
      for words in ("--normalize", "--t_interval 10", "--gallery g.png")),
    (WINO, "--img_size 33", "--img_size 33", "multiple of 4"),
    (WINO, "--noise_path empty", "--noise_path empty", "empty"),
    (WINO, "--pretrained openai", "--pretrained openai", "--model clip", "openclip"),
    (WINO, "--dataset hf:nobody/nothing", "dataset 'hf:nobody/nothing'", "cannot be read", "HF_HUB_OFFLINE"),
    (WINO, "--dataset empty", "empty/examples.jsonl"),
    (WINO, "--dataset json", "json/examples.jsonl, line 1"),
    (WINO, "--dataset nest", "nest/examples.jsonl, line 1"),
    (WINO, "--dataset blank", "blank/examples.jsonl"),
    (WINO, "--dataset latin", "latin/examples.jsonl"),
    (WINO, "--dataset gone", "gone/examples.jsonl, line 1", "0.png"),
    (WINO, "--dataset name", "name/examples.jsonl, line 1", LONG),
    (WINO, "--dataset none", "none/examples.jsonl, line 1", "caption_1", "None"),
    (WINO, "--dataset half", "half/vdigits_t5_1trials", '"captions": [ "'),
    (WINO, "--gallery nodir/x.png", "nodir/x.png"),
    (WINO, "--gallery x.exe", "x.exe", ".png"),
    *((WINO, f"--model clip {words}", words.split()[0], "--model sd", "clip") for words in (
        "--normalize", "--loss l1", "--weights file", "--t_interval 500", "--search race")),
    (WINO, "--model clip --version ViT-L/15", "--version ViT-L/15", "ViT-L-14,", "ViT-L-16,"),
    (WINO, "--model clip --version RN5", "--version RN5", "RN50x64"),
    (WINO, f"--model clip --version {LONG}", f"--version {LONG}", "open_clip_config.json"),
    (WINO, "--model clip --dtype float16", "--dtype float16", "bfloat16"),
    (WINO, "--model clip --pretrained file", "--pretrained file", "--version digits"),
    *((WINO, f"--model clip --version ViT-L/14 --pretrained {name}", f"--pretrained {name}", "openai, laion400m_e31")
      for name in ("laion9", "/no/such.safetensors", "own", LONG)),
    *((WINO, f"--model {model} --version {name}", f"--version {name} needs --pretrained") for model, name in (
        ("clip", "ViT-bigG-14"), ("openclip", "ViT-S-32-alt"))),

    # classifiers to compare with, training, fitted noise
    *((BASELINE, f"--model '{name}'", f"--model {name}", wanted) for name, wanted in (
        ("nothing", "clip:NAME"), (LONG, "timm:NAME"), ("~no-such-user", "clip:NAME"), ("", "clip:NAME"),
        ("empty", "config.json"), ("text", "config.json"), ("timm:", "timm"), (f"timm:{LONG}", "resnet50"),
        ("timm:resnet5000", "resnet18.a1_in1k"), (f"clip:{LONG}", "ViT-L-14"), ("clip:ViT-X", "ViT-L-14"))),
    (BASELINE, "--model timm:resnet50", "--dataset digits", "10", "1000"),
    (BASELINE, "--model timm:resnet18 --template 'a {}'", "--template", "timm:resnet18"),
    (BASELINE, "--model timm:resnet18 --prompt_path p.csv", "--prompt_path", "timm:resnet18"),
    *((ADAPT, f"{flag} {value}", f"{flag} {value}", wanted) for flag, value, wanted in (
        ("--shots", "0", "1"), ("--points", "0", "1"), ("--points", "300", "200"), ("--steps", "0", "1"),
        ("--lr", "0", "0"), ("--seed", "-1", "0"), ("--levels", "0.6-0.4", "0.2-0.8"))),
    (ADAPT, "--split val", "dataset 'digits'", "no split 'val'", "test", "train"),
    (ADAPT, "--prompt_path gone.csv", "gone.csv", "gone.csv"),
    (ADAPT, "--condition class --prompt_path gone.csv", "--prompt_path", "text", "class"),
    *((FIT, f"{flag} {value}", f"{flag} {value}", wanted) for flag, value, wanted in (
        ("--image_size", "9", "2"), ("--channels", "8 12", "8"), ("--null", "1", "1"), ("--lr", "0", "0"),
        ("--steps", "0", "1"))),
    (FIT, "--split val", "dataset 'own-train'", "no split 'val'", "train"),
    (TRAIN, "sd --steps 0", "--steps 0", "1"),
    (TRAIN, "dit --steps -1", "--steps -1", "1"),

    # runs, read
    *((script, name, name) for script in (ACC, DIT_ACC) for name in ("nowhere", LONG)),
    *((script, "empty", "empty", "run.json") for script in (BUDGET, PRINT_WINO, CALIBRATE, PROGRESS)),
    *((script, f"{name}{out}", f"{name}/run.json", "damaged")
      for script, out in [*READ, (DIT_ACC, ""), (PRINT_WINO, "")] for name in ("text", "list")),
    *((script, f"deep{out}", "deep/run.json", "damaged", "recursion") for script, out in READ),
    *((script, f"folder{out}", "folder/run.json", "directory") for script, out in READ),
    *((script, f"few-arms{out}", "few-arms/run.json", "arms") for script, out in READ),
    *((script, f"no-loss{out}", "no-loss/run.json", "loss") for script, out in READ),
    *((script, f"{run}{out}", f"{run}/0.pt", "no record", *found) for script, out in READ[:3] for run, found in (
        ("cosine", ("cosine", "l2, l1, huber")), ("errors", ("[1, 2]",)), ("three", ("2 arms", "3")))),
    *((script, f"{run}{out}", run, f"{run}/0.pt: no record", *found) for script, out in READ[3:] for run, found in (
        ("cosine", ("cosine", "l2, l1, huber")), ("errors", ("[1, 2]",)), ("three", ("2 arms", "3")))),
    *((script, f"file{out}", "file", "Parquet") for script, out in [*READ, (PRINT_WINO, ""), (ACC, "")]),
    *((script, f"{LONG}{out}", f"{LONG}/run.json", "too long")
      for script, out in [*READ, (PRINT_WINO, ""), (MAPS, " x.png")]),
    *((script, "no-arms", "no-arms/run.json", "damaged", "arms") for script in (ACC, BUDGET, PRINT_WINO)),
    *((script, f"part{out}", "part") for script, out in (
        (CALIBRATE, ""), (REPORT, ""), (MAPS, " x.png"), (ERRORS, " x.png"), (ACC, " --loss l1"),
        (ACC, " --confusion x.png"))),
    *((script, f"wino{out}", "wino", WINO) for script, out in (
        (CALIBRATE, ""), (REPORT, ""), (MAPS, " x.png"), (ERRORS, " x.png"), (ACC, " --top 2"))),
    *((script, f"undone{out}", "undone") for script, out in READ),
    *((script, "stages", "stages, image 0", "--to_keep 1") for script in (BUDGET, LEVELS)),
    (ACC, "bare", "bare", "000.pt"),
    (ACC, "odd-arms", "odd-arms/run.json", "damaged", "['a', 'b', 'c']"),
    (ACC, "many", "many/run.json", "damaged", "'many'", "int"),
    (ACC, "clip --loss l1", "--loss l1", "clip", "cosine"),
    (ACC, "good good --top 2", "--top", "2"),
    (ACC, "good --top 0", "--top 0", "1"),
    (ACC, "good --top 3", "--top 3", "2"),
    (ACC, "good --positive cat", "--positive cat", "two-class"),
    (ERRORS, "two-sets x.png", "two-sets/run.json", "damaged", "['digits']", "str"),
    (ERRORS, "blur x.png", "blur/run.json", "damaged", "'blur'", "bilinear|bicubic"),
    (ERRORS, "big x.png", "big/run.json", "damaged", "'big'", "int"),
    (ERRORS, "counts x.png", "counts/0.pt", "no record", "5", "2"),
    (ERRORS, "elsewhere x.png", "dataset '../nowhere'", "hf:NAME"),
    (ERRORS, "split x.png", "dataset 'digits'", "no split '../..'", "test, train"),
    (ERRORS, "good x.png --images 0", "--images 0", "1"),
    (MAPS, "good x.png", "good/0.pt", "--save_maps"),
    (MAPS, "empty x.png", "empty", "run.json"),
    *((script, "nan x.png", "nan/0.pt", "no record") for script in (ERRORS, MAPS)),
    *((DIT_ACC, name, name, DIT) for name in ("good", "empty")),
    (DIT_ACC, "dit --dataset imagenet", "--dataset imagenet", "digits"),
    (DIT_ACC, "mixed", "mixed/b", "cannot be merged with mixed/a", "seed", "None", "5"),
    (DIT_ACC, "dit-arms", "dit-arms/run.json", "damaged", "'all'"),
    (DIT_ACC, "dit-indices", "dit-indices/run.json", "indices"),
    (DIT_ACC, "dit-others", "dit-others/run.json", "[0]", "1-2"),
    (PRINT_WINO, "good", "good", WINO),
    *((PRINT_WINO, f"wino-{key}", f"wino-{key}/run.json", "example 0")
      for key in ("examples", "example", "items", "right", "images")),
    *((PRINT_WINO, f"wino-{key}", f"wino-{key}/run.json", found)
      for key, found in (("bare", "items"), ("chosen", "chosen"), ("lacking", "lacking"))),
    (PRINT_WINO, "wino-race --gallery x.png", "--gallery", "grid", "wino-race"),
    (CALIBRATE, "good --splits 0", "--splits 0", "1"),
    *((script, "good --seed -1", "--seed -1", "0") for script in (CALIBRATE, LEVELS)),
    *((script, f"good --fit {share}", f"--fit {share}", "0", "1")
      for script in (CALIBRATE, LEVELS) for share in ("0", "1.5", "nan")),
    (CALIBRATE, "good --fit 0.0001", "--fit 0.0001", "1 image,", "0"),
    (LEVELS, "good", "--fit 0.5", "1 image,", "0"),
    (LEVELS, "good --fit 0.999", "--fit 0.999", "1 image,", "leave 0"),
    (LEVELS, "weighted", "weighted", "--weights"),
    (REPORT, "good --mistakes -1", "--mistakes -1", "0"),
    (ROBUST, "good", "--base imagenet", "digits"),
    (ROBUST, "nowhere", "nowhere", "run.json"),
    (ROBUST, "good good --base digits", "good", "second run"),
    *((script, "good", "good", "two") for script in (COMPARE, ENSEMBLE)),
    (COMPARE, "good good", "good, good"),
    (COMPARE, "some-data other-data", "other-data", "on other images than some-data", "497", "396"),
    (ENSEMBLE, "good --fit 2", "--fit 2", "0", "1"),
    (EXPORT, "good", "--out"),
    (EXPORT, "good --out x.json --format eee", "--organization NAME", "eee"),
    (EXPORT, "good --out x.csv --format eee", "--out x.csv", ".json"),
    (EXPORT, "good --out x.json --scores", "--scores, --probabilities", ".csv, .parquet, .jsonl"),
    (EXPORT, "good --out nowhere --format model-vs-human", "--out nowhere", "model-vs-human"),
    (EXPORT, "good --out x.csv --probabilities", "good/calibration.json", "scripts/calibrate.py good"),
    (BUDGET, "", "FOLDER, --simulate"),
    (BUDGET, f"{PETS} good", "FOLDER, --simulate"),
    (BUDGET, "good --classes 37", "--classes", "--simulate"),
    (BUDGET, f"good {BY_LEVEL}", "--by_level", "--simulate"),
    (BUDGET, f"{PETS} --loss l1", "--loss"),
    *((BUDGET, f"{PETS} --classes 37 {words}", PETS, f"{words.split()[0]} is {words.split()[1]}", wanted)
      for words, wanted in (
        ("--classes 1", "2 to 10000"), ("--images 0", "1 to 1000000"), ("--points 1", "2 to 1000"))),
    *((BUDGET, f"{PETS} --classes 37 {words}", where, *values) for words, where, values in (
        ("--spread nan", "--spread nan", ("0", "1")), ("--levels 0.2-0.8", "--levels 0.2-0.8", ("--by_level",)),
        (f"{BY_LEVEL} --levels 0.2", "--levels 0.2", ("0.2-0.8",)), ("--z 2 nan", "--z 2 nan", ("0",)),
        (f"{BY_LEVEL} --levels 0.8-0.2", "--levels 0.8-0.2", ("0 points", "2")), 
        ("--max_samples 251", "--levels 0-1", ("250 points", "251")),
        ("--to_keep 5 1", "--to_keep and --n_samples", ("--n_samples 25 250",)),
        ("--to_keep 40 2 --n_samples 2 4", "--to_keep 40 2 --n_samples 2 4", ("1", "2")))),

    # files, written
    *((script, f"{words} {name}", name) for name in ("nodir/x.png", "empty", "x.exe") for script, words in (
        (ACC, "good --confusion"), (ERRORS, "good"), (MAPS, "good"), (CALIBRATE, "good --out"), (LEVELS, "good --out"),
        (BUDGET, "good --out"), (PRINT_WINO, "wino --gallery"))),
    *((REPORT, f"good --out {name}", f"--out {name}") for name in ("nodir/x.html", "empty", f"{LONG}/x.html")),
    *((script, f"good --out {name}", f"--out {name}", ".csv")
      for script in (EXPORT, COMPARE) for name in ("x.txt", "no/x.csv")),
    *((NOISE, words, words, "8", "--latent C H W") for words in ("--img_size 33", "--img_size 0", "--img_size -8",
                                                             "--latent 4 8 0", "--latent 4 8 -1")),
    (NOISE, "--n_draws 0", "--n_draws 0", "1"),
    (NOISE, "--seed -1", "--seed -1", "0"),
    *((NOISE, f"--latent 1 1 1 --out {name}", f"--out {name}") for name in ("nodir/x.pt", "empty", "fifo", ".")),
    (NOISE, f"--seed {2**70} --latent 1 1 1", f"--n_draws 1024 --seed {2**70}", "Overflow"),
    *((NOISE, f"--n_draws {n}", f"--n_draws {n} --seed 42", "verflow") for n in (10**15, 10**30)),
    (PROMPTS, "pets --template cat", "--template 'cat'", "{}"),
    (PROMPTS, "pets --split train", "--split", "pets"),
    (PROMPTS, "objectnet --out x.csv", "dataset 'objectnet' not found", "objectnet-1.0"),
    *((PROMPTS, f"digits --out {name}", name) for name in ("empty", "file/x.csv")),
    *((BENCH, f"{words}", words.split(maxsplit=1)[1], wanted) for words, wanted in (
        ("host --repeats 0", "1"), ("network --images 0", "1"), ("size --latent -8", "1"), ("noise --points 3", "2"),
        ("noise --points 0", "2"), ("noise --draws 1", "2"), ("device --within 0", "0"), ("scale --images 39", "40"),
        ("scale --classes 0", "1"), ("device --out no/such/device.json", "folder"), ("host --threads 0", "1"),
        ("host --device nope", "cpu"))),
    (BENCH, "device --dtype float16 --device cpu", "--dtype float16", "bfloat16"),
]
# fmt: on


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{Path(row[0]).stem} {row[1][:50]}")
def test_command_lines(theirs, refused, monkeypatch, row):
    script, words, where, *values = row
    monkeypatch.chdir(theirs)
    check(refused(script, words), where, values)


# ---- one file each ----

WEIGHTS, POINTS = "level,weight\n", "points,accuracy\n"
AB = {"path": "a", "label": "b"}
AB_OF_NONE = AB | {"candidates": []}
LATENT = (4, 8, 8)
SHAPES = "['n', 4, 8, 8]"


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def npy_header(text: str) -> bytes:
    """A npy file whose header is longer than numpy reads."""
    header = f"{text:<10000}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def with_nan() -> np.ndarray:
    scores = np.zeros((497, 10))
    scores[7, 2] = np.nan
    return scores


# fmt: off
CONTENTS = {  # (script, words that name the file) -> its content, where the error points, values of the problem
    (SD, "--prompt_path p.csv"): [
        ("", "p.csv", "prompt, classname", "empty file"),
        (b"\xff\xfe\x00bad", "p.csv", "0xff"),
        ("prompt|classname|classidx\na|b|0\n", "p.csv", "prompt, classname", "prompt|classname|classidx"),
        ("prompt,class\na,b\n", "p.csv", "classname", "prompt, class"),
        (HEAD, "p.csv", "prompt,classname,classidx"),
        (HEAD + "a,a,0\n ,b,1\n", "p.csv, line 3", "prompt"),
        (HEAD + 'a,a,0\n"two\nlines",b,1\n,c,2\n', "p.csv, line 5", "prompt"),
        *((HEAD + f"a,a,0\nb,b,{cell}\n", "p.csv, line 3", f"classidx is '{cell}'", "0")
          for cell in ("one", "-1", "1.0", "", "9" * 30, DIGITS)),
        (HEAD + "a cat, a pet,cat,0\n", "p.csv, line 2", "4 fields", "3"),
        (HEAD + "a,0\n", "p.csv, line 2", "2 fields", "3"),
        (HEAD + '"a,0\n', "p.csv", "end of data"),
        (HEAD + "a,a,7\nb,b,7\n", "p.csv", "classidx 7"),
        ("prompt,classname\na,+\nb,+\n", "p.csv", "classname '+'"),
        ("prompt,classname\na,+\nb, \n", "p.csv, line 3", "classname", "classidx"),
        (HEAD + TEN.replace("3,3", "3,2"), "p.csv", "class 3 (three)"),
        (HEAD + TEN[: TEN.index("a 7.")], "p.csv", "class 7 (seven), 8 (eight), 9 (nine)"),
        (HEAD + TEN + "a 10.,10,10\n", "p.csv", "[10]", "0..9"),
        (HEAD + TEN.replace("3,3", "four,3"), "p.csv", "'four'", "classidx 3", "'three'"),
        ("prompt,classname,classidx,group\n" + TEN.replace("\n", ",x\n") + "b,0,0,y\n", "p.csv, line 12", "'y'", "'x'"),
    ],
    (SD, "--subset_path s.npy"): [
        *((np.array(indices), "--subset_path s.npy", *values) for indices, values in (
            ([0, 497], ("497", "0..496")), ([-1, 3], ("-1", "0..496")), ([0.0, 1.0], ("float64 [2]",)),
            (3, ("int64 []",)), ([True], ("bool [1]",)),
            ([[0, 1]], ("int64 [1, 2]",)), ([], ("float64 [0]",)), (["a"], ("<U1 [1]",)))),
        *((content, "--subset_path s.npy", "npy") for content in (
            b"", "0\n1\n", b"PK\x03\x04 and then nothing", np.array([0, None], dtype=object), npy_header("-" * 9000),
            npy_header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({10**12}, 10)}}"))),
    ],
    (WINO, "--subset_path s.npy"): [(np.array([450]), "--subset_path s.npy", "450", "0..449"),
                                    (npy_header("-" * 9000), "--subset_path s.npy")],
    (DIT, "--subset_path s.npy"): [("x", "--subset_path s.npy", "npy")],
    (SD, f"{SCHEDULE} --noise_path n.pt"): [
        *((torch.zeros(n, *LATENT), "--noise_path n.pt", f"{n} draws", "12") for n in (0, 11)),
        *((content, "--noise_path n.pt", found, SHAPES) for content, found in (
            (torch.zeros(12, 4, 8, 9), "[12, 4, 8, 9]"), (torch.zeros(LATENT), "[4, 8, 8]"), (torch.tensor(0.0), "[]"),
            ({"noise": torch.zeros(12, *LATENT)}, "dict"), (None, "NoneType"))),
        *((content, "--noise_path n.pt") for content in (b"", b"hello", b"PK\x03\x04 and then nothing")),
    ],
    (SD, f"{SCHEDULE} --n_trials 2 --noise_path n.pt"): [(torch.zeros(12, *LATENT), "--noise_path n.pt", "12", "24")],
    (SD, "--search race --max_samples 13 --noise_path n.pt"): [
        (torch.zeros(12, *LATENT), "--noise_path n.pt", "12", "13")],
    (DIT, "--t_interval 50 --noise_path n.pt"): [
        (torch.zeros(9, 4, 32, 32), "--noise_path n.pt", "[9, 4, 32, 32]", SHAPES), ("hello", "--noise_path n.pt")],
    (WINO, "--randomize_noise --t_interval 250 --n_trials 2 --noise_path n.pt"): [
        (torch.zeros(7, *LATENT), "--noise_path n.pt", "7", "8")],
    (WINO, "--n_trials 2 --noise_path n.pt"): [
        (torch.zeros(1, *LATENT), "--noise_path n.pt", "1", "2"), ({}, "--noise_path n.pt", "dict", SHAPES)],
    (SD, "--dataset own.csv"): [
        ("path,class\na,b\n", "own.csv", "label", "path, class"),
        ("path,label\n", "own.csv", "path,label"),
        ("path,label\na.png,\n", "own.csv, line 2", "label"),
        ("path,label\n\n,cat\n", "own.csv, line 3", "path"),
        ("path,label\na.png,cat\na.png,nan\n", "own.csv, line 3", "'nan'"),
        ("path,label\na.png,None\n", "own.csv, line 2", "'None'"),
        ("path,label\na.png,\"['cat', 'dog']\"\n", "own.csv, line 2", "['cat', 'dog']"),
        ("path,label\nphotos/0.png,a\nphotos/1.png,b\n", "own.csv", "2 images", "photos/0.png"),
        *(("path,label\n0.png,M\u00fctze\n".encode(name), "own.csv", "UTF-8") for name in ("cp1252", "utf-16")),
        ("path,label,split\n0.png,cat,fold 3\n0.png,dog,test\n", "own.csv, line 2", "'fold 3'", "train, val or test"),
        ("path,label,group\na.png,cat,x\nb.png,dog,\n", "own.csv, line 3", "group"),
        ("path,label,candidates\na.png,cat,dog\n", "own.csv, line 2", "'dog'", "two"),
        ("path,label,candidates\na.png,cat,cat|dog\n", "own.csv, line 2", "'cat|dog'", "cat;dog"),
        ("path,label,candidates\na.png,cat,cat;dog;cat\n", "own.csv, line 2", "'cat'"),
        ('path,label\n"a,b\n', "own.csv", "end of data"),
        (f'path,label\n"{"x" * 200_000}",b\n', "own.csv", "131072"),
        (f"path,label\na.png,{DIGITS}\n", "--dataset own.csv", DIGITS, "--prompt_path"),
        ("path,label\na.png,cat\n", "--dataset own.csv", "'cat'", "--prompt_path"),
    ],
    (SD, "--dataset own.jsonl"): [
        *((lines({"path": "a.png", "label": label}), "own.jsonl, line 1", str(label), "number")
          for label in (None, ["cat"], {"name": "cat"}, float("nan"))),
        *((lines(*rows), "own.jsonl, line 2", "candidates") for rows in ((AB, AB_OF_NONE), (AB_OF_NONE, AB))),
    ],
    (SD, "--dataset t.jsonl"): [
        ("", "t.jsonl"), *((text, "t.jsonl, line 1") for text in ("[]\n", '{"label": "a"}\n', "{")),
        ('{"path": "a"}\n{"path": "a", "label": "b"}\n', "t.jsonl, line 2")],
    (SD, "--embeddings e.safetensors"): [(tensors, "--embeddings e.safetensors", found) for tensors, found in (
        ({"<thing>": torch.zeros(2, 64)}, "128"), ({"<thing>": torch.zeros(2, 2, 128)}, "embedding"),
        ({"a": torch.zeros(2, 128), "b": torch.zeros(2, 128)}, "one token"),
        ({"clip_l": torch.zeros(1, 128), "clip_g": torch.zeros(1, 128)}, "text_encoder_2"))],
    (SD, "--weights w.csv"): [
        (WEIGHTS, "w.csv", "level,weight"),
        *((f"{WEIGHTS}1,{cell}\n", "w.csv, line 2", f"'{cell}'", "0") for cell in ("-1", "nan", "1e999", "much")),
        *((f"{WEIGHTS}1,1\n{cell},1\n", "w.csv, line 3", cell) for cell in ("1000", "0.5", "1")),
        (f"{WEIGHTS}1,0\n5,0\n", "w.csv", "0"),
    ],
    (DIT, "--t_interval 100 --weights w.csv"): [(f"{WEIGHTS}10,0\n11,1\n12,0\n", "--weights w.csv", "10 levels")],
    (SD, "--search race --levels 0.2-0.8 --max_samples 301 --weights w.csv"): [
        (f"{WEIGHTS}499,1\n500,0\n", "--max_samples 301", "2..300", "0.2-0.8", "--weights")],
    (SD, "--candidates 3 --candidates_from c.npy"): [
        *((content, "--candidates_from c.npy", found, "[497, 10]") for content, found in (
            (np.zeros((497, 9)), "[497, 9]"), (np.zeros((5, 10)), "[5, 10]"), (np.full((497, 10), "a"), "<U1"))),
        (with_nan(), "--candidates_from c.npy", "nan", "[7, 2]"),
        (npy_header("-" * 9000), "--candidates_from c.npy", "npy"),
    ],
    (SD, "--candidates 3 --search race --budget 5 --candidates_from c.npy"): [
        (np.zeros((497, 10)), "--budget 5", "6 NFE")],
    (SD, "--version m.safetensors"): [(b"nonsense", "--version m.safetensors")],
    (SD, f"--config {ROOT}/models/digits-sd --version m.safetensors"): [
        (b"nonsense", "--version m.safetensors"), ({"x": torch.zeros(2)}, "m.safetensors", "unet", "conv_in.bias")],
    (SD, "--config nothing --version m.safetensors"): [({"x": torch.zeros(2)}, "--version m.safetensors")],
    (SD, "--lora a.safetensors"): [(b"", "--lora a.safetensors"),
        ("version https://git-lfs.github.com/spec/v1\noid x", "--lora a.safetensors")],
    (SD, "--lora a.bin"): [(b"nonsense", "--lora a.bin"), (b"", "--lora a.bin")],
    (BUDGET, "--classes 37 --simulate c.csv"): [
        ("a,b\n1,2\n", "c.csv", "points, accuracy", "a, b"),
        ("", "c.csv", "points, accuracy", "empty file"),
        *((f"{POINTS}1,30\n{cell},40\n", "c.csv, line 3", f"'{cell}'", "1..1000000") for cell in ("0", "1.5")),
        *((f"{POINTS}1,30\n2,{cell}\n", "c.csv, line 3", f"'{cell}'", "0 to 100") for cell in ("x", "nan", "101")),
        (f"{POINTS}1,30\n01,40\n", "c.csv, line 3", "points 1"),
        (f"{POINTS}1,0.3\n2,0.4\n5,0.5\n", "c.csv", "1", "percent"),
        (f"{POINTS}1,30\n2,40\n", "c.csv", "2 rows", "3"),
    ],
    (EXPORT, "--probabilities --out x.csv run/calibration.json"): [
        (text, "run/calibration.json", "damaged") for text in (
            "{", "[]", '{"loss": "l2"}', '{"temperature": "x", "loss": "l2"}', '{"temperature": -1, "loss": "l2"}')],
}
# fmt: on
ONE_FILE = [(*command, *row) for command, rows in CONTENTS.items() for row in rows]


def write(path: Path, content) -> None:
    if isinstance(content, str | bytes):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    elif path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)


@pytest.mark.parametrize("row", ONE_FILE, ids=lambda row: f"{Path(row[0]).stem} {row[1]}")
def test_files(refused, tmp_path, monkeypatch, row):
    """The file is the last of the words; a picture lies beside it."""
    script, words, content, where, *values = row
    monkeypatch.chdir(tmp_path)
    picture(Path("a.png"))
    *before, name = words.split()
    if "/" in name:
        write_small_run(Path(name).parent, {}, {})
        words = " ".join([str(Path(name).parent), *before])
    write(Path(name), content)
    check(refused(script, words), where, values)


# ---- one configuration each ----

SCHEDULER = "scheduler/scheduler_config.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1059962\n"
PARTS = [("unet/diffusion_pytorch_model.safetensors", "unet"), ("vae/diffusion_pytorch_model.safetensors", "vae"),
         ("text_encoder/model.safetensors", "text_encoder")]  # fmt: skip


def half(tensors: dict) -> dict:
    return dict(list(tensors.items())[::2])


def foreign(tensors: dict) -> dict:
    return {f"x{k}.weight": value for k, value in enumerate(tensors.values())}


def narrower(tensors: dict) -> dict:
    key = next(key for key, value in tensors.items() if value.ndim == 2)
    return tensors | {key: tensors[key][:, 1:].contiguous()}


def without_layer(tensors: dict) -> dict:
    layer = re.compile(r"layers\.1\.|mid_block|encoder\.mid")
    return {key: value for key, value in tensors.items() if not layer.search(key)}


CUT = (ROOT / "models/digits-sd/unet/diffusion_pytorch_model.safetensors").read_bytes()[:-100]
PIPELINE, UNET = "model_index.json", "unet/diffusion_pytorch_model.safetensors"
# fmt: off
CHANGES = [  # what differs in the folder of the embedded model (json, bytes, tensors; None: gone), where, values
    ({PIPELINE: None}, "--version m", PIPELINE, "--config"),
    *(({PIPELINE: content}, "--version m") for content in (b"{}", b"{")),
    *(({PIPELINE: {"_class_name": name}}, "--version m", name, found, "StableDiffusionXLPipeline") for name, found in (
        ("StableDiffusionInpaintPipeline", "mask"), ("StableDiffusionInstructPix2PixPipeline", "before"),
        ("KandinskyPipeline", "two models"), ("FluxFillPipeline", "image"), ("NoSuchPipeline", "diffusers"))),
    *(({PIPELINE: {part: [None, None]}}, "m", part) for part in ("text_encoder", "tokenizer")),
    *(({PIPELINE: {part: [None, None]}}, "--version m", name)
      for part, name in (("unet", "unet"), ("scheduler", "scheduler"), ("vae", "VAE"))),
    ({"vae/config.json": None}, "--version m", "config.json"),
    ({"unet/config.json": b"{}"}, "--version m"),
    *(({"unet/config.json": {"in_channels": n}}, "m", f"{n} channels", found)
      for n, found in ((9, "inpainting"), (8, "instruct-pix2pix"), (5, "depths"))),
    *(({"unet/config.json": {key: value} | more}, "m", str(value)) for key, value, more in (
        ("class_embed_type", "projection", {"projection_class_embeddings_input_dim": 8}),
        ("class_embed_type", "timestep", {}), ("class_embed_type", "identity", {}),
        ("class_embed_type", "simple_projection", {}), ("addition_embed_type", "text_time", {}),
        ("addition_embed_type", "image", {}), ("encoder_hid_dim_type", "image_proj", {"encoder_hid_dim": 8}))),
    ({"unet/config.json": {"num_class_embeds": 1000}}, "m", "num_class_embeds"),
    ({"unet/config.json": {"cross_attention_dim": 64}}, "m", "128", "64"),
    *(({f"{part}/config.json": {"quantization_config": {"quant_method": name} | how}}, f"m/{part}", name, "pip install")
      for part, name, how in (
        ("unet", "bitsandbytes", {"load_in_4bit": True}), ("text_encoder", "bitsandbytes", {"load_in_8bit": True}),
        ("unet", "torchao", {"quant_type": "int8wo"}), ("unet", "gguf", {}), ("unet", "quanto", {}))),
    *(({SCHEDULER: config}, "m", "Scheduler", found) for config, found in (
        ({"prediction_type": "score"}, "'score'"), ({"beta_schedule": "quad"}, "quad"),
        ({"num_train_timesteps": 1}, "1 noise"), ({"trained_betas": ["a"]}, "'str'"),
        ({"trained_betas": [2.0, 3.0]}, "finite"), ({"beta_start": "x"}, "'str'"),
        ({"use_flow_sigmas": True, "_class_name": "UniPCMultistepScheduler"}, "use_flow_sigmas"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous", "prediction_type": "v_prediction"},
         "'continuous'"))),
    *(({file: change}, f"m/{file}", part, found) for file, part in PARTS for change, found in (
        (half, "missing"), (foreign, "missing"), (narrower, "another shape"))),
    *(({file: without_layer}, f"m/{file}", part, "missing", "mid_block" if part == "unet" else "")
      for file, part in PARTS),
    ({UNET: None}, "--version m", "unet", ".safetensors"),
    ({UNET: POINTER}, f"m/{UNET}", "git lfs pull"),
    *(({UNET: content}, "m", "Safetensor") for content in (b"", b"<html>Not found</html>", CUT)),
    ({"tokenizer/tokenizer.json": POINTER}, "m/tokenizer/tokenizer.json", "git lfs pull"),
    ({"tokenizer/tokenizer.json": b'{"version": "1.0", "trunc'}, "m/tokenizer"),
    ({"tokenizer/tokenizer.json": None, "tokenizer/vocab.json": None, "tokenizer/merges.txt": None}, "m/tokenizer",
     "vocabulary", "CLIPTokenizer"),
]
# fmt: on


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return shutil.copytree(ROOT / "models/digits-sd", tmp_path_factory.mktemp("whole") / "m")


def id_of_changes(row: tuple) -> str:
    """The file and its change, the same in every process: a function by its name."""
    changes = [f"{file} {getattr(change, '__name__', change)}" for file, change in row[0].items()]
    return " ".join(changes)[:60]


@pytest.mark.parametrize("row", CHANGES, ids=id_of_changes)
def test_models(refused, tmp_path, whole, monkeypatch, row):
    """Refused by what lies in the folder, before a network is built; the other files are links to the whole model's."""
    change, where, *values = row
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, "m", copy_function=os.link)
    for name, content in change.items():
        path = Path("m") / name
        if isinstance(content, dict):
            content = json.dumps(json.loads(path.read_text()) | content).encode()
        if callable(content):
            content = save(content(load_file(path)), {"format": "pt"})
        path.unlink(missing_ok=True)  # it is a link
        if content is not None:
            path.write_bytes(content)
    check(refused(SD, "--version m"), where, values)


# ---- a record that is none costs one image ----


@pytest.mark.parametrize("script, words", [
    (ACC, "nfe"), (ACC, "tensors"), (ACC, "counts --loss l1"), (ACC, "nan --loss l1"), (ACC, "weights --loss l1"),
    (ACC, "weights-nan --loss l1"), (ACC, "weights-few --loss l1"),
    (ACC, "three --loss l1"), (ACC, "cosine"), (DIT_ACC, "dit-nfe"), (DIT_ACC, "dit-losses"), (DIT_ACC, "dit-three"),
    (PRINT_WINO, "wino-counts"), (PRINT_WINO, "wino-loss"),
])  # fmt: skip
def test_a_record_that_is_none_is_named(theirs, run_main, monkeypatch, script, words):
    """The rest is counted; exit code 1."""
    monkeypatch.chdir(theirs)
    result = run_main(script, *words.split())
    assert result.code == 1, result
    found = [line.split(" ")[2].removesuffix(":") for line in result.err.splitlines()]
    assert f"{words.split()[0]}/0.pt" in found and result.err.count("not counted: ") == len(found)


# ---- other options in the folder of a run ----


@pytest.mark.parametrize("script, start, changes", [
    (SD, "--to_keep 1 --n_samples 1 --limit 1", {
        "--seed 5": "seed was 0, now 5", "--split train": "split was 'test', now 'train'",
        "--dtype bfloat16": "dtype was 'float32', now 'bfloat16'",
        "--prompt_path ../p.csv": 'prompts now have "a 0.",0,0'}),
    (DIT, "--cls 3-4 --t_interval 500 --imgs_to_eval 1", {
        "--seed 5": "seed was 0, now 5", "--dtype bfloat16": "dtype was 'float32', now 'bfloat16'",
        "--save_vb": "keep was None, now 'save_vb'", "--noise_path ../n.pt": "noise was None, now "}),
    (WINO, "--t_interval 1000 --limit 1", {
        "--seed 5": "seed was 0, now 5", "--dtype bfloat16": "dtype was 'float32', now 'bfloat16'",
        "--noise_path ../n.pt": "noise was None, now "}),
    (WINO, "--model clip --limit 1", {"--dtype bfloat16": "dtype was 'float32', now 'bfloat16'"}),
])  # fmt: skip
def test_other_options(run_main, tmp_path, monkeypatch, script, start, changes):
    """None of these shows in the name of the folder, yet the runs do not mix."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    (tmp_path / "p.csv").write_text(HEAD + TEN)
    torch.save(torch.zeros(9, *LATENT), tmp_path / "n.pt")
    words = shlex.split(f"{START[script]} {start}")
    first = run_main(script, *words)
    assert first.code == 0, first.err
    before = contents(tmp_path)
    for change, found in changes.items():
        result = run_main(script, *words, *change.split())
        assert result.code == 2 and result.err.count("\n") == 1, result
        assert result.error.where == str(folder_of(first)) and found in result.error.problem
    assert contents(tmp_path) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="it has CUDA")
def test_no_cuda(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(refused(SD, "--device cuda"), "--device cuda", [])
