"""The examples of docs/architecture.md, run as they stand there."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT, call_main
from PIL import Image

import eval_prob_adaptive
from diffusion import classify, load_model, paths
from diffusion.core import losses
from diffusion.core.search import replay
from diffusion.data import catalogue, datasets
from diffusion.data.datasets import load_dataset
from diffusion.evaluate import options
from diffusion.models.families import FAMILIES
from diffusion.runs import records

EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/architecture.md").read_text(), re.M | re.S)


def example(*words: str) -> dict:
    """What the one example that holds these words defines."""
    (code,) = [code for code in EXAMPLES if all(word in code for word in words)]
    names = {"__name__": "example"}
    exec(compile(code, "docs/architecture.md", "exec"), names)
    return names


def test_a_family(tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, "StableDiffusionImg2ImgPipeline", None)  # is put back afterwards
    shutil.copytree(ROOT / "models/digits-sd", tmp_path / "model")
    index = json.loads((tmp_path / "model/model_index.json").read_text())
    index["_class_name"] = "StableDiffusionImg2ImgPipeline"
    (tmp_path / "model/model_index.json").write_text(json.dumps(index))
    example("FAMILIES")  # in the table of the package
    ours, known = load_model(str(tmp_path / "model")), load_model("digits")
    z, time = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 700])
    prompts = ["a photo of the number three.", "a photo of the number five."]
    with torch.inference_mode():
        assert torch.equal(*(m.denoise(z, time, m.conditions(prompts)) for m in (ours, known)))


def test_a_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "TABLE", dict(datasets.TABLE))
    example("TABLE")
    folder = tmp_path / "dtd/dtd/dtd"
    for name, colour in [("banded", "red"), ("dotted", "blue")]:
        (folder / "images" / name).mkdir(parents=True)
        Image.new("RGB", (9, 7), colour).save(folder / "images" / name / f"{name}_0001.jpg")
    (folder / "labels").mkdir()
    (folder / "labels/test1.txt").write_text("banded/banded_0001.jpg\ndotted/dotted_0001.jpg\n")
    found = load_dataset("dtd", "test", tmp_path)
    assert (found.labels, found.classes) == ([0, 1], ["banded", "dotted"])
    assert found.open(1).size == (9, 7) and found.open(1).getpixel((4, 3))[2] > 200


def test_a_search():
    best_two = example("best_two")["best_two"]
    rng = np.random.default_rng(0)
    errors = rng.normal([[3.0], [1.0], [1.5], [4.0]], 0.1, (4, 10))
    assert replay(best_two(4, 5), errors, np.ones(4, dtype=int)) == (1, 4 * 5 + 2 * 5)
    swapped = errors.copy()
    swapped[1, 5:] += 2  # the first look's best is worse later
    assert replay(best_two(4, 5), swapped, np.ones(4, dtype=int))[0] == 2


def test_a_script(tmp_path, capsys):
    options = {"dataset": "digits", "split": "test", "loss": "l2"}
    records.open_run(tmp_path, options, {"images": 3, "arms": [("a zero", "zero", 0), ("a one", "one", 1)]})
    for k, points in enumerate([2, 5, 9]):
        errors = torch.rand(2, points, generator=torch.Generator().manual_seed(k)).flatten()[:, None]
        counts, place = torch.full((2,), points), torch.arange(points)
        measured = {"losses": ["l2"], "levels": place, "noise": place, "counts": counts, "errors": errors}
        record = {"index": k, "label": 0, "pred": 0, "nfe": 2 * points} | measured
        records.save_record(records.record_path(tmp_path, 3, k), record)
    assert example("answered_early")["main"]([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "median NFE 10\n"


# ---- from a user's file, through the scripts ----


def written(tmp_path, *words: str) -> Path:
    """The example that holds these words, as a file of the user's."""
    (code,) = [code for code in EXAMPLES if all(word in code for word in words)]
    path = tmp_path / "mine.py"
    path.write_text(code)
    return path


def python(*words, folder: Path) -> None:
    """In a process of its own."""
    there = {"PYTHONPATH": str(ROOT), "LOG_DIR": str(folder / "data"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | there)
    assert done.returncode == 0, done.stderr


def main_of(path: Path) -> SimpleNamespace:
    """A file of the user's as a script that `run_main` runs."""
    return SimpleNamespace(__file__=str(path), main=lambda _: runpy.run_path(str(path), run_name="__main__"))


def read_by_scripts(folder: Path, tmp_path: Path) -> None:
    """print_acc, export, compare, calibrate and report."""
    other = shutil.copytree(folder, tmp_path / "other" / folder.name)
    words = {
        "print_acc": [folder, "--top", 2],
        "export": [folder, "--scores", "--out", tmp_path / "out.csv"],
        "compare": [folder, other],
        "calibrate": [folder, "--fit", 0.5],
        "report": [folder, "--out", tmp_path / "out.html"],
    }
    for name, args in words.items():
        done = call_main(tmp_path / "data", f"scripts/{name}.py", *args)
        assert done.code == 0, (name, done)
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + len(list(folder.glob("*.pt")))


@pytest.fixture
def few(tmp_path):
    np.save(tmp_path / "few.npy", np.arange(0, 400, 100))
    return ["--version", "digits", "--dataset", "digits", "--device", "cpu", "--subset_path", tmp_path / "few.npy"]


def test_a_search_from_a_file_to_a_report(run_main, tmp_path, monkeypatch, few):
    monkeypatch.setattr(eval_prob_adaptive, "schedule_of", None)  # is put back afterwards
    done = run_main(main_of(written(tmp_path, "best_two")), *few)
    assert done.code == 0, done.err
    (path,) = tmp_path.glob("data/*/*/run.json")
    told = json.loads(path.read_text())["options"]
    assert told["search"] == "best-two-10" and "best-two-10" in path.parent.name and told["levels"] == "0.2-0.8"
    wanted = records.expected(records.read_run(path.parent))
    for each in path.parent.glob("*.pt"):
        record = records.load_record(each, wanted)
        assert record["nfe"] == 10 * 12 and sorted(record["counts"].tolist()) == [10] * 8 + [20] * 2
    report = run_main("scripts/report.py", path.parent, "--out", tmp_path / "out.html")
    assert report.code == 0 and "best-two-10" in (tmp_path / "out.html").read_text(), report.err


@pytest.mark.slow
def test_a_loss_from_a_file_to_a_report(tmp_path, few):
    script = ROOT / "eval_prob_adaptive.py"
    mine = written(tmp_path, "logcosh")
    python(mine, script, *few, "--loss", "logcosh", "--to_keep", 1, "--n_samples", 8, folder=tmp_path)
    (path,) = tmp_path.glob("data/*/*/run.json")
    assert json.loads(path.read_text())["options"]["loss"] == "logcosh" and "logcosh" in path.parent.name
    wanted = records.expected(records.read_run(path.parent))
    for each in path.parent.glob("*.pt"):
        record = records.load_record(each, wanted)
        l2, l1, huber, logcosh = record["errors"].T
        assert record["losses"] == ["l2", "l1", "huber", "logcosh"]
        # log cosh d lies between d^2 / 2 - d^4 / 12 and the least of d^2 / 2 and |d|, as Huber's does
        assert (logcosh < l2 / 2).all() and (logcosh < l1).all() and (logcosh > 0.5 * huber).all()
        means = logcosh.view(10, 8).mean(1)
        assert record["pred"] == int(means.argmin())
    read_by_scripts(path.parent, tmp_path)
    python(mine, ROOT / "scripts/print_acc.py", path.parent, "--loss", "logcosh", folder=tmp_path)


def test_a_data_set_from_a_file_to_a_report(run_main, tmp_path, monkeypatch):
    """With its csv of prompts in the working folder; scripts that open its images run through the file."""
    monkeypatch.setitem(datasets.TABLE, "dtd", None)  # is put back afterwards
    monkeypatch.setattr(catalogue, "DATASET_ROOT", tmp_path / "root")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "root/dtd/dtd/dtd"
    listed = []
    for name, colour in [("banded", "red"), ("dotted", "blue")]:
        (folder / "images" / name).mkdir(parents=True)
        for k in range(2):
            listed.append(f"{name}/{name}_{k}.jpg")
            Image.new("RGB", (40, 40), colour).save(folder / "images" / listed[-1])
    (folder / "labels").mkdir()
    (folder / "labels/test1.txt").write_text("\n".join(listed))
    (tmp_path / "prompts").mkdir()
    texts = ["a photo of the number three.", "a photo of the number five."]
    rows = ["prompt,classname,classidx", f"{texts[0]},banded,0", f"{texts[1]},dotted,1"]
    (tmp_path / "prompts/dtd_prompts.csv").write_text("\n".join(rows))
    mine = main_of(written(tmp_path, "TABLE"))
    words = ["--version", "digits", "--dataset", "dtd", "--device", "cpu", "--max_samples", 8]
    done = run_main(mine, ROOT / "eval_prob_adaptive.py", *words)
    assert done.code == 0, done.err
    (path,) = tmp_path.glob("data/dtd/*/run.json")
    assert [text for text, *_ in json.loads(path.read_text())["arms"]] == texts
    assert len(list(path.parent.glob("*.pt"))) == 4
    report = run_main(mine, ROOT / "scripts/report.py", path.parent, "--out", tmp_path / "report.html")
    assert report.code == 0 and "data:image" in (tmp_path / "report.html").read_text(), report.err


# ---- from Python ----


@pytest.fixture
def no_loss_is_left(monkeypatch):
    """Losses that a test adds are gone after it."""
    names, functions = list(losses.LOSSES), dict(losses.LOSS_OF)
    yield
    losses.LOSSES[:] = names
    losses.LOSS_OF.clear()
    losses.LOSS_OF.update(functions)


def test_a_loss_that_is_added_late_is_there(no_loss_is_left):
    """Everything has been imported long before; twice the square is twice l2, to the bit, and so are its scores."""
    losses.add_loss("twice", lambda prediction, target: 2 * (prediction - target) ** 2)
    model, image = load_model("digits"), load_dataset("digits").open(3)
    prompts = [f"a photo of the number {word}." for word in ("three", "five", "eight")]
    plain, twice = (classify(model, image, prompts, loss=name, max_samples=8) for name in ("l2", "twice"))
    assert twice.errors.tolist() == (2 * plain.errors).tolist() and twice.scores.tolist() == (2 * plain.scores).tolist()
    for name in ("twice", "l2", "vb", "cosine", "a b", "..", "-x", ""):
        with pytest.raises(ValueError):
            losses.add_loss(name, lambda prediction, target: prediction)
    with pytest.raises(ValueError, match=r"\[\] for \[2, 3, 4, 5\]"):
        losses.add_loss("mean", lambda prediction, target: (prediction - target).mean())
    parsed = eval_prob_adaptive.parser().parse_args(["--loss", "twice"])
    assert parsed.loss == "twice"


@pytest.mark.parametrize("words", [[], ["eval.py"], ["scripts/nothing.py"]])
def test_a_script_that_is_none(monkeypatch, capsys, words):
    """One line with names that work here, also where pip has installed this: these are names of files."""
    monkeypatch.setattr(paths, "INSTALLED", True)
    monkeypatch.setattr(sys, "argv", ["mine.py", *words])
    with pytest.raises(SystemExit) as stop:
        options.run_script()
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1
    assert "eval_prob_adaptive.py" in err and "scripts/report.py" in err
