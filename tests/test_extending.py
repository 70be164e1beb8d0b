"""The examples of docs/architecture.md, run as they stand there."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffusion import datasets, load_model, records
from diffusion.adapters import ADAPTERS
from diffusion.datasets import load_dataset
from diffusion.search import replay

ROOT = Path(__file__).parent.parent
EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/architecture.md").read_text(), re.M | re.S)


def example(*words: str) -> dict:
    """What the one example that holds these words defines."""
    (code,) = [code for code in EXAMPLES if all(word in code for word in words)]
    names = {"__name__": "example"}
    exec(compile(code, "docs/architecture.md", "exec"), names)
    return names


def test_a_family(tmp_path, monkeypatch):
    monkeypatch.setitem(ADAPTERS, "StableDiffusionImg2ImgPipeline", None)  # is put back afterwards
    shutil.copytree(ROOT / "models/digits-sd", tmp_path / "model")
    index = json.loads((tmp_path / "model/model_index.json").read_text())
    index["_class_name"] = "StableDiffusionImg2ImgPipeline"
    (tmp_path / "model/model_index.json").write_text(json.dumps(index))
    example("ADAPTERS")  # in the table of the package
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
