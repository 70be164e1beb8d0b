"""What several test modules use: scripts run in this process, what a run left behind, small inputs."""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import re
import runpy
import sys
import warnings
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion import InputError
from diffusion.core.constants import LOSSES
from diffusion.core.search import race
from diffusion.data.datasets import load_dataset
from diffusion.data.prompts import prompts_file, read_prompts
from diffusion.evaluate import options as evaluate_options
from diffusion.matching.benchmarks import load_items
from diffusion.runs import naming, records
from diffusion.runs.records import load_record

ROOT = Path(__file__).parent.parent


Result = namedtuple("Result", "code out err error", defaults=[None])  # error: the InputError that ended it


def import_script(name: str):
    """A script as a module: "eval_prob_adaptive.py", "scripts/print_acc.py"."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call_main(folder: Path, script, *args) -> Result:
    """The main of a script (a name or a module), in this process; results in `folder`."""
    module = import_script(script) if isinstance(script, str) else script
    out, err = io.StringIO(), io.StringIO()
    refusals = []

    def main(argv: list[str]) -> int:
        try:
            return module.main(argv)
        except InputError as error:
            refusals.append(error)
            raise

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(naming, "LOG_DIR", folder)
        patch.setattr(sys, "argv", [module.__file__, *map(str, args)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
            evaluate_options.run(main)
    return Result(stop.value.code, out.getvalue(), err.getvalue(), *refusals)


class Parsed(BaseException):
    """Stops a script as soon as it has read its command line."""


def parse(words: list[str], monkeypatch) -> argparse.Namespace:
    """What a script's own parser makes of `words`, the script's path first."""
    parse_args = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        raise Parsed(parse_args(self, args, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", list(words))
    with warnings.catch_warnings(), pytest.raises(Parsed) as parsed:
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    return parsed.value.args[0]


SCRIPT = "eval_prob_adaptive.py"


PLAIN = {  # what a record holds beside tensors
    "index": int, "label": int, "pred": int, "nfe": int, "decided": bool, "margin": float, "losses": list,
    "run": str,
}  # fmt: skip


WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def subset(path: Path, *indices: int) -> list:
    np.save(path / "subset.npy", np.array(indices))
    return ["--subset_path", path / "subset.npy"]


def options(version, *, to_keep="3 1", n_samples="4 12") -> list:
    schedule = ["--to_keep", *to_keep.split(), "--n_samples", *n_samples.split()]
    return ["--dataset", "digits", "--version", version, "--device", "cpu", *schedule]


def folder_of(result) -> Path:
    """Where a run said that its results go."""
    assert result.code in (0, 1), result.err
    return Path(re.search(r"-> (.*)", result.out)[1])


def table_of(result) -> list[str]:
    """The lines at the end, without the hint of what may come next."""
    lines = result.out[result.out.index("\nimages ") :].splitlines()[1:]
    return [line for line in lines if not line.startswith("Next: ")]


def records_of(result) -> dict[int, dict]:
    others = ("run.json", "results.json", "failed", ".index")
    paths = sorted(p for p in folder_of(result).iterdir() if p.name not in others)
    return {int(path.stem): load_record(path) for path in paths}  # a stray file has no such name


def assert_same(these: dict[int, dict], those: dict[int, dict]) -> None:
    """The same records, bit by bit; they may be of runs with other options."""
    assert these.keys() == those.keys()
    for index, record in these.items():
        assert record.keys() == those[index].keys()
        for key in record.keys() - {"run"}:
            value, other = record[key], those[index][key]
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, (index, key)


def blocks(record: dict) -> list[np.ndarray]:
    """Per arm, its errors [points, losses]."""
    return [block.numpy() for block in record["errors"].split(record["counts"].tolist())]


def csv_of(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["prompt,classname,classidx", *rows]) + "\n")
    return path


def race_options(version, *more) -> list:
    return ["--dataset", "digits", "--version", version, "--device", "cpu", "--search", "race", *more]


def replayed(record: dict, points: tuple[list[int], list[int]], column: int, arm_class: np.ndarray, **how):
    """What a race does on the errors of a record of the full grid: (left, counts [arms], points)."""
    at = {level: k for k, level in enumerate(zip(record["levels"].tolist(), record["noise"].tolist(), strict=True))}
    order = [at[point] for point in zip(*points, strict=True)]
    levels = np.array(points[0])
    arms = np.stack(blocks(record))[:, order, column].astype(np.float64)
    errors = np.stack([arms[arm_class == k].mean(0) for k in range(arm_class.max() + 1)])
    size = np.bincount(arm_class)
    left, asked, nfe = play(race(levels, size, **how), errors, size)
    counts = [max(end for classes, end in asked if k in classes) for k in arm_class]
    return left, counts, nfe


def both(record: dict) -> tuple[list[tuple[int, int]], list[int]]:
    """Level and draw of each point, and its sign."""
    signs = record.get("signs", torch.ones(len(record["levels"]), dtype=torch.int8))
    return list(zip(record["levels"].tolist(), record["noise"].tolist(), strict=True)), signs.tolist()


def points_of(levels: np.ndarray, trials: int = 1, *, pairs: bool) -> tuple[list[int], list[int]]:
    """Levels of a race at these, and the draw of each: the place in the ascending grid, or that of its pair.

    The second of two trials comes after the first.
    """
    if not pairs:
        levels = np.repeat(levels, trials)
        order = np.argsort(levels, kind="stable")
        return levels.tolist(), np.argsort(order, kind="stable").tolist()
    both = [pair for pair in levels.reshape(-1, 2).tolist() for _ in range(trials)]
    ascending = sorted(range(len(both)), key=lambda k: both[k][0])
    draw = {k: place for place, k in enumerate(ascending)}
    return [level for pair in both for level in pair], [draw[k] for k in range(len(both)) for _ in range(2)]


def own_examples(folder: Path, n: int, *, captions_of: int = 0, **more) -> Path:
    """Photographs that are no squares, in the layout of commands.md; `more` goes into every line.

    Their captions are those of the examples that come `captions_of` later.
    """
    pairs = load_items("digits-pairs")
    folder.mkdir()
    lines = []
    for k in range(n):
        line = {"id": f"own {k}", "image_0": f"{k}a.png", "image_1": f"{k}b.png"} | more
        for side in (0, 1):
            pairs.open(k, side).resize((64, 48), Image.Resampling.BICUBIC).save(folder / line[f"image_{side}"])
            line[f"caption_{side}"] = pairs[k + captions_of].captions[side]
        lines.append(json.dumps(line))
    (folder / "examples.jsonl").write_text("\n".join(lines))
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_run(
    folder: Path, errors: np.ndarray, labels: list[int], *, words=("cat", "dog", "owl"), model="m", about=lambda k: {},
    **more,
) -> Path:  # fmt: skip
    """A finished run by hand: errors [images, classes, points] of every class at every point; `more` options."""
    n, K, P = errors.shape
    options = {"dataset": "pets", "data": f"{n} by hand", "split": "test", "version": model, "loss": "l2"}
    options |= more
    arms = [(f"a {word}", word, k) for k, word in enumerate(words)]
    records.open_run(folder, options, {"images": n, "arms": arms})
    for k, (of, label) in enumerate(zip(errors, labels, strict=True)):
        columns = torch.tensor(of.reshape(-1, 1), dtype=torch.float32).repeat(1, len(LOSSES))
        points = torch.arange(P)
        record = {
            "index": k, "label": label, "pred": int(of.mean(1).argmin()), "nfe": K * P, "losses": list(LOSSES),
            "levels": points, "noise": points.clone(), "counts": torch.full((K,), P), "errors": columns,
        }  # fmt: skip
        records.save_record(records.record_path(folder, n, k), record | about(k))
    return folder


def rewrite_run(folder: Path, run: dict) -> None:
    """Give a run another run.json, and make its records those of that run."""
    (folder / "run.json").write_text(json.dumps(run))
    stamp = records.fingerprint(run["options"])
    for path in folder.glob("*.pt"):
        records.save_record(path, load_record(path), stamp)


def clip_scores(name: str, images) -> np.ndarray:
    """Cosine similarities [images, prompts] by open_clip alone."""
    open_clip = pytest.importorskip("open_clip")
    folder = f"local-dir:{ROOT / 'models' / 'digits-clip'}"
    model, preprocess = open_clip.create_model_from_pretrained(folder)
    texts = open_clip.get_tokenizer(folder)(read_prompts(ROOT / "prompts" / prompts_file(name)).texts)
    data = load_dataset(name)
    with torch.no_grad():
        x = model.encode_image(torch.stack([preprocess(data.open(k)) for k in images]), normalize=True)
        return (x @ model.encode_text(texts, normalize=True).T).numpy()


def play(search, errors: np.ndarray, arms=None):
    """Answer a search from a matrix [classes, points] -> (left, [(classes, end)], NFE); arms [classes] of each."""
    asked, seen, nfe = [], np.zeros(len(errors), dtype=int), 0
    arms = np.ones(len(errors), dtype=int) if arms is None else np.array(arms)
    try:
        classes, end = next(search)
        while True:
            asked.append((classes.tolist(), int(end)))
            start, seen[classes] = seen[classes[0]], end
            nfe += arms[classes].sum() * (end - start)
            classes, end = search.send(errors[classes, start:end])
    except StopIteration as stop:
        return stop.value.tolist(), asked, int(nfe)


class Malicious:
    """Unpickled by the ordinary loader, it runs a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def answers(model) -> torch.Tensor:
    """What the whole of a model makes of two prompts and an image."""
    rows = model.conditions(["a photo of a red three.", "a photo of the number five."])
    x = model.encode(torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32))
    with torch.inference_mode():
        return torch.cat([model.denoise(x, model.process.time[[400]], rows[k]) for k in range(2)])


def refused(done, tmp_path, *says: str) -> None:
    assert done.code == 2 and done.err.count("\n") == 1 and "Traceback" not in done.err, done
    assert all(word in done.err for word in says), done.err
    assert not (tmp_path / "data").exists()


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "teal").save(path)


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


def write_small_run(folder: Path, change: dict, record: dict) -> None:
    """A run of one image and two classes by hand, with changes of its run.json (...: left out) and of its records."""
    folder.mkdir(parents=True)
    run = {key: value for key, value in (BASE | change).items() if value is not ...}
    beside = {"images", "arms", "examples", "items", "chosen", "lacking", "all_arms", "indices"} & run.keys()
    about = {key: run.pop(key) for key in beside}
    (folder / "run.json").write_text(json.dumps({"options": run} | about))
    tensors = {"levels": torch.arange(2), "noise": torch.zeros(2, dtype=torch.int64), "counts": torch.tensor([2, 2])}
    for index in range(1 + ("examples" in beside)):
        plain = {"index": index, "label": 0, "pred": 0, "nfe": 4, "losses": ["l2", "l1", "huber"]}
        torch.save(plain | tensors | {"errors": torch.arange(12.0).reshape(4, 3)} | record, folder / f"{index}.pt")
