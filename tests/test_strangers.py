"""Strangers' input: every script refuses what cannot work in one line; data stays data; no code of theirs is run."""

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
from helpers import ROOT, call_main
from PIL import Image

from diffusion.data import catalogue

SD, DIT, WINO = "eval_prob_adaptive.py", "eval_prob_dit.py", "run_winoground.py"
ACC, DIT_ACC, PRINT_WINO = "scripts/print_acc.py", "scripts/print_dit_acc.py", "scripts/print_winoground.py"
ERRORS, BUDGET, BENCH = "scripts/plot_errors.py", "studies/plot_budget.py", "scripts/benchmark.py"
LEVELS, CALIBRATE = "scripts/plot_levels.py", "scripts/calibrate.py"
REPORT, MAPS = "scripts/report.py", "scripts/plot_maps.py"
NOISE, PROMPTS, TRAIN = "scripts/save_noise.py", "scripts/write_prompts.py", "studies/train_embedded.py"
CIFAR10, BASELINE, ROBUST = "scripts/write_cifar10_prompts.py", "scripts/baseline.py", "scripts/print_robustness.py"

START = {  # what comes before a row's words; argparse takes the last of a flag
    SD: "--version digits --dataset digits --to_keep 1 --n_samples 2",
    DIT: "--version digits --dataset digits",
    WINO: "--version digits --dataset digits-pairs",
    BASELINE: "--dataset digits",
    TRAIN: "--folder out",
}
LONG = "x" * 300  # longer than a file's name may be
DIGITS = "9" * 5000  # more than Python makes an int of
HEAD = "prompt,classname,classidx\n"


def run_there(log: Path, script: str, words: str):
    """`call_main` of any script as `__main__`, the words of its command line split as a shell does."""
    path = str(ROOT / script)
    module = SimpleNamespace(__file__=path, main=lambda _: runpy.run_path(path, run_name="__main__"))
    return call_main(log, module, *shlex.split(START.get(script, "")), *shlex.split(words))


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "teal").save(path)


# ---- one line ----

BASE = {"dataset": "digits", "split": "test", "version": "digits", "loss": "l2", "interpolation": "bicubic"}
BASE |= {"img_size": 32, "model": "digits", "cls": None, "images": 1, "arms": [["a 0.", "0", 0], ["a 1.", "1", 1]]}
OF_DIT = {"all_arms": "0-1", "indices": "0", "n_samples": [2], "arms": [[0, "0", 0], [1, "1", 1]]}
OF_WINO = {
    "dataset": "digits-pairs",
    "split": ...,
    "images": 2,
    "examples": {"0": {"id": "", "tag": "", "captions": ["a", "b"]}},
    "items": {"0": {"images": [["0", None], ["1", None]], "right": [[0, 0], [1, 1]], "tags": [], "groups": {}}},
    "chosen": 1,
    "lacking": {},
}
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
    "counts": ({}, {"counts": torch.tensor([5, 5])}),
    "stages": ({}, {"counts": torch.tensor([1, 3]), "levels": torch.arange(3), "noise": torch.zeros(3)}),
    "three": ({"arms": [["a 0.", "0", 0], ["a 1.", "1", 1], ["a 2.", "2", 2]]}, {}),
    "clip": ({"loss": "cosine"}, {"losses": ["cosine"], "errors": torch.arange(4.0).reshape(4, 1)}),
    "errors": ({}, {"errors": [1, 2]}),
    "nfe": ({}, {"nfe": "a lot"}),
    "tensors": ({}, {"candidates": [torch.zeros(2)]}),
    "nan": ({}, {"errors": torch.full([4, 3], float("nan"))}),
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
    "wino-bare": (OF_WINO | {"items": ...}, {}),
    "wino-loss": (OF_WINO | {"loss": "cosine"}, {}),
    "wino-counts": (OF_WINO, {"counts": torch.tensor([5, 5])}),
}
FILES = {  # what they hold; "" after the last slash: an empty folder
    "empty/": "",
    "file": "x",
    "text/run.json": "{",
    "list/run.json": "[]",
    "deep/run.json": "[" * 100_000,
    "folder/run.json/": "",
    "bare/0.txt": "no record",
    "quote.csv": 'path,label\n"a,b\n',
    "nothing.csv": "path,label\n",
    "latin.csv": b"path,label\n\xe9,b\n",
    "wide.csv": f'path,label\n"{"x" * 200_000}",b\n',
    "ids.csv": f"path,label\nfile,{DIGITS}\n",
    "prompts.csv": f"{HEAD}a,a,{DIGITS}\nb,b,1\n",
    "far.csv": f"{HEAD}a,a,{'9' * 30}\nb,b,1\n",
    "n.pt": "hello",
    "json/examples.jsonl": "{",
    "blank/examples.jsonl": "\n\n",
    "latin/examples.jsonl": b"\xe9",
    "nest/examples.jsonl": "[" * 100_000,
    "gone/examples.jsonl": '{"image_0": "0.png", "image_1": "1.png", "caption_0": "a", "caption_1": "b"}',
    "none/examples.jsonl": '{"image_0": "0.png", "image_1": "1.png", "caption_0": "a", "caption_1": null}',
    "name/examples.jsonl": f'{{"image_0": "{LONG}", "image_1": "1.png", "caption_0": "a", "caption_1": "b"}}',
    "half/examples.jsonl": '{"image_0": "a.png", "image_1": "a.png", "caption_0": "\\ud800", "caption_1": "b"}',
}


def make_run(folder: Path, change: dict, record: dict) -> None:
    folder.mkdir(parents=True)
    run = {key: value for key, value in (BASE | change).items() if value is not ...}
    beside = {"images", "arms", "examples", "items", "chosen", "lacking", "all_arms", "indices"} & run.keys()
    about = {key: run.pop(key) for key in beside}
    (folder / "run.json").write_text(json.dumps({"options": run} | about))
    tensors = {"levels": torch.arange(2), "noise": torch.zeros(2, dtype=torch.int64), "counts": torch.tensor([2, 2])}
    for index in range(1 + ("examples" in beside)):
        plain = {"index": index, "label": 0, "pred": 0, "nfe": 4, "losses": ["l2", "l1", "huber"]}
        torch.save(plain | tensors | {"errors": torch.arange(12.0).reshape(4, 3)} | record, folder / f"{index}.pt")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("theirs")
    for name, differs in RUNS.items():
        make_run(folder / name, *differs)
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    picture(folder / "half/a.png")
    for name in (b"a", b"\xe9"):
        picture(folder / "latin" / os.fsdecode(name) / "a.png")
    os.mkfifo(folder / "fifo")
    torch.save(torch.zeros(1, 4, 8, 8), folder / "one.pt")
    np.save(folder / f"{LONG[:190]}.npy", np.zeros((497, 10)))
    huge = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({10**12}, 10)}}"
    for name, header in {"huge.npy": huge, "signs.npy": "-" * 9000 + "1"}.items():
        header = f"{header:<10000}\n".encode()
        (folder / name).write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return folder


READ = [
    (ERRORS, " x.png"),
    (BUDGET, ""),
    (LEVELS, ""),
    (CALIBRATE, ""),
    (REPORT, " --out x.html"),
]  # what reads the numbers of a run, and what follows its folder
ROWS = [  # script, what is wrong with its command line, what the message names
    # classification by class ids
    (DIT, "--cls seven", ["--cls seven", "0-99"]),
    (DIT, "--cls ''", ["--cls", "0-99"]),
    (DIT, "--cls 1-2-3", ["--cls 1-2-3", "0-99"]),
    (DIT, "--cls 7-3", ["--cls 7-3", "goes up"]),
    (DIT, "--cls 0 10", ["--cls 0 10", "0..9"]),
    (DIT, "--cls 3 --search race", ["--cls", "not for race"]),
    (DIT, "--t_interval 0", ["--t_interval 0", "1000"]),
    (DIT, "--t_interval 7", ["--t_interval 7", "1000"]),
    (DIT, "--t_interval 10 --n_samples 5", ["--t_interval 10", "--n_samples"]),
    (DIT, "--to_keep 5 1", ["--to_keep 5 1", "equally many"]),
    (DIT, "--to_keep 5 2 --n_samples 1 2", ["--to_keep 5 2", "end in 1"]),
    (DIT, "--save_vb --spatial", ["--save_vb --spatial", "at most one"]),
    (DIT, "--image-size 256", ["--image-size 256", "--version digits"]),
    (DIT, "--version nope", ["--version nope", "local folder"]),
    (DIT, f"--version {ROOT}/models/digits-sd", ["StableDiffusionPipeline", SD]),
    (DIT, "--vae empty", ["--vae empty", "config.json"]),
    (DIT, "--dataset nope", ["'nope'", "hf:NAME"]),
    (DIT, "--dataset digits-colour", ["--dataset digits-colour", "60 classes", "10"]),
    (DIT, "--dataset imagenet", ["'imagenet' not found"]),
    (DIT, "--split val", ["'digits'", "'val'"]),
    (DIT, "--imgs_to_eval 0", ["--imgs_to_eval 0", "at least 1"]),
    (DIT, "--n_trials 0", ["--n_trials 0", "at least 1"]),
    (DIT, "--seed -1", ["--seed -1", "at least 0"]),
    (DIT, "--z 2", ["--z", "--search race"]),
    (DIT, "--search race --budget 5", ["--budget 5", "20 NFE"]),
    (DIT, "--randomize_noise --noise_path one.pt", ["--noise_path one.pt", "holds 1 draws", "250"]),
    (DIT, "--noise_path n.pt", ["--noise_path n.pt", "cannot be read"]),
    (DIT, "--subset_path file", ["--subset_path file", "npy"]),
    (DIT, "--n_workers 2 --worker_idx 2", ["--worker_idx 2", "0..1"]),
    (DIT, "--extra a/b", ["--extra 'a/b'", "letters"]),
    (DIT, "--dtype float16 --device cpu", ["--dtype float16"]),
    (DIT, f"--cls {DIGITS}", ["--cls", "0-99"]),
    (DIT, f"--n_trials {10**15}", ["--n_trials", "at most 10000"]),
    (DIT, "--dataset ''", ["dataset ''", "folder that exists"]),
    # images and captions
    (WINO, "--t_interval 3", ["--t_interval 3", "1000"]),
    (WINO, "--search race --normalize", ["--normalize", "not for race"]),
    (WINO, "--search race --t_interval 10", ["--t_interval", "not for race"]),
    (WINO, "--budget 50", ["--budget", "--search race"]),
    (WINO, "--pretrained openai", ["--pretrained openai", "clip"]),
    (WINO, "--img_size 33", ["--img_size 33", "multiple of 4"]),
    (WINO, "--seed -2", ["--seed -2", "at least 0"]),
    (WINO, "--randomize_noise --noise_path one.pt", ["--noise_path one.pt", "200"]),
    (WINO, "--noise_path empty", ["--noise_path empty", "cannot be read"]),
    (WINO, "--extra 'a b'", ["--extra 'a b'", "letters"]),
    (WINO, "--subset_path empty", ["--subset_path empty", "npy"]),
    (WINO, "--dataset nope", ["--dataset nope", "hf:NAME"]),
    (WINO, "--dataset hf:nobody/nothing", ["hf:nobody/nothing", "cannot be read"]),
    (WINO, "--dataset empty", ["empty/examples.jsonl", "cannot be read"]),
    (WINO, "--dataset json", ["json/examples.jsonl, line 1", "no JSON object"]),
    (WINO, "--dataset blank", ["blank/examples.jsonl", "no examples"]),
    (WINO, "--dataset latin", ["latin/examples.jsonl", "cannot be read"]),
    (WINO, "--dataset gone", ["gone/examples.jsonl, line 1", "no such image: 0.png"]),
    (WINO, "--dataset none", ["none/examples.jsonl, line 1", "caption_1 is None"]),
    (WINO, "--model clip --version nope", ["--version nope", "open_clip_config.json"]),
    (WINO, "--model clip --pretrained file", ["--pretrained file", "--version digits"]),
    (WINO, "--model openclip --version ViT-L-14 --pretrained nope", ["--pretrained nope", "laion"]),
    (WINO, "--model clip --normalize", ["--normalize", "--model sd"]),
    (WINO, "--model clip --loss l1", ["--loss", "--model sd"]),
    (WINO, "--dataset nest", ["nest/examples.jsonl, line 1", "no JSON object"]),
    (WINO, "--dataset half", ["half/", "no Unicode", '"captions": [ "']),
    (WINO, "--dataset name", ["name/examples.jsonl, line 1", f"no such image: {LONG}"]),
    (WINO, "--dataset ''", ["--dataset", "a folder"]),
    (WINO, "--dataset hf:", ["--dataset hf:", "hf:NAME"]),
    (WINO, "--gallery nodir/x.png", ["nodir/x.png", "cannot be written"]),
    (WINO, "--gallery x.exe", ["x.exe", "supported"]),
    # the main script
    (SD, "--dataset nothing.csv", ["nothing.csv", "no row"]),
    (SD, "--dataset quote.csv", ["quote.csv", "unexpected end"]),
    (SD, "--dataset latin.csv", ["latin.csv", "UnicodeDecodeError"]),
    (SD, "--dataset wide.csv", ["wide.csv", "field limit"]),
    (SD, "--dataset hf:empty", ["hf:empty", "cannot be read"]),
    (SD, "--prompt_path far.csv", ["far.csv, line 2", "integer"]),
    (SD, "--prompt_path prompts.csv", ["prompts.csv, line 2", "integer"]),
    (SD, "--dataset ids.csv", ["ids.csv", "--prompt_path"]),
    (SD, "--dataset latin", ["no Unicode", '"a photo of a']),
    (SD, "--dataset ''", ["dataset ''", "folder that exists"]),
    (SD, "--dataset hf:", ["'hf:'", "hf:NAME"]),
    (SD, "--version 'no\nmodel'", ["--version no model:"]),
    (SD, f"--extra {'界' * 100}", ["too long"]),
    (SD, "--prompt_path empty", ["empty", "cannot be read"]),
    (SD, f"--prompt_path {LONG}", [LONG, "too long"]),
    (SD, f"--subset_path {LONG}", [LONG, "too long"]),
    *((script, f"--dataset {LONG}", [LONG]) for script in (SD, DIT, WINO)),
    *((script, "--dataset '~no-such-user'", ["~no-such-user"]) for script in (SD, DIT, WINO)),
    (SD, "--dataset '~no-such-user/a.csv'", ["~no-such-user"]),
    *((WINO, f"--model clip --{flag} {LONG}", [LONG]) for flag in ("version", "version ViT-L-14 --pretrained")),
    *(
        (BASELINE, f"--model {name}", ["--model", name[:40]])
        for name in (LONG, f"timm:{LONG}", f"clip:{LONG}", "~no-such-user")
    ),
    *((BASELINE, words, ["--model"]) for words in ("--model ''", "--model timm:", "--model empty", "--model text")),
    (ROBUST, "good", ["--base"]),
    (ROBUST, "nowhere", ["nowhere", "no run.json"]),
    (ROBUST, "good good --base digits", ["good", "second run"]),
    # runs, read
    *((script, "nowhere", ["nowhere", "no such folder"]) for script in (ACC, DIT_ACC)),
    *((script, "empty", ["empty", "no run.json"]) for script in (BUDGET, PRINT_WINO)),
    *((script, "text", ["text/run.json is damaged"]) for script in (BUDGET, DIT_ACC, PRINT_WINO)),
    *((script, "list", ["list/run.json is damaged"]) for script in (BUDGET, DIT_ACC, PRINT_WINO)),
    *((script, "no-arms", ["no-arms/run.json is damaged", "no arms"]) for script in (ACC, BUDGET, PRINT_WINO)),
    (ACC, "file", ["file: ", "no packed run"]),
    (ACC, "bare", ["bare", "000.pt"]),
    (ACC, "part --loss l1", ["part", "a part of the classes"]),
    (ACC, "part --confusion x.png", ["part", "a part of the classes"]),
    (ACC, "good --confusion nodir/x.png", ["nodir/x.png", "cannot be written"]),
    (ACC, "good --confusion x.exe", ["x.exe", "supported"]),
    (BUDGET, "stages", ["stages, image 0", "one stage"]),
    (ERRORS, "empty x.png", ["empty", "no run.json"]),
    (ERRORS, "good nodir/x.png", ["nodir/x.png", "cannot be written"]),
    (ERRORS, "good x.exe", ["x.exe", "supported"]),
    (ERRORS, "good x.png --images 0", ["--images 0", "at least 1"]),
    (ERRORS, "elsewhere x.png", ["'../nowhere'", "hf:NAME"]),
    (ERRORS, "split x.png", ["'digits'", "'../..'"]),
    (DIT_ACC, "good", ["good", "no run of eval_prob_dit.py"]),
    (DIT_ACC, "dit --dataset imagenet", ["--dataset imagenet", "digits"]),
    (DIT_ACC, "mixed", ["mixed/a and mixed/b", "seed is None and 5"]),
    (PRINT_WINO, "good", ["good", "no run of run_winoground.py"]),
    (ACC, "odd-arms", ["odd-arms/run.json is damaged: an arm is ['a', 'b', 'c']"]),
    (ACC, "many", ["many/run.json is damaged: images is 'many', wanted int"]),
    *((script, f"few-arms{out}", ["few-arms/run.json: no arms"]) for script, out in READ),
    *((script, f"no-loss{out}", ["no-loss/run.json: no loss"]) for script, out in READ),
    *((script, f"cosine{out}", ["cosine/0.pt is no record: no loss cosine, it has l2, l1"]) for script, out in READ),
    *((script, f"errors{out}", ["errors/0.pt is no record"]) for script, out in READ),
    *((script, f"three{out}", ["three/0.pt is no record: counts of 2 arms, the run has 3"]) for script, out in READ),
    *((script, f"deep{out}", ["deep/run.json is damaged"]) for script, out in READ),
    *((script, f"folder{out}", ["folder/run.json: cannot be read (Is a directory)"]) for script, out in READ),
    *((script, f"file{out}", ["file: ", "no packed run"]) for script, out in READ),
    (PRINT_WINO, "file", ["file: ", "no packed run"]),
    *((script, f"{LONG}{out}", [LONG, "too long"]) for script, out in [*READ, (PRINT_WINO, "")]),
    *((script, LONG, [LONG, "no such folder"]) for script in (ACC, DIT_ACC)),
    (ERRORS, "two-sets x.png", ["two-sets/run.json is damaged: dataset is ['digits'], wanted str"]),
    (ERRORS, "blur x.png", ["blur/run.json is damaged: interpolation is 'blur', wanted bilinear|"]),
    (ERRORS, "big x.png", ["big/run.json is damaged: img_size is 'big', wanted int"]),
    (ERRORS, "wino x.png", ["wino", "run_winoground.py"]),
    (ERRORS, "counts x.png", ["counts/0.pt is no record: counts from 5 to 5 of 2 levels"]),
    (ERRORS, "nan x.png", ["nan/0.pt is no record", "finite"]),
    (ACC, "clip --loss l1", ["--loss l1", "clip has cosine"]),
    (DIT_ACC, "dit-arms", ["dit-arms/run.json is damaged: all_arms is 'all'"]),
    (DIT_ACC, "dit-indices", ["dit-indices/run.json: no indices"]),
    (DIT_ACC, "dit-others", ["dit-others/run.json: arms [0] are none of all_arms 1-2"]),
    (PRINT_WINO, "wino-examples", ["wino-examples/run.json: example 0 is None"]),
    (PRINT_WINO, "wino-example", ["wino-example/run.json: example 0 is {'id': 7"]),
    (PRINT_WINO, "wino-items", ["wino-items/run.json: example 0 is"]),
    (PRINT_WINO, "wino-bare", ["wino-bare/run.json: no items there"]),
    *((BUDGET, f"good --out {name}", [name, "cannot be written"]) for name in ("nodir/x.png", "empty", "x")),
    (PRINT_WINO, "wino --gallery nodir/x.png", ["nodir/x.png", "cannot be written"]),
    (PRINT_WINO, "wino-race --gallery x.png", ["--gallery", "wanted a grid"]),
    (ERRORS, "good empty", ["empty", "cannot be written"]),
    *((script, "part", ["part", "a part of the classes"]) for script in (CALIBRATE, REPORT)),
    *((script, "wino", ["wino", "run_winoground.py"]) for script in (CALIBRATE, REPORT)),
    *(
        (MAPS, f"{run} x.png", [run, said])
        for run, said in (
            ("good", "wanted a run with --save_maps"),
            ("part", "a part of the classes"),
            ("empty", "no run.json"),
            ("nan", "finite"),
            (LONG, "too long"),
            ("wino", "run_winoground.py"),
        )
    ),
    (MAPS, "good x.exe", ["x.exe", "supported"]),
    (LEVELS, "stages", ["stages, image 0", "one stage"]),
    (LEVELS, "good", ["--fit 0.5", "of 1 images"]),
    (LEVELS, "good --out x.exe", ["x.exe", "supported"]),
    (REPORT, "good --out nodir/x.html", ["--out nodir/x.html", "a folder that exists"]),
    (REPORT, "good --out empty", ["--out empty"]),
    # weights, candidates
    *(
        (script, f"--weights {file}", [file])
        for script in (SD, DIT, WINO)
        for file in ("file", "empty", "nowhere.csv", LONG)
    ),
    (WINO, "--model clip --weights file", ["--weights", "--model sd"]),
    *(
        (script, f"--candidates 3 --candidates_from {file}", ["--candidates_from", file])
        for script in (SD, DIT)
        for file in ("file", "empty", "nowhere.npy", LONG, f"clip:{LONG}", "clip:", "huge.npy", "signs.npy")
    ),
    *((script, f"--subset_path {f}", [f, "npy"]) for script in (SD, DIT, WINO) for f in ("huge.npy", "signs.npy")),
    (DIT, f"--candidates 3 --candidates_from {LONG[:190]}.npy", ["--candidates_from xxx", "too long"]),
    *((script, "--candidates 3 --candidates_from n.pt --pretrained x", ["--pretrained"]) for script in (SD, DIT)),
    # files, written
    (NOISE, "--img_size 33", ["--img_size 33", "multiple of 8"]),
    (NOISE, "--img_size -8", ["--img_size -8", "multiple of 8"]),
    (NOISE, "--latent 4 8 0", ["--latent 4 8 0"]),
    (NOISE, "--n_draws 0", ["--n_draws 0", "at least 1"]),
    (NOISE, "--seed -1", ["--seed -1", "at least 0"]),
    (NOISE, "--latent 1 1 1 --out nodir/x.pt", ["--out nodir/x.pt", "cannot be written"]),
    (NOISE, "--latent 1 1 1 --out empty", ["--out empty", "cannot be written"]),
    (NOISE, "--latent 1 1 1 --out fifo", ["--out fifo", "no regular file"]),
    (NOISE, f"--seed {2**70} --latent 1 1 1", ["--seed", "Overflow"]),
    (NOISE, f"--n_draws {10**15}", ["--n_draws", "overflow"]),
    (NOISE, f"--n_draws {10**30}", ["--n_draws", "Overflow"]),
    (PROMPTS, "pets --template cat", ["template 'cat'", "{}"]),
    (PROMPTS, "objectnet --out x.csv", ["'objectnet' not found"]),
    (PROMPTS, "digits --out empty", ["empty", "cannot be written"]),
    (PROMPTS, "digits --out file/x.csv", ["file/x.csv", "cannot be written"]),
    (CIFAR10, "--template cat --out x.csv", ["template 'cat'"]),
    (BENCH, "host --repeats 0", ["--repeats 0", "at least 1"]),
    (BENCH, "network --images 0", ["--images 0", "at least 1"]),
    (BENCH, "size --latent -8", ["--latent -8", "at least 1"]),
    (BENCH, "--threads 0", ["--threads 0", "at least 1"]),
    (BENCH, "--device nope", ["--device nope"]),
    (BENCH, "--dtype float16 --device cpu", ["--dtype float16"]),
    (TRAIN, "sd --steps 0", ["--steps 0", "at least 1"]),
    (TRAIN, "dit --steps -1", ["--steps -1", "at least 1"]),
]


@pytest.mark.parametrize("script, words, says", ROWS, ids=lambda value: value[:50] if isinstance(value, str) else "")
def test_refused_in_one_line(theirs, tmp_path, monkeypatch, script, words, says):
    def load(*_, **__):
        raise AssertionError("a model was loaded")

    for name in (
        "diffusion.models.loading.load_model",
        "diffusion.models.clip.load_clip",
        "diffusers.ModelMixin.from_pretrained",
    ):
        monkeypatch.setattr(name, load)
    monkeypatch.chdir(theirs)
    before = listing(theirs)
    result = run_there(tmp_path / "log", script, words)
    assert result.code == 2 and not result.out
    assert result.err.startswith(f"{Path(script).name}: ") and result.err.endswith("\n") and result.err.count("\n") == 1
    assert all(part in result.err for part in says), result.err
    assert listing(theirs) == before and not listing(tmp_path)


@pytest.mark.parametrize(
    "script, words, name",
    [
        *(
            (ACC, "nfe", "nfe"),
            (ACC, "tensors", "tensors"),
            (ACC, "counts --loss l1", "counts"),
            (ACC, "nan --loss l1", "nan"),
        ),
        *((ACC, "three --loss l1", "three"), (ACC, "cosine", "cosine")),
        *((DIT_ACC, run, run) for run in ("dit-nfe", "dit-losses", "dit-three")),
        *((PRINT_WINO, "wino-counts", "wino-counts"), (PRINT_WINO, "wino-loss", "wino-loss")),
    ],
)
def test_a_record_that_is_none_is_named(theirs, tmp_path, monkeypatch, script, words, name):
    """It costs one image, and the rest is counted."""
    monkeypatch.chdir(theirs)
    result = run_there(tmp_path / "log", script, words)
    assert result.code == 1, result
    assert all(line.startswith("not counted: ") for line in result.err.splitlines())
    assert f"not counted: {name}/0.pt is no record: " in result.err


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
LENGTHY = {"very long": "a photo of " * 910}


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


@texts(NAMES | LENGTHY)
def test_prompts(elsewhere, tmp_path, text):
    quoted = '"' + text.replace('"', '""') + '"'
    name = quoted if len(text) < 1000 else "dog"
    (tmp_path / "p.csv").write_text(HEAD + "".join(f"{quoted},{name},{k}\n" for k in range(10)), newline="")
    assert elsewhere(SD, "--prompt_path ../p.csv") == 0
    folder = shlex.quote(str(run_folder(tmp_path)))
    assert elsewhere(ERRORS, f"{folder} ../log/errors.png") == 0
    assert elsewhere(ACC, f"{folder} --confusion ../log/confusion.png") == 0


@texts(NAMES | LENGTHY)
def test_pairs(elsewhere, tmp_path, text):
    line = {"id": text, "tag": text, "caption_0": text, "caption_1": f"not {text}", "image_0": "a", "image_1": "a"}
    picture(tmp_path / "own/images/a.png")
    (tmp_path / "own/examples.jsonl").write_text(json.dumps(line))
    assert elsewhere(WINO, "--dataset ../own --t_interval 500 --gallery ../log/g.png") == 0
    assert elsewhere(PRINT_WINO, shlex.quote(str(run_folder(tmp_path)))) == 0


@texts(NAMES)
def test_images_named_so(elsewhere, tmp_path, text):
    """A name is looked for as it stands, and never made."""
    line = {"caption_0": "a one.", "caption_1": "a two.", "image_0": text, "image_1": text}
    (tmp_path / "own").mkdir()
    (tmp_path / "own/examples.jsonl").write_text(json.dumps(line))
    (tmp_path / "own.csv").write_text('path,label\n"' + text.replace('"', '""') + '",a\na.png,b\n', newline="")
    elsewhere(WINO, "--dataset ../own --t_interval 500")
    elsewhere(SD, "--dataset ../own.csv")


@texts(NAMES)
def test_class_folders(elsewhere, tmp_path, text):
    names = [text.replace("/", "\\"), "dog"]
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
        make_run(folder / name, change, {"more": Bait()})


def scripts(folder: Path) -> None:
    """Images in class folders, and beside them what might be taken for a loading script."""
    for name in "ab":
        picture(folder / "own" / name / "1.png")
    for name in ("own", "my", "dataset", "__init__"):
        (folder / "own" / f"{name}.py").write_text(CODE)
    make_run(folder / "run", {"dataset": "hf:own"}, {})
    make_run(folder / "wino", OF_WINO | {"dataset": "hf:own"}, {})


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
