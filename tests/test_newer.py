"""Images that were replaced after they were measured are named, and others are never drawn in their place."""

import os

import numpy as np
import pytest
from helpers import call_main, folder_of, own_examples, write_run
from PIL import Image

from diffusion import InputError, InputWarning
from diffusion.data.datasets import load_dataset
from diffusion.matching.benchmarks import load_items
from diffusion.runs import newer, records, results
from diffusion.runs.images import dataset_of_run

HOUR = 3600 * 10**9  # ns


def date(path, of, after: int) -> None:
    """Give a file a date so many ns after that of another."""
    ns = os.stat(of).st_mtime_ns + after
    os.utime(path, ns=(ns, ns))


@pytest.fixture
def mine(tmp_path):
    """Three images in two classes, all an hour old."""
    for k, name in enumerate(("cat/0.png", "cat/1.png", "dog/2.png")):
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (80 * k, 0, 0)).save(path)
        date(path, path, -HOUR)
    return tmp_path / "mine"


@pytest.fixture
def run(mine, tmp_path):
    """A finished run of these images, by hand."""
    data = load_dataset(mine)
    about = {"dataset": data.name, "data": data.fingerprint, "words": ("cat", "dog")}
    errors = np.random.default_rng(0).random((3, 2, 4))
    folder = write_run(tmp_path / "run", errors, data.labels, about=lambda k: {"file": data.files[k]}, **about)
    records.open_run(folder, records.read_run(folder)["options"], records.read_run(folder) | {"path": str(mine)})
    return folder


def test_only_a_later_date_is_newer(mine, run):
    located = load_dataset(mine).located
    assert located == {k: (name, str(mine / name)) for k, name in enumerate(["cat/0.png", "cat/1.png", "dog/2.png"])}
    done = records.finished(run)
    assert newer.newer(located, done) == [] and newer.in_words(located, done) == ""
    date(mine / "cat/1.png", done[1], 1)
    date(mine / "dog/2.png", done[2], 0)
    assert newer.newer(located, done) == [1]
    (mine / "cat/0.png").unlink()
    assert newer.newer(located, done) == [1], "an image that is gone is no newer one"
    assert newer.newer(located, {1: done[1].with_name("gone.pt")}) == []


def test_the_record_of_a_packed_run_is_as_old_as_the_pack(mine, run, tmp_path):
    pytest.importorskip("pyarrow")
    packed = tmp_path / "run.parquet"
    assert call_main(tmp_path, "scripts/pack.py", run, "--out", packed).code == 0
    located, done = load_dataset(mine).located, records.finished(packed)
    assert newer.newer(located, done) == []
    date(mine / "dog/2.png", packed, 1)
    assert newer.newer(located, done) == [2] and "--extra" in newer.in_words(located, done)


def test_readers_name_a_changed_image(mine, run, tmp_path):
    date(mine / "cat/1.png", run / "1.pt", 1)
    with pytest.warns(InputWarning, match=r"^1 image .*: cat/1\.png; .*1\.pt"):
        dataset_of_run(results.read(run))
    for script, out in [("plot_errors", [tmp_path / "p.png"]), ("report", ["--out", tmp_path / "r.html"])]:
        done = call_main(tmp_path / "data", f"scripts/{script}.py", run, *out)
        assert done.code == 0 and done.err.count("cat/1.png") == 1, done
    assert "cat/1.png; if they were changed" in (tmp_path / "r.html").read_text()


def test_an_image_at_another_place_is_not_drawn(mine, run):
    """Without its first image, image k is what was k + 1."""
    (mine / "cat/0.png").unlink()
    with pytest.raises(InputError) as error:
        dataset_of_run(results.read(run))
    assert str(run) in error.value.where and "cat/0.png" in error.value.problem


def test_a_run_that_goes_on_names_them(mine, run_main, tmp_path):
    words = ["--dataset", mine, "--version", "digits", "--device", "cpu", "--to_keep", 1, "--n_samples", 1]
    first = run_main("eval_prob_adaptive.py", *words)
    assert first.code == 0 and "newer" not in first.err, first
    record = folder_of(first) / "2.pt"
    date(mine / "dog/2.png", record, 1)
    again = run_main("eval_prob_adaptive.py", *words, "--picture", tmp_path / "p.png")
    assert "3 done before" in again.out and again.err.count("dog/2.png") == 1
    assert str(record) in again.err
    record.unlink()
    last = run_main("eval_prob_adaptive.py", *words)
    assert "2 done before" in last.out and "newer" not in last.err


def test_images_of_examples_count_through_all_of_them(tmp_path):
    folder = own_examples(tmp_path / "mine", 2)
    names = ["0a.png", "0b.png", "1a.png", "1b.png"]
    assert load_items(folder).located == {n: (name, str(folder / name)) for n, name in enumerate(names)}
    assert load_items("digits-pairs").located == {}


def test_data_of_the_table_are_not_looked_at():
    assert load_dataset("digits").located == {}
