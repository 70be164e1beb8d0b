"""Own images as people have them: without labels, in folders of any depth, in tables of any kind."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image

from diffusion import InputError, InputWarning
from diffusion.data.classnames import misspelt, one_edit_apart
from diffusion.data.dataset import fingerprint
from diffusion.data.datasets import load_dataset
from diffusion.data.images import crop
from diffusion.data.prompts import prompts_for
from diffusion.runs import results, show
from diffusion.runs.records import load_record

SIZES = {"a": (8, 9), "b": (9, 8)}  # of the images of a class


def image(path, size=(8, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)


def classes(folder, *, names=("a", "b"), n=2):
    for name in names:
        for k in range(n):
            image(folder / name / f"{k}.png", SIZES[name])
    return folder


def test_what_is_left_behind_is_no_class(tmp_path):
    classes(tmp_path)
    for name in ("__MACOSX", "@eaDir", ".ipynb_checkpoints", "$RECYCLE.BIN"):
        image(tmp_path / name / "0.png")
    image(tmp_path / "a" / "@eaDir" / "0.png")
    image(tmp_path / "a" / "._0.png")
    (tmp_path / "Thumbs.db").write_text("")
    data = load_dataset(str(tmp_path))
    assert (data.classes, data.labels, data.files) == (
        ["a", "b"],
        [0, 0, 1, 1],
        ["a/0.png", "a/1.png", "b/0.png", "b/1.png"],
    )


def test_nested_folders_and_suffixes_that_pillow_reads(tmp_path):
    for file in ("a/x/y/0.webp", "a/1.TIFF", "b/0.gif", "b/z/1.bmp", "b/2.jp2"):
        image(tmp_path / file)
    (tmp_path / "b/notes.txt").write_text("no image")
    data = load_dataset(str(tmp_path))
    assert sorted(data.files) == ["a/1.TIFF", "a/x/y/0.webp", "b/0.gif", "b/2.jp2", "b/z/1.bmp"]
    assert all(data.open(k).size == (8, 9) for k in range(5))


@pytest.mark.parametrize("train, val", [("Train", "valid"), ("training", "Validation"), ("train", "dev")])
def test_split_folders_by_any_name_beside_files(tmp_path, train, val):
    classes(tmp_path / train)
    classes(tmp_path / val, n=1)
    (tmp_path / "README.txt").write_text("")
    assert len(load_dataset(str(tmp_path), "val")) == 2 and len(load_dataset(str(tmp_path), "train")) == 4


def test_an_archive_with_one_folder_more(tmp_path):
    classes(tmp_path / "birds-master" / "images")
    assert load_dataset(str(tmp_path)).classes == ["a", "b"]


def test_a_class_without_images_is_named_and_left_out(tmp_path):
    classes(tmp_path)
    (tmp_path / "aa").mkdir()
    with pytest.warns(InputWarning, match="no classes: aa"):
        assert load_dataset(str(tmp_path)).classes == ["a", "b"]


def test_images_beside_class_folders_are_named(tmp_path):
    image(classes(tmp_path) / "stray.png")
    with pytest.warns(InputWarning, match=r"stray\.png"):
        assert len(load_dataset(str(tmp_path))) == 4


@pytest.mark.parametrize("given", ["folder", "image", "csv"])
def test_images_without_labels(tmp_path, given):
    image(tmp_path / "folder/0.png")
    (tmp_path / "t.csv").write_text("path\nfolder/0.png\n")
    name = {"folder": tmp_path / "folder", "image": tmp_path / "folder/0.png", "csv": tmp_path / "t.csv"}[given]
    data = load_dataset(str(name))
    assert not data.labelled and len(data) == 1 and data.open(0).size == (8, 9)
    assert prompts_for(data.name, data.labels, data.classes, texts=["a cat", "a dog"]).classes == [0, 1]


TABLES = {
    "semicolons.csv": "path;label\na/0.png;cat\nb/0.png;dog\n",
    "tabs.csv": "path\tlabel\na/0.png\tcat\nb/0.png\tdog\n",
    "blanks.csv": "path, label\na/0.png, cat\nb/0.png, dog\n",
    "excel.CSV": "\ufeffPath;Label\r\na/0.png;cat\r\nb/0.png;dog\r\n",
    "tabs.TSV": "path\tlabel\na/0.png\tcat\nb/0.png\tdog\n",
    "windows.csv": "path,label\na\\0.png,cat\nb\\0.png,dog\n",
    "lines.jsonl": '{"path": "a/0.png", "label": "cat"}\n{"path": "b/0.png", "label": "dog"}\n',
    "mark.JSONL": '\ufeff{"path": "a/0.png", "label": "cat"}\n{"path": "b/0.png", "label": "dog"}\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path, name):
    classes(tmp_path)
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8", newline="")
    data = load_dataset(str(tmp_path / name))
    assert (data.labels, data.classes) == ([0, 1], ["cat", "dog"])
    assert [data.open(k).size for k in (0, 1)] == [SIZES["a"], SIZES["b"]]


def test_a_narrow_image_costs_one_image():
    with pytest.raises(OSError, match="4x4000 pixels is too narrow"):
        crop(Image.new("RGB", (4, 4000)), 512, "bicubic")
    assert crop(Image.new("RGB", (40, 400)), 32, "bicubic").shape == (3, 32, 32)


def test_the_same_data_under_another_name_is_the_same_run(tmp_path):
    """By another path, or moved; but not other files or labels."""
    first = load_dataset(str(classes(tmp_path / "mine")))
    moved = load_dataset(f"{classes(tmp_path / 'elsewhere/mine')}/")
    assert (first.name, first.fingerprint) == (moved.name, moved.fingerprint)
    image(tmp_path / "elsewhere/mine/a/2.png")
    assert load_dataset(str(tmp_path / "elsewhere/mine")).fingerprint != first.fingerprint


def test_by_the_script(run_main, tmp_path, model_folder, capsys):
    """Images without labels: a table of predictions, and records that name their files."""
    data = load_dataset("digits")
    for k in (0, 1, 3):
        (tmp_path / "mine").mkdir(exist_ok=True)
        data.open(k).save(tmp_path / "mine" / f"{k}.png")
    args = ["eval_prob_adaptive.py", "--version", model_folder, "--device", "cpu", "--max_samples", "20"]
    texts = ["--prompts", "a photo of the number three.", "a photo of the number five."]
    done = run_main(*args, "--dataset", tmp_path / "mine", *texts)
    assert done.code == 0, done.err
    assert "predictions only" in done.out and "accuracy" not in done.out and "using --search race" in done.out
    (path,) = (tmp_path / "data" / "mine").glob("*/1.pt")
    last = done.out.splitlines()[-1]
    assert last.startswith(f"Next: {path.parent / 'results.json'} ") and "--template" not in last
    record = load_record(path)
    assert (record["file"], record["label"]) == ("1.png", -1) and record["pred"] in (0, 1)
    assert all(f"{k}.png" in done.out for k in (0, 1, 3))
    for most, says in [(3, ""), (2, "and 1 more: ")]:  # image 3 is not done
        show.print_predictions(results.read(path.parent), [0, 1, 2, 3], most)
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith(says or "3.png")
    one = run_main(*args, "--dataset", tmp_path / "mine" / "3.png", *texts, "--picture", tmp_path / "bars.png")
    with Image.open(tmp_path / "bars.png") as drawn:
        assert drawn.width > 500 and str(tmp_path / "bars.png") in one.out
    lines = [line for line in one.out.splitlines() if line.startswith("3.png")]
    assert len(lines) == 2 and "the best" in lines[0] and "+" in lines[1]
    other = run_main(*args, "--dataset", tmp_path / "mine" / "3.png", *texts, "a photo of the number four.")
    assert other.code == 0, "other words are another run"
    refused = run_main("scripts/calibrate.py", path.parent)
    assert refused.code == 2 and "image 0: it has no label" in refused.error.problem
    assert bool(record["errors"].isfinite().all())


def test_class_ids_of_images_without_labels(run_main, tmp_path, dit_folder):
    """By a model that is told class ids: the errors are those of the same images with labels; so are the answers.

    Results that lie in the folder of the images are no class of them.
    """
    data, mine = load_dataset("digits"), tmp_path / "mine"
    (mine / "data").mkdir(parents=True)
    for k in range(3):
        data.open(k).save(mine / f"{k}.png")
    args = ["eval_prob_dit.py", "--version", dit_folder, "--device", "cpu"]
    race = [*args, "--search", "race", "--max_samples", "20", "--randomize_noise", "--imgs_to_eval", "3"]
    done, labelled = run_main(*race, "--dataset", mine), run_main(*race, "--dataset", "digits")
    assert done.code == labelled.code == 0 and "predictions only" in done.out, done.err
    for k in range(3):
        ours, theirs = (
            load_record(next((tmp_path / "data" / name).glob(f"*/test/*{k}.pt"))) for name in ("mine", "digits")
        )
        assert torch.equal(ours["errors"], theirs["errors"]) and ours["pred"] == theirs["pred"]
        assert ours["label"] == -1 and ours["file"] == f"{k}.png" and f"{k}.png" in done.out
    part = run_main(*args, "--dataset", mine, "--cls", "0-1", "--t_interval", "100")
    assert part.code == 0 and "predictions only" in part.out, part.err


def test_images_beside_one_folder_have_no_labels(tmp_path):
    """One folder is no choice of classes; two are, and the images beside them are left out."""
    image(tmp_path / "0.png")
    image(tmp_path / "more/1.png")
    data = load_dataset(str(tmp_path))
    assert not data.labelled and sorted(data.files) == ["0.png", "more/1.png"]
    image(tmp_path / "others/2.png")
    with pytest.warns(InputWarning, match="beside class folders are left out, 1 of them such as 0.png"):
        assert load_dataset(str(tmp_path)).files == ["more/1.png", "others/2.png"]


def test_what_classes_lack_is_said(tmp_path):
    """A csv of other data is warned of, a class without a prompt named."""
    csv = tmp_path / "p.csv"
    csv.write_text("prompt,classname,classidx\nan a,airplane,0\na b,bird,1\n")
    with pytest.warns(InputWarning, match="none of its classnames is a class of mine: 'airplane' is taken for 'a'"):
        prompts_for("mine", [0, 1], ["a", "b"], csv)
    with pytest.raises(InputError, match=r"no class 2 \(c\) there, which"):
        prompts_for("mine", [0, 2], ["airplane", "bird", "c"], csv)


# ---- layouts ----


@pytest.mark.parametrize(
    "names",
    [
        ("train", "test"),
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("TrainImages", "TestImages"),
        ("train2017", "test2017"),
        ("birds_train", "birds_test"),
    ],
)
def test_folders_of_splits_are_never_classes(tmp_path, names):
    """Whatever lies beside them: a copy of the whole, folders without images, folders with images."""
    for name, n in zip(names, (2, 1), strict=True):
        classes(tmp_path / name / name, n=n)
        classes(tmp_path / "copy" / name, n=n)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/a.json").write_text("{}")
    for split, n in (("train", 4), ("test", 2)):
        with pytest.warns(InputWarning, match="left out: copy"):
            data = load_dataset(str(tmp_path), split)
        assert (data.classes, len(data)) == (["a", "b"], n)


def test_one_folder_of_a_split_beside_files_of_others(tmp_path):
    classes(tmp_path / "train")
    (tmp_path / "annotations").mkdir()
    assert load_dataset(str(tmp_path), "train").classes == ["a", "b"]


def test_a_class_called_train(tmp_path):
    for name in ("bus", "train", "car"):
        image(tmp_path / name / "0.png")
    assert load_dataset(str(tmp_path)).classes == ["bus", "car", "train"]


def test_splits_inside_the_folders_of_classes(tmp_path):
    """CLASS/train/..., CLASS/test/...: --split takes one of them."""
    for name in ("a", "b"):
        image(tmp_path / name / "train/0.png")
        image(tmp_path / name / "train/1.png")
        image(tmp_path / name / "test/good/2.png")
    assert load_dataset(str(tmp_path)).files == ["a/test/good/2.png", "b/test/good/2.png"]
    assert load_dataset(str(tmp_path), "train").labels == [0, 0, 1, 1]
    with pytest.raises(InputError, match="no split 'val'"):
        load_dataset(str(tmp_path), "val")


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    from torchvision.datasets import ImageFolder

    classes(tmp_path / "disk2", n=3)
    classes(tmp_path / "mine", n=1)
    for name in ("a", "b"):
        (tmp_path / "mine" / name / "more").symlink_to(tmp_path / "disk2" / name)
    data = load_dataset(str(tmp_path / "mine"))
    theirs = ImageFolder(tmp_path / "mine").samples
    assert sorted(zip(data.files, data.labels, strict=True)) == sorted(
        (path.removeprefix(f"{tmp_path / 'mine'}/"), label) for path, label in theirs
    )
    (tmp_path / "mine/a/up").symlink_to(tmp_path / "mine")
    (tmp_path / "mine/b/here").symlink_to(tmp_path / "mine/b")
    (tmp_path / "disk2/a/back").symlink_to(tmp_path / "disk2")
    assert load_dataset(str(tmp_path / "mine")).files == data.files


def test_files_that_are_no_images_here_are_counted(tmp_path):
    classes(tmp_path)
    for name in ("a/x.heic", "b/y.HEIC", "a/z.dcm", "a/no-suffix"):
        (tmp_path / name).write_bytes(b"\0")
    for name in ("a/notes.txt", "labels.csv", "a/x.json", "b/run.yaml"):
        (tmp_path / name).write_text("")
    with pytest.warns(InputWarning, match=r"\.heic \(2\).*") as warned:
        data = load_dataset(str(tmp_path))
    (text,) = [str(each.message) for each in warned]
    assert len(data) == 4 and ".dcm (1)" in text and "no suffix (1)" in text and ".txt" not in text


def test_numbers_as_names(tmp_path):
    """They are the class ids, in their order."""
    for name in ("10", "2", "01"):
        image(tmp_path / name / "0.png")
    data = load_dataset(str(tmp_path))
    assert (data.labels, data.classes, data.files) == ([1, 2, 10], [], ["01/0.png", "2/0.png", "10/0.png"])


# ---- tables ----


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_column_split(tmp_path, kind):
    """It is read by --split; class ids are those of the whole table."""
    for k in range(4):
        image(tmp_path / f"{k}.png")
    rows = [("0.png", "cat", "train"), ("1.png", "dog", "Test"), ("2.png", "eel", "train"), ("3.png", "cat", "valid")]
    path = tmp_path / f"t.{kind}"
    if kind == "csv":
        path.write_text("path,label,split\n" + "".join(",".join(row) + "\n" for row in rows))
    else:
        keys = ("path", "label", "split")
        path.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows))
    found = {split: load_dataset(str(path), split) for split in ("train", "val", "test")}
    assert {split: (data.labels, data.files) for split, data in found.items()} == {
        "train": ([0, 2], ["0.png", "2.png"]),
        "val": ([0], ["3.png"]),
        "test": ([1], ["1.png"]),
    }
    assert all(data.classes == ["cat", "dog", "eel"] for data in found.values())
    with pytest.raises(InputError, match="no split 'trainval'"):
        load_dataset(str(path), "trainval")


# ---- the hub's library ----


def hub_rows(hub, **columns):
    images = [Image.new("RGB", (4, 4), (30 * k, 0, 0)) for k in range(2)]
    features = {"image": hub.Image(), "label": columns.pop("feature", hub.ClassLabel(names=["cat", "dog"]))}
    return hub.Dataset.from_dict({"image": images, **columns}, hub.Features(features))


def test_saved_to_disk(hub, tmp_path):
    rows = hub_rows(hub, label=[1, 0])
    rows.save_to_disk(str(tmp_path / "one"))
    data = load_dataset(f"hf:{tmp_path / 'one'}")
    assert (data.labels, data.classes, data.open(1).getpixel((0, 0))) == ([1, 0], ["cat", "dog"], (30, 0, 0))
    hub.DatasetDict({"train": rows, "valid": rows.select([0])}).save_to_disk(str(tmp_path / "two"))
    assert load_dataset(f"hf:{tmp_path / 'two'}", "val").labels == [1]
    with pytest.raises(InputError, match="no split 'test': it has train, val"):
        load_dataset(f"hf:{tmp_path / 'two'}")


def test_a_split_of_the_hub_by_another_name(hub, tmp_path):
    hub_rows(hub, label=[1, 0]).to_parquet(tmp_path / "set/part.parquet")
    head = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: valid\n    path: part.parquet\n---\n"
    (tmp_path / "set/README.md").write_text(head)
    assert load_dataset(f"hf:{tmp_path / 'set'}", "val").labels == [1, 0]
    with pytest.raises(InputError, match="valid"):
        load_dataset(f"hf:{tmp_path / 'set'}", "train")


@pytest.mark.parametrize("label", [None, ["cat", "dog"], float("nan")])
def test_a_label_of_the_hub_that_is_none(hub, tmp_path, label):
    kinds = {list: hub.List(hub.Value("string")), float: hub.Value("float64")}
    first = {list: ["cat"], float: 1.0}.get(type(label), "cat")
    rows = hub_rows(hub, label=[first, label], feature=kinds.get(type(label), hub.Value("string")))
    rows.save_to_disk(str(tmp_path / "one"))
    with pytest.raises(InputError, match="wanted one class for each image"):
        load_dataset(f"hf:{tmp_path / 'one'}")


# ---- large data ----


def test_paths_of_a_table_are_those_of_pathlib(tmp_path, monkeypatch):
    """However they are written; from the table's folder, which may itself be relative."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    for file in ("data/0.png", "data/a b/0.png", "1.png", "elsewhere/2.png", "home/3.png"):
        image(tmp_path / file)
    cells = ["0.png", "a b/0.png", "./0.png", "a b//0.png", "a b/./0.png", "../1.png", "../elsewhere/2.png",
             f"{tmp_path}/data/0.png", f"{tmp_path}/elsewhere/2.png", f"{tmp_path}//data/./0.png", "~/3.png",
             "a b\\0.png", "none/..png", ".hidden/4.png"]  # fmt: skip
    (tmp_path / "data/t.csv").write_text("path,label\n" + "".join(f'"{cell}",a{k}\n' for k, cell in enumerate(cells)))
    for table in (tmp_path / "data/t.csv", Path("data/t.csv")):
        data = load_dataset(str(table))
        folder = table.parent
        wanted = []
        for cell in cells:
            path = folder / os.path.expanduser(cell.replace("\\", "/"))
            wanted.append(path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name)
            at = cells.index(cell)
            if path.exists():
                assert data.open(at).size == (8, 9)
            else:
                with pytest.raises(OSError, match=re.escape(str(path))):
                    data.open(at)
        assert data.files == wanted
    monkeypatch.chdir(tmp_path / "data")
    assert load_dataset("t.csv").files[:7] == data.files[:7]


def test_a_fingerprint_is_that_of_the_whole_list():
    for n in (0, 1, 3, 10_000, 20_001):
        items = [(f"{k}'.png", k % 7) for k in range(n)]
        assert fingerprint(items) == f"{n}, sha256 {hashlib.sha256(repr(items).encode()).hexdigest()}"
        assert fingerprint(iter(items), 7) == fingerprint(items)


@pytest.mark.parametrize("layout", ["", "train", "birds_train", "archive/images"])
def test_a_folder_is_listed_once(tmp_path, monkeypatch, layout):
    """And the images of a split that is not asked for are not looked for beyond the first."""
    classes(tmp_path / layout, n=3)
    if "train" in layout:
        classes(tmp_path / layout.replace("train", "test"), n=3)
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    data = load_dataset(str(tmp_path), "train" if "train" in layout else "test")
    assert len(data) == 6 and len(listed) == len(set(listed))
    assert not [path for path in listed if path.endswith("test/b")]


def test_labels_are_read_without_torchvision(tmp_path):
    """Which takes a second to import."""
    code = "import sys; from diffusion.data.datasets import load_dataset; load_dataset(sys.argv[1])"
    code += "; assert 'torchvision' not in sys.modules"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, classes(tmp_path)], check=True, env=env)


# ---- misspelt names, and folders of another depth ----


def test_a_folder_beside_is_nearer_than_a_data_set_of_the_table(tmp_path, monkeypatch):
    classes(tmp_path / "mydigits")
    monkeypatch.chdir(tmp_path)
    for typed, near in [("mydigit", "mydigits"), (str(tmp_path / "mydigits2"), str(tmp_path / "mydigits"))]:
        with pytest.raises(InputError) as error:
            load_dataset(typed)
        assert error.value.problem.endswith(f"; did you mean the folder {near}?")
    with pytest.raises(InputError) as error:
        load_dataset("cifar11")
    assert error.value.problem.endswith("; did you mean cifar10?")


def test_one_class_of_a_folder_is_named_with_that_folder(tmp_path, monkeypatch):
    """Its parent, if other folders there hold images too."""
    classes(tmp_path / "mydigits", names=("a",))
    monkeypatch.chdir(tmp_path)
    data = load_dataset("mydigits/a")
    for others, ends in [(False, "--prompt_path"), (True, "--dataset mydigits")]:
        if others:
            classes(tmp_path / "mydigits", names=("b",))
        with pytest.raises(InputError) as error:
            prompts_for("mydigits/a", data.labels, data.classes)
        assert "no class folders" in error.value.problem and error.value.problem.endswith(ends)


@pytest.mark.parametrize("a, b, apart", [
    ("two", "tow", True), ("two", "twoo", True), ("two", "to", False), ("three", "thre", True), ("cat", "bat", True),
    ("Two", "two", True), ("two", "two", False), ("class 1", "class 2", False), ("two", "three", False),
    ("two", "wot", False), ("aab", "ab", False), ("aaab", "aab", True),
])  # fmt: skip
def test_one_edit(a, b, apart):
    assert one_edit_apart(a, b) == one_edit_apart(b, a) == apart


def test_misspelt_is_what_a_loop_over_pairs_finds():
    rng = np.random.default_rng(0)
    names = {"".join(rng.choice(list("ab"), rng.integers(1, 7))): int(rng.integers(1, 30)) for _ in range(60)}
    slow = set()
    for a, n in names.items():
        for b, m in names.items():
            if one_edit_apart(a, b) and m >= 3 and (n == 1 or 10 * n <= m):
                slow.add((a, b))
    found = misspelt(names)
    assert set(found) == slow and len(found) == len(slow) > 0


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_a_misspelt_class_is_named(tmp_path, kind):
    for name, n in {"two": 6, "tow": 1, "three": 6}.items():
        for k in range(n):
            image(tmp_path / "mine" / name / f"{k}.png")
    where = tmp_path / "mine"
    if kind == "csv":
        where = tmp_path / "t.csv"
        files = sorted((tmp_path / "mine").rglob("*.png"))
        where.write_text("path,label\n" + "".join(f"{path},{path.parent.name}\n" for path in files))
    with pytest.warns(InputWarning, match="class 'tow' has 1 image, 'two' 6: a misspelling?") as warned:
        assert len(load_dataset(where).classes) == 3
    assert len(warned) == 1


def test_a_misspelt_class_of_a_csv_of_prompts_is_named(tmp_path):
    """As a warning if the class has another prompt, else in the error."""
    csv = tmp_path / "p.csv"
    csv.write_text("prompt,classname\na two,two\nthe tow,tow\na three,three\nan owl,owl\n")
    with pytest.warns(InputWarning, match=r"'tow' \(prompt 'the tow'\) is no class there, 'two' is") as warned:
        found = prompts_for("mine", [0, 1], ["three", "two"], csv)
    assert len(warned) == 1 and found.names == ["two", "tow", "three", "owl"]
    csv.write_text("prompt,classname\nthe tow,tow\na three,three\n")
    with pytest.raises(InputError) as error:
        prompts_for("mine", [0, 1], ["three", "two"], csv)
    assert "'tow'" in error.value.problem and "misspelling of 'two'" in error.value.problem


# ---- data without splits ----


def test_data_without_splits_has_none(hub, tmp_path):
    classes(tmp_path / "plain")
    classes(tmp_path / "parts/train")
    classes(tmp_path / "parts/test")
    for name in ("cat", "dog"):
        classes(tmp_path / "inside" / name, names=("a", "b"), n=1)
        (tmp_path / "inside" / name / "a").rename(tmp_path / "inside" / name / "train")
        (tmp_path / "inside" / name / "b").rename(tmp_path / "inside" / name / "test")
    image(tmp_path / "alone/0.png")
    (tmp_path / "t.csv").write_text("path,label\nplain/a/0.png,a\nplain/b/0.png,b\n")
    (tmp_path / "s.csv").write_text("path,label,split\nplain/a/0.png,a,test\nplain/b/0.png,b,test\n")
    rows = hub_rows(hub, label=[1, 0])
    rows.save_to_disk(str(tmp_path / "one"))
    hub.DatasetDict({"test": rows}).save_to_disk(str(tmp_path / "two"))

    whole = ["plain", "alone", "alone/0.png", "t.csv", "hf:one"]
    split = ["parts", "inside", "s.csv", "hf:two"]
    for name in whole + split:
        start, _, path = name.rpartition(":")
        data = load_dataset(f"{start}:{tmp_path / path}" if start else str(tmp_path / path))
        assert (data.has_splits, data.split) == (name in split, "test"), name
    assert load_dataset("digits").has_splits


def test_a_split_that_is_not_there_is_not_printed(run_main, tmp_path):
    """Nor in results.json and on the page; run.json has the same options as that of a split called test."""
    data = load_dataset("digits")
    for k, name in ((3, "three"), (5, "five")):
        for folder in ("whole", "parts/test"):
            (tmp_path / folder / name).mkdir(parents=True)
            data.open(k).save(tmp_path / folder / name / "0.png")
    words = ["--version", "digits", "--device", "cpu", "--search", "race", "--max_samples", 4]
    for name in ("whole", "parts"):
        done = run_main("eval_prob_adaptive.py", "--dataset", tmp_path / name, *words)
        assert done.code == 0, done.err
        (path,) = (tmp_path / "data" / name).glob("*/run.json")
        description = json.loads(path.read_text())
        assert description["options"]["split"] == "test"
        run = results.read(path.parent)
        assert run.split == ("test" if name == "parts" else None)
        assert run.data == ("parts, test split" if name == "parts" else "whole")
        assert json.loads((path.parent / "results.json").read_text())["split"] == run.split
        table = run_main("scripts/print_acc.py", path.parent)
        page = run_main("scripts/report.py", path.parent, "--out", tmp_path / "report.html")
        assert table.code == page.code == 0
        printed = [done.out, table.out, (tmp_path / "report.html").read_text().split("</style>")[1]]
        assert [bool(re.search(r"\bsplit\b", text)) for text in printed] == [name == "parts"] * 3


# ---- mistakes that are made often: one line, which says what to do ----


def test_frequent_mistakes_are_answered_with_what_to_do(tmp_path):
    classes(tmp_path / "photos", names=("a", "b"))
    (tmp_path / "photos/b/1.png").write_bytes(b"\x89PNG and no more")
    (tmp_path / "empty").mkdir()
    classes(tmp_path / "one", names=("a",))
    (tmp_path / "few.csv").write_text("prompt,classname\na photo of an a.,a\na cat,cat\n")

    def prompts(name, path=None):
        data = load_dataset(str(tmp_path / name))
        return prompts_for(str(tmp_path / name), data.labels, data.classes, path)

    answers = {
        "did you mean the folder": lambda: load_dataset(str(tmp_path / "photoz")),
        "a folder of class folders": lambda: load_dataset(str(tmp_path / "nowhere/photos")),
        "class folders such as": lambda: load_dataset(str(tmp_path / "empty")),
        "--prompt_path": lambda: prompts("one"),
        "a prompt for each class": lambda: prompts("photos", tmp_path / "few.csv"),
        "mend or remove it": lambda: load_dataset(str(tmp_path / "photos")).open(3),
    }
    for wanted, mistake in answers.items():
        with pytest.raises((InputError, OSError)) as caught:
            mistake()
        assert wanted in str(caught.value) and "\n" not in str(caught.value)
