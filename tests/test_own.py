"""Own images as people have them: without labels, in folders of any depth, in tables of any kind."""

import json

import pytest
import torch
from PIL import Image

from diffusion import InputError, InputWarning
from diffusion.datasets import load_dataset
from diffusion.images import crop
from diffusion.prompts import prompts_for
from diffusion.records import load_record

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
    with pytest.raises(InputError, match="no split 'test': it has train, val"):
        load_dataset(str(tmp_path))
    with pytest.raises(InputError, match="not split, all its images are test; --split test, or put them into train/"):
        load_dataset(str(classes(tmp_path / "mine")), "train")


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
    with pytest.raises(InputError, match="--prompts"):
        prompts_for(data.name, data.labels, data.classes)


TABLES = {
    "semicolons.csv": "path;label\na/0.png;cat\nb/0.png;dog\n",
    "tabs.csv": "path\tlabel\na/0.png\tcat\nb/0.png\tdog\n",
    "blanks.csv": "path, label\na/0.png, cat\nb/0.png, dog\n",
    "mark.csv": "\ufeffpath,label\na/0.png,cat\nb/0.png,dog\n",
    "windows.csv": "path,label\na\\0.png,cat\nb\\0.png,dog\n",
    "lines.jsonl": "".join(
        json.dumps({"path": f"{a}/0.png", "label": b}) + "\n" for a, b in [["a", "cat"], ["b", "dog"]]
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path, name):
    classes(tmp_path)
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8")
    data = load_dataset(str(tmp_path / name))
    assert (data.labels, data.classes) == ([0, 1], ["cat", "dog"])
    assert [data.open(k).size for k in (0, 1)] == [SIZES["a"], SIZES["b"]]


@pytest.mark.parametrize(
    "content", ["", "[]\n", '{"label": "a"}\n', '{"path": "a"}\n{"path": "a", "label": "b"}\n', "{"]
)
def test_bad_lines(tmp_path, content):
    (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(InputError, match=r"t\.jsonl"):
        load_dataset(str(tmp_path / "t.jsonl"))


def test_a_csv_in_another_order_is_refused(tmp_path):
    """The prompts' class ids are those of the folders, so names must not be those of other folders."""
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,classname,classidx\na tabby,tabby cat,0\na dog,Dog,1\na wolf,wolf,2\n")
    assert prompts_for("own", [0, 1], ["cat", "dog"], path).classes == [0, 1, 2]  # a wolf is a distractor
    path.write_text("prompt,classname,classidx\na dog,Dog,0\na cat,CAT,1\n")
    with pytest.raises(InputError, match="'Dog' has classidx 0, which in own is 'cat'; 'Dog' is 1 there"):
        prompts_for("own", [0, 1], ["cat", "dog"], path)


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


def test_by_the_script(run_main, tmp_path, model_folder):
    """Images without labels: a table of predictions, and records that name their files."""
    data = load_dataset("digits")
    for k in (0, 1, 3):
        (tmp_path / "mine").mkdir(exist_ok=True)
        data.open(k).save(tmp_path / "mine" / f"{k}.png")
    args = ["eval_prob_adaptive.py", "--version", model_folder, "--device", "cpu", "--max_samples", "20"]
    texts = ["--prompts", "a photo of the number three.", "a photo of the number five."]
    done = run_main(*args, "--dataset", tmp_path / "mine", *texts)
    assert done.code == 0, done.err
    assert "predictions only" in done.out and "accuracy" not in done.out and "it is --search race" in done.out
    (path,) = (tmp_path / "data" / "mine").glob("*/1.pt")
    record = load_record(path)
    assert (record["file"], record["label"]) == ("1.png", -1) and record["pred"] in (0, 1)
    assert all(f"{k}.png" in done.out for k in (0, 1, 3))
    one = run_main(*args, "--dataset", tmp_path / "mine" / "3.png", *texts, "--picture", tmp_path / "bars.png")
    with Image.open(tmp_path / "bars.png") as drawn:
        assert drawn.width > 500 and str(tmp_path / "bars.png") in one.out
    lines = [line for line in one.out.splitlines() if line.startswith("3.png")]
    assert len(lines) == 2 and "the best" in lines[0] and "+" in lines[1]
    other = run_main(*args, "--dataset", tmp_path / "mine" / "3.png", *texts, "a photo of the number four.")
    assert other.code == 0, "other words are another run"
    refused = run_main("scripts/calibrate.py", path.parent)
    assert refused.code == 2 and "label -1" in refused.err
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


def test_tables_as_excel_saves_them(tmp_path):
    """Any case of the columns' names; another encoding is named, and so are images that are elsewhere."""
    image(tmp_path / "0.png")
    table = tmp_path / "t.csv"
    table.write_bytes("\ufeffPath;Label\r\n0.png;M\u00fctze\r\n".encode())
    assert load_dataset(str(table)).classes == ["M\u00fctze"]
    for encoding in ("cp1252", "utf-16"):
        table.write_bytes("path,label\n0.png,M\u00fctze\n".encode(encoding))
        with pytest.raises(InputError, match=r"is not UTF-8 .*'CSV UTF-8'"):
            load_dataset(str(table))
    table.write_text("path,label\nphotos/0.png,a\nphotos/1.png,b\n")
    with pytest.raises(InputError, match=r"none of its 2 images is there, such as .*photos/0.png; paths are taken"):
        load_dataset(str(table))


def test_what_classes_lack_is_said(tmp_path):
    """A csv of other data is warned of, a class without a prompt named, one class alone is no choice."""
    csv = tmp_path / "p.csv"
    csv.write_text("prompt,classname,classidx\nan a,airplane,0\na b,bird,1\n")
    with pytest.warns(InputWarning, match="none of its classnames is a class of mine: 'airplane' is taken for 'a'"):
        prompts_for("mine", [0, 1], ["a", "b"], csv)
    with pytest.raises(InputError, match=r"no class 2 \(c\), which"):
        prompts_for("mine", [0, 2], ["airplane", "bird", "c"], csv)
    with pytest.raises(InputError, match="has the class 'a' alone, so it needs --prompt_path"):
        prompts_for("mine", [0], ["a"])
    with pytest.raises(InputError, match="does not say what its classes are called, so it needs --prompt_path"):
        prompts_for("mine", [3, 7], [])
    with pytest.raises(InputError, match=r"have labels \(a, b\)"):
        prompts_for("mine", [0, 1], ["a", "b"], texts=["x", "y"])
