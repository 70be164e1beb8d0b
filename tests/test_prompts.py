import csv
import json
import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from diffusion import InputError
from diffusion.data import catalogue, digits
from diffusion.data.prompts import prompts_file

ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "write_prompts.py"))
PROMPTS = ROOT / "prompts"
COUNTS = {
    "pets": 37,
    "stl10": 10,
    "flowers": 102,
    "mnist": 10,
    "cifar10": 10,
    "cifar100": 100,
    "food": 101,
    "caltech101": 101,
    "eurosat": 10,
    "imagenet": 1000,
    "imagenetA": 200,
    "aircraft": 100,
    "fashion-mnist": 10,
    "digits": 10,
    "digits-colour": 60,
    "digits-two": 3600,
    "sixteen": 16,
}
NEEDS = {
    "clip_benchmark": ["flowers", "mnist", "eurosat", "caltech101", "pets"],
    "mmpretrain": ["cifar10", "cifar100", "food", "aircraft", "pets"],
    "open_clip": ["imagenet", "imagenetA"],
    "timm": ["imagenetA"],
}


def need(package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def committed(dataset: str) -> list[dict[str, str]]:
    with (PROMPTS / prompts_file(dataset)).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def classnames(dataset: str) -> list[str]:
    return [row["classname"] for row in committed(dataset)]


def run(*argv, script="write_prompts.py", **env) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})


def test_every_csv_is_known():
    assert {p.name for p in (ROOT / "prompts").glob("*.csv")} == {prompts_file(d) for d in COUNTS}


@pytest.mark.parametrize("dataset", COUNTS)
def test_committed_csv_is_what_the_script_writes(dataset, tmp_path):
    for package, datasets in NEEDS.items():
        if dataset in datasets:
            need(package)
    SCRIPT["write"](tmp_path / "new.csv", SCRIPT["prompts"](dataset))
    assert (tmp_path / "new.csv").read_bytes() == (PROMPTS / prompts_file(dataset)).read_bytes()


@pytest.mark.parametrize("dataset", COUNTS)
def test_counts_ids_and_distinct_prompts(dataset):
    rows = committed(dataset)
    ids = [int(row["classidx"]) for row in rows]
    assert list(rows[0]) == ["prompt", "classname", "classidx"]
    assert len(rows) == COUNTS[dataset]
    if dataset == "imagenetA":
        assert ids == sorted(set(ids)) and ids[0] >= 0 and ids[-1] < 1000
        names = classnames("imagenet")
        assert classnames(dataset) == [names[i] for i in ids]
    else:
        assert ids == list(range(len(rows)))
    prompts = [row["prompt"] for row in rows]
    twice = sorted({row["classname"] for row in rows if prompts.count(row["prompt"]) > 1})
    assert twice == (["missile", "sunglasses"] if dataset == "imagenet" else [])
    assert len(prompts) - len(set(prompts)) == len(twice)
    assert not any("_" in p or "  " in p or "{" in p for p in prompts)


@pytest.mark.parametrize(
    "dataset, line",
    [
        ("pets", '"a photo of a Abyssinian cat, a type of pet.",Abyssinian,0'),
        ("pets", '"a photo of a American Bulldog, a type of pet.",American Bulldog,1'),
        ("pets", '"a photo of a Yorkshire Terrier dog, a type of pet.",Yorkshire Terrier,36'),
        ("flowers", '"a photo of a pink primrose, a type of flower.",pink primrose,0'),
        ("food", '"a photo of apple pie, a type of food.",apple pie,0'),
        ("aircraft", '"a photo of a 707-320, a type of aircraft.",707-320,0'),
        ("cifar10", "a blurry photo of a airplane.,airplane,0"),
        ("cifar100", "a blurry photo of a aquarium fish.,aquarium fish,1"),
        ("mnist", "a photo of the number: '3'.,3,3"),
        ("imagenet", "a photo of a tench.,tench,0"),
        ("imagenetA", "a photo of a stingray.,stingray,6"),
        ("digits", "a photo of the number three.,three,3"),
        ("digits-colour", "a photo of a red three.,red three,3"),
        ("digits-two", "a photo of a red three to the left of a blue seven.,red three to the left of a blue seven,207"),
    ],
)
def test_golden_lines(dataset, line):
    assert line in (PROMPTS / prompts_file(dataset)).read_text().split("\n")


def test_digits_are_prompted_as_they_were_trained():
    assert [row["prompt"] for row in committed("digits")] == [digits.caption_one(d) for d in range(10)]
    colour = [digits.caption_one(d, c) for c in range(6) for d in range(10)]
    assert [row["prompt"] for row in committed("digits-colour")] == colour
    one = [(c, d) for c in range(6) for d in range(10)]
    two = [digits.caption_two(left, right) for left in one for right in one]
    assert [row["prompt"] for row in committed("digits-two")] == two


def test_order_is_that_of_torchvisions_labels():
    from torchvision.datasets import MNIST, FashionMNIST, Flowers102
    from torchvision.models import ResNet50_Weights

    assert classnames("fashion-mnist") == FashionMNIST.classes
    assert classnames("mnist") == [name[0] for name in MNIST.classes]
    flowers = [name.replace("-", " ") for name in classnames("flowers")]
    other = [name for name, ours in zip(Flowers102.classes, flowers, strict=True) if name.replace("-", " ") != ours]
    assert other == ["pink-yellow dahlia?", "ball moss"]  # the same flowers by another name
    categories = ResNet50_Weights.IMAGENET1K_V2.meta["categories"]
    same = sum(a.lower() == b.lower() for a, b in zip(categories, classnames("imagenet"), strict=True))
    assert same > 500  # torchvision shortens many names otherwise; a shifted list would share almost none


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_order_is_that_of_the_sorted_names(dataset):
    assert classnames(dataset) == sorted(classnames(dataset))


def test_food_is_sorted_by_raw_name_as_torchvision_does():
    raw = [name.replace(" ", "_") for name in classnames("food")]
    assert raw == sorted(raw) and raw.index("cheese_plate") < raw.index("cheesecake")


def test_caltech101_follows_its_sorted_folders():
    need("mmpretrain")
    folders = sorted(SCRIPT["mmpretrain"]("CALTECH101"))
    folders.remove("BACKGROUND_Google")
    names = classnames("caltech101")
    plain = [folder.replace("_", " ").lower().rstrip("s") for folder in folders]
    assert [name for name, folder in zip(names, plain, strict=True) if name.rstrip("s") != folder] == [
        "off-center face",
        "centered face",
        "side of a car",
        "body of a cougar cat",
        "face of a cougar cat",
        "head of a crocodile",
        "head of a flamingo",
        "snoopy (cartoon beagle)",
        "yin and yang symbol",
    ]


def test_data_sets_that_share_prompts_share_a_file():
    assert prompts_file("imagenetv2") == "imagenet_prompts.csv"
    assert prompts_file("digits-unseen") == "digits_colour_prompts.csv"


def test_template_is_filled_or_refused():
    prompts = SCRIPT["prompts"]
    assert prompts("digits", ["{x} a {}!"])[2] == ("{x} a two!", "two", 2)
    with pytest.raises(InputError) as refused:
        prompts("digits", ["a photo."])
    assert refused.value.where == "--template 'a photo.'"


def test_names_read_from_the_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "DATASET_ROOT", tmp_path)
    mappings = tmp_path / "objectnet-1.0" / "mappings"
    mappings.mkdir(parents=True)
    label = {"zebra_mug": "Mug", "a_chair": "Chair", "ball": "Ball"}  # sorted by folder, not by label
    (mappings / "folder_to_objectnet_label.json").write_text(json.dumps(label))
    (mappings / "objectnet_to_imagenet_1k.json").write_text(json.dumps({"Mug": "coffee mug", "Chair": "folding chair"}))
    assert SCRIPT["prompts"]("objectnet") == [("a photo of a chair.", "chair", 0), ("a photo of a mug.", "mug", 1)]


def test_a_missing_library_is_named_with_its_pip_command():
    with pytest.raises(InputError, match="pip install --no-deps some-thing==1"):
        SCRIPT["library_file"]("no_such_package", "some-thing==1", "names.json")


def test_the_published_cifar10_script(tmp_path):
    need("mmpretrain")
    done = run("--out", tmp_path / "c.csv", script="write_cifar10_prompts.py")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'c.csv'}: 10 prompts\n")
    assert (tmp_path / "c.csv").read_bytes() == (PROMPTS / prompts_file("cifar10")).read_bytes()
