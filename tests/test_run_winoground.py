"""The real script on the embedded model: against the oracle, then against itself run otherwise, then its table."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from helpers import (
    assert_same,
    blocks,
    folder_of,
    import_script,
    own_examples,
    points_of,
    records_of,
    replayed,
    subset,
)
from PIL import Image

from diffusion.core.constants import LOSSES
from diffusion.core.noise import ImageNoise
from diffusion.core.search import spread_pairs
from diffusion.matching.benchmarks import load_items
from diffusion.plots import gallery
from diffusion.runs.records import load_record, read_run

SCRIPT, PRINT = "run_winoground.py", "scripts/print_winoground.py"
LATENT = (4, 8, 8)


def options(version, *more) -> list:
    return ["--dataset", "digits-pairs", "--version", version, "--device", "cpu", "--t_interval", 250, *more]


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> list:
    """An example of each tag, not side by side."""
    return subset(tmp_path_factory.mktemp("subset"), 0, 4, 449)


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bank") / "noise.pt"
    torch.save(torch.randn(20, *LATENT, generator=torch.Generator().manual_seed(3)), path)
    return path


# ---- against the oracle ----


@pytest.mark.parametrize(
    "model, args, texts, rows",
    [
        ("model_folder", ["bank"], 2, [0] * 4),
        ("v_model_folder", ["--n_trials", 2, "--randomize_noise", "--normalize", "--seed", 9], 3, list(range(8))),
    ],
)
def test_errors_agree_with_the_oracle(run_main, tmp_path, bank, request, model, args, texts, rows):
    """All losses of both captions and of the empty one, to 1e-5 relative; the noise is the same for all images."""
    version, seed = request.getfixturevalue(model), 9 if "--seed" in args else 0
    noise = torch.load(bank) if "bank" in args else ImageNoise(seed, 0, LATENT)[range(8)]
    words = [word for arg in args for word in (["--noise_path", bank] if arg == "bank" else [arg])]
    records = records_of(run_main(SCRIPT, *options(version), *words, *subset(tmp_path, 300)))
    assert list(records) == [600, 601]
    pairs = load_items("digits-pairs")
    for number, record in records.items():
        image = np.array(pairs.open(number // 2, number % 2), dtype=np.float32) / 127.5 - 1
        said = [*pairs[number // 2].captions, ""][:texts]
        levels = [t for t in (125, 375, 625, 875) for _ in range(len(rows) // 4)]
        assert record["levels"].tolist() == levels and record["noise"].tolist() == rows
        wanted = oracle.errors(version, torch.from_numpy(image).permute(2, 0, 1), said, levels, noise[rows])
        np.testing.assert_allclose(blocks(record), wanted, rtol=1e-5)


@pytest.mark.parametrize("interpolation", [None, "lanczos"])
def test_own_photographs_are_cropped_in_the_middle(run_main, tmp_path, model_folder, interpolation):
    """The short side to 32 pixels, bilinear by default. Examples without tags have one line."""
    folder = own_examples(tmp_path / "own", 1)
    more = ["--interpolation", interpolation] if interpolation else []
    result = run_main(SCRIPT, *options(model_folder, "--t_interval", 1000, *more), "--dataset", folder)
    assert [line.split()[0] for line in result.out.splitlines()[2:] if line] == ["examples", "score", "all"]
    assert folder_of(result).parent == tmp_path / "data/own"
    how = Image.Resampling[(interpolation or "bilinear").upper()]
    for side, record in records_of(result).items():
        with Image.open(folder / f"0{'ab'[side]}.png") as image:
            small = image.resize((42, 32), how).crop((5, 0, 37, 32))  # 42 2/3 wide
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1) / 127.5 - 1
        captions = load_items("digits-pairs")[0].captions
        wanted = oracle.errors(model_folder, pixels, captions, [500], ImageNoise(0, 0, LATENT)[range(1)])
        np.testing.assert_allclose(blocks(record), wanted, rtol=1e-5)


@pytest.fixture(scope="module")
def grid(model_folder, three) -> list:
    """24 NFE an image: four levels, two draws at each, two captions and the empty one."""
    more = ["--n_trials", 2, "--randomize_noise", "--normalize", "--loss", "l1"]
    return [*options(model_folder, *more), *three]


@pytest.fixture(scope="module")
def whole(run_once, grid):
    return run_once(SCRIPT, *grid)


def test_a_record_holds_what_it_says(whole):
    records = records_of(whole)
    assert list(records) == [0, 1, 8, 9, 898, 899]
    levels = list(range(125, 1000, 250))  # as published: range(I // 2, 1000, I)
    for number, record in records.items():
        assert record["index"] == number and record["label"] == number % 2 and record["losses"] == list(LOSSES)
        assert record["levels"].tolist() == [t for t in levels for _ in range(2)]
        assert record["noise"].tolist() == list(range(8)) and record["counts"].tolist() == [8] * 3
        assert record["nfe"] == 24 and record["errors"].shape == (24, 3) and record["errors"].dtype == torch.float32
        first, second = (block[:, 1].mean(dtype=np.float64) for block in blocks(record)[:2])
        assert record["pred"] == int(second < first)
    nfe = sum(record["nfe"] for record in records.values())
    assert nfe == 144 and f"digits-pairs: 3 examples of 48 NFE, {nfe} NFE to do -> " in whole.out
    run = read_run(folder_of(whole))
    pairs = load_items("digits-pairs")
    wanted = {str(k): {"id": str(k), "captions": list(pairs[k].captions), "tag": pairs[k].tags[0]} for k in range(450)}
    assert run["images"] == 6 and run["examples"] == wanted


def test_the_empty_caption_is_an_arm_but_no_answer(run_main, model_folder, false):
    """It costs half as much again and changes no bit; to images shown under false captions it is the best of three,
    but not what they prefer.
    """
    args = [*options(model_folder), "--dataset", false]
    plain, normalized = (records_of(run_main(SCRIPT, *args, *more)) for more in ([], ["--normalize"]))
    best = []
    for number, record in plain.items():
        three = normalized[number]
        assert three["pred"] == record["pred"] and three["nfe"] == 12 and record["nfe"] == 8
        assert np.array_equal(blocks(three)[:2], blocks(record))
        best.append(int(np.argmin([block[:, 0].mean() for block in blocks(three)])))
    assert 2 in best, "this test shows nothing: find images that the empty caption fits best"


# ---- a result depends on its options alone ----


def test_workers_and_batches_change_no_bit(run_main, grid, whole):
    """Each takes whole examples, and prints the table of what is there; what is missing is measured again."""
    for worker, batch_size, in_flight, done in ((2, 7, 4, 1), (0, 23, 2, 2), (1, 64, 1, 3)):
        shared = ["--n_workers", 3, "--worker_idx", worker, "-b", batch_size, "--in_flight", in_flight]
        result = run_main(SCRIPT, *grid, *shared)
        assert result.code == 0 and "1 example of 48 NFE, 48 NFE to do" in result.out
        assert f"{done} of 3" in result.out
    assert_same(records_of(result), records_of(whole))

    folder = folder_of(result)
    for number in (1, 8, 9):
        (folder / f"{number:03d}.pt").unlink()
    (folder / ".001.pt.elsewhere-1").write_bytes(b"half")  # as a writer leaves it that is killed
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.pt")}
    result = run_main(SCRIPT, *grid)
    assert result.code == 0 and "3 examples of 48 NFE, 72 NFE to do" in result.out
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    names = ["000.pt", "001.pt", "008.pt", "009.pt", "898.pt", "899.pt"]
    assert sorted(os.listdir(folder)) == [".index", *names, "results.json", "run.json"]
    assert_same(records_of(result), records_of(whole))


def test_finished_runs_load_no_model(run_main, tmp_path, grid, whole, monkeypatch):
    shutil.copytree(folder_of(whole).parents[1], tmp_path / "data")
    module = import_script(SCRIPT)
    monkeypatch.setattr("diffusion.models.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    again = run_main(module, *grid)
    assert again.code == 0 and "3 examples of 48 NFE, 0 NFE to do" in again.out
    assert again.out.splitlines()[1:] == whole.out.splitlines()[2:]


def test_another_subset_in_the_same_folder(run_main, tmp_path, model_folder):
    """It is the same run; its table is of what the last command chose."""
    args = options(model_folder, "--t_interval", 1000)
    first = run_main(SCRIPT, *args, *subset(tmp_path, 0, 1))
    other = run_main(SCRIPT, *args, *subset(tmp_path, 1, 2))
    assert first.code == 0 and other.code == 0, other.err
    assert "8 NFE to do" in first.out and "4 NFE to do" in other.out
    assert "2 of 2" in other.out and re.search(r"^all +2 ", other.out, re.M)
    assert list(records_of(other)) == [0, 1, 2, 3, 4, 5]


# ---- the race ----


def race_options(version, *more) -> list:
    """--t_interval is the grid's."""
    start = ["--dataset", "digits-pairs", "--version", version, "--device", "cpu", "--search", "race"]
    return [*start, "--max_samples", 20, "--randomize_noise", *more]


@pytest.fixture(scope="module")
def false(tmp_path_factory) -> Path:
    """Examples under false captions, between which a race takes longer."""
    return own_examples(tmp_path_factory.mktemp("false") / "own", 3, captions_of=3)


@pytest.fixture(scope="module")
def raced(run_once, model_folder, false):
    return run_once(SCRIPT, *race_options(model_folder), "--loss", "l1", "--dataset", false)


def test_a_race_sees_what_the_full_grid_sees(run_main, model_folder, false, raced):
    """The same bits at the same points, for less; who wins and when is what race() says of the errors of the loss."""
    args = ["--t_interval", 30, "--levels", "0.2-0.8", "--randomize_noise", "--noise", "antithetic"]  # a race's own
    whole = records_of(run_main(SCRIPT, *options(model_folder, *args), "--dataset", false))
    points = points_of(200 + spread_pairs(20, 600), pairs=True)
    at = whole[0]["levels"].tolist()
    for number, record in records_of(raced).items():
        left, counts, nfe = replayed(whole[number], points, 1, np.arange(2), z=3.0, pairs=True)
        assert record["counts"].tolist() == counts and record["nfe"] == nfe and [record["pred"]] == left
        seen = counts[0]
        assert record["levels"].tolist() == points[0][:seen] and record["decided"]
        order = [at.index(level) for level in record["levels"].tolist()]
        assert record["noise"].tolist() == [place // 2 for place in order] == points[1][:seen]
        assert record["signs"].tolist() == [1, -1] * (seen // 2)
        assert np.array_equal(blocks(record), np.array(blocks(whole[number]))[:, order])
    lengths = {len(record["levels"]) for record in records_of(raced).values()}
    assert len(lengths) > 1 and min(lengths) <= 10


def test_a_race_depends_on_its_options_alone(run_main, model_folder, false, raced):
    assert folder_of(raced).name == f"v{model_folder.name}_1trials_race_3z_20samples_randnoise_l1"
    found = read_run(folder_of(raced))["options"]
    assert (found["search"], found["z"], found["max_samples"], found["budget"]) == ("race", 3.0, 20, None)
    assert "3 examples of at most 80 NFE, at most 240 NFE to do" in raced.out
    args = [*race_options(model_folder), "--loss", "l1", "--dataset", false]
    for worker, batch_size, in_flight in ((1, 7, 2), (0, 64, 1)):
        shared = ["--n_workers", 2, "--worker_idx", worker, "-b", batch_size, "--in_flight", in_flight]
        result = run_main(SCRIPT, *args, *shared)
    assert_same(records_of(result), records_of(raced))
    for number in (0, 5):
        (folder_of(result) / f"{number}.pt").unlink()
    resumed = run_main(SCRIPT, *args)
    assert resumed.code == 0 and "at most 80 NFE to do" in resumed.out
    assert_same(records_of(resumed), records_of(raced))


def test_the_table_of_a_race(run_main, raced):
    """The text score alone: two images may have been measured at different points, which the others would compare."""
    records = records_of(raced)
    for loss, column in (("l2", 0), ("l1", 1)):
        means = {k: [block[:, column].mean(dtype=np.float64) for block in blocks(r)] for k, r in records.items()}
        right = sum(means[k][0] < means[k][1] and means[k + 1][1] < means[k + 1][0] for k in (0, 2, 4))
        printed = run_main(PRINT, folder_of(raced), "--loss", loss)
        assert printed.code == 0 and not printed.err
        assert re.search(r"^score +n +text$", printed.out, re.M) and "image" not in printed.out
        assert re.search(rf"^all +3 +{100 * right / 3:.1f}% \(\S+ to \S+\)$", printed.out, re.M)
    assert raced.out.split("\n", 2)[2] == run_main(PRINT, folder_of(raced)).out


# ---- the table, from records written by hand ----

L2 = {  # example -> errors [caption, image] of the two captions and the empty one; what is right, then normalized
    0: [[1, 2], [2, 1], [3, 3]],  # text, image, group; the same
    1: [[1, 5], [2, 4], [1.5, 4.5]],  # text only: image 1 is the harder; normalized all
    2: [[3, 4], [2, 1], [0, 0]],  # image only; the same
    3: [[1, 1], [1, 1], [1, 1]],  # undecided: none
}
L1 = {0: [[2, 1], [1, 2], [0, 0]]} | {k: [[1, 2], [2, 1], [0, 0]] for k in (1, 2, 3)}  # the first none, the rest all
TABLE = """\
examples        4 of 4

score                    n                    text                   image                   group
all                      4    50.0% (15.0 to 85.0)    50.0% (15.0 to 85.0)     25.0% (4.6 to 69.9)
Digit                    2     50.0% (9.5 to 90.5)     50.0% (9.5 to 90.5)     50.0% (9.5 to 90.5)
Colour                   1  100.0% (20.7 to 100.0)      0.0% (0.0 to 79.3)      0.0% (0.0 to 79.3)
Place                    1      0.0% (0.0 to 79.3)  100.0% (20.7 to 100.0)      0.0% (0.0 to 79.3)
"""
NORMALIZED = """
score, normalized        n                    text                   image                   group
all                      4    50.0% (15.0 to 85.0)    75.0% (30.1 to 95.4)    50.0% (15.0 to 85.0)
Digit                    2     50.0% (9.5 to 90.5)     50.0% (9.5 to 90.5)     50.0% (9.5 to 90.5)
Colour                   1  100.0% (20.7 to 100.0)  100.0% (20.7 to 100.0)  100.0% (20.7 to 100.0)
Place                    1      0.0% (0.0 to 79.3)  100.0% (20.7 to 100.0)      0.0% (0.0 to 79.3)
"""


def rewrite(folder: Path, arms: int) -> None:
    """Give the records of examples 0..3 the errors of L2 and L1 as means over four points."""
    spread = np.array([-0.5, 0.5, 0.25, -0.25])
    for number, path in enumerate(sorted(folder.glob("*.pt"))):
        means = [[table[number // 2][arm][number % 2] for table in (L2, L1, L1)] for arm in range(arms)]
        errors = np.array(means)[:, None] + spread[:, None]  # [arms, points, losses]
        torch.save(load_record(path) | {"errors": torch.from_numpy(errors.reshape(-1, 3)).float()}, path)


@pytest.fixture(scope="module")
def by_l1(model_folder, tmp_path_factory) -> list:
    return options(model_folder, "--loss", "l1", *subset(tmp_path_factory.mktemp("four"), 0, 1, 2, 3))


@pytest.fixture
def by_hand(run_once, by_l1, tmp_path) -> Path:
    """A copy of a run by l1 on examples 0 to 3, with the errors of L2 and L1."""
    folder = folder_of(run_once(SCRIPT, *by_l1))
    copy = tmp_path / "data" / folder.parent.name / folder.name
    shutil.copytree(folder, copy)
    rewrite(copy, 2)
    return copy


def test_the_table_by_hand(run_main, tmp_path, model_folder):
    """Of all and by tag; of the run's loss and of another; by the script itself, and by the other with no model."""
    shutil.copytree(model_folder, tmp_path / "sd")
    args = options(tmp_path / "sd", "--normalize", *subset(tmp_path, 0, 1, 2, 3))
    folder = folder_of(run_main(SCRIPT, *args))
    rewrite(folder, 3)
    again = run_main(SCRIPT, *args)
    assert again.code == 0 and again.out.split("\n", 1)[1] == TABLE + NORMALIZED and "not counted" not in again.err
    shutil.rmtree(tmp_path / "sd")
    for loss in ([], ["--loss", "l2"]):
        printed = run_main(PRINT, folder, *loss)
        assert printed.code == 0 and printed.out == TABLE + NORMALIZED and not printed.err
    other = run_main(PRINT, folder, "--loss", "l1")
    three, one = "75.0% (30.1 to 95.4)", "50.0% (9.5 to 90.5)"
    assert re.findall(r"^(all|Digit) +\d((?: +\S+ \(\S+ to \S+\)){3})$", other.out, re.M) == [
        ("all", f"    {three}" * 3), ("Digit", f"     {one}" * 3)
    ] * 2  # fmt: skip


def test_the_run_prints_by_its_loss(run_main, by_l1, by_hand):
    """--loss l1 is printed, l2 can be had from the same records."""
    again = run_main(SCRIPT, *by_l1)
    printed, other = run_main(PRINT, by_hand), run_main(PRINT, by_hand, "--loss", "l2")
    assert again.out.split("\n", 1)[1] == printed.out and "75.0%" in printed.out
    assert other.out == TABLE


def test_from_the_shell(run_script, run_main, tmp_path):
    """The alias, the folder's name, a table that can be checked from the records, the same printed by the other script.

    Subtracting the empty caption's error changes no text score. open_clip, which is optional, is not imported.
    """
    args = ["--dataset", "digits-pairs", "--version", "digits", "--device", "cpu", "--t_interval", 500, "--normalize"]
    args += ["--randomize_noise", "--interpolation", "bicubic", "--loss", "l1", "--extra", "x"]
    (tmp_path / "without").mkdir()
    (tmp_path / "without/open_clip.py").write_text("raise RuntimeError('open_clip was imported')")
    env = {"PYTHONPATH": str(tmp_path / "without")}
    result = run_script(SCRIPT, *args, *subset(tmp_path, *range(3)), env=env)
    assert result.code == 0, result.err
    folder = tmp_path / "data/digits-pairs_x/vdigits_t500_1trials_randnoise_bicubic_l1_normalized"
    assert sorted(os.listdir(folder)) == [".index", *(f"{k:03d}.pt" for k in range(6)), "results.json", "run.json"]
    head, _, *table = result.out.splitlines()
    assert head == f"digits-pairs: 3 examples of 12 NFE, 36 NFE to do -> {folder}"
    error = [[float(block[:, 1].mean()) for block in blocks(load_record(folder / f"{k:03d}.pt"))] for k in range(6)]
    text = image = normalized = 0
    for a, b in zip(error[::2], error[1::2], strict=True):  # images 0 and 1: errors of caption 0, caption 1, nothing
        text += a[0] < a[1] and b[1] < b[0]
        image += a[0] < b[0] and b[1] < a[1]
        normalized += a[0] - a[2] < b[0] - b[2] and b[1] - b[2] < a[1] - a[2]
    shown = [re.findall(r"([\d.]+)%", line) for line in table if line.startswith("all ")]
    assert [row[:2] for row in shown] == [[f"{100 * n / 3:.1f}" for n in (text, k)] for k in (image, normalized)]
    first = [re.split(r"  +", line)[0] for line in table]
    groups = ["all", "Digit", "Colour", "Place"]
    assert first == ["examples", "", "score", *groups, "", "score, normalized", *groups]
    assert "NFE each" in result.err and "NFE/s" in result.err
    printed = run_main(PRINT, folder)
    assert printed.code == 0 and printed.out.splitlines() == table and not printed.err


# ---- examples that are not whole ----


def test_an_example_with_one_image_is_not_counted(run_main, tmp_path, by_hand):
    folder = by_hand
    (folder / "003.pt").unlink()
    (folder / "004.pt").write_bytes(b"half")
    printed = run_main(PRINT, folder, "--loss", "l2")
    assert printed.code == 1 and "2 of 4" in printed.out  # examples 0 and 3, both of Digit
    assert "Colour" not in printed.out and re.search(r"^Digit +2 +50\.0%", printed.out, re.M)
    (unreadable,) = printed.err.splitlines()
    assert "004.pt: no record" in unreadable
    for number in (2, 5):  # now nothing is left of 1 and 2: not done yet, and nothing wrong
        (folder / f"{number:03d}.pt").unlink()
    (folder / "004.pt").unlink()
    printed = run_main(PRINT, folder)
    assert printed.code == 0 and "2 of 4" in printed.out and not printed.err
    for path in folder.glob("*.pt"):
        path.unlink()
    printed = run_main(PRINT, folder)
    assert printed.code == 0 and "0 of 4" in printed.out and not printed.err
    drawn = run_main(PRINT, folder, "--gallery", tmp_path / "g.png")
    assert drawn.code == 2 and "no example is done yet" in drawn.err and drawn.err.count("\n") == 1


def test_an_unreadable_image_costs_one_example(run_main, tmp_path, model_folder):
    own = own_examples(tmp_path / "own", 3, tag="T")
    whole = (own / "1b.png").read_bytes()
    (own / "1b.png").write_bytes(whole[: len(whole) // 2])
    result = run_main(SCRIPT, *options(model_folder), "--dataset", own)
    assert result.code == 1 and list(records_of(result)) == [0, 1, 2, 4, 5]
    named = [line for line in result.err.splitlines() if line.startswith("not counted: ")]
    assert len(named) == 1 and "1b.png" in named[0]
    assert "2 of 3" in result.out and re.search(r"^all +2 ", result.out, re.M)
    (own / "1b.png").write_bytes(whole)
    again = run_main(SCRIPT, *options(model_folder), "--dataset", own)
    assert again.code == 0 and "8 NFE to do" in again.out and "3 of 3" in again.out


# ---- the gallery ----


def plain_colours(folder: Path, *colours: tuple[str, str]) -> Path:
    """Examples of two images of one colour each."""
    folder.mkdir()
    lines = []
    for k, pair in enumerate(colours):
        for side, colour in enumerate(pair):
            Image.new("RGB", (16, 16), colour).save(folder / f"{k}{side}.png")
        line = {"image_0": f"{k}0.png", "image_1": f"{k}1.png", "caption_0": "a $5 b$", "caption_1": "b $5 a$ " * 30}
        lines.append(json.dumps(line))
    (folder / "examples.jsonl").write_text("\n".join(lines))
    return folder


def centre_of(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Where pixels [h, w, 3] have a colour: mean (y, x), as shares of the picture."""
    y, x = np.nonzero((picture == colour).all(-1))
    assert len(y) > 1000, f"{colour} is hardly there: {len(y)} pixels"
    return y.mean() / picture.shape[0], x.mean() / picture.shape[1]


COLOURS = {
    "red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "magenta": (255, 0, 255),
    "cyan": (0, 255, 255), "maroon": (128, 0, 0), "navy": (0, 0, 128),
}  # fmt: skip


def test_the_gallery_shows_the_worst_first(run_main, tmp_path, model_folder):
    """Four examples in rows of three, each with its images side by side."""
    pairs = [("red", "lime"), ("blue", "yellow"), ("magenta", "cyan"), ("maroon", "navy")]
    args = [*options(model_folder), "--dataset", plain_colours(tmp_path / "own", *pairs)]
    folder = folder_of(run_main(SCRIPT, *args))
    rewrite(folder, 2)
    worst = [1, 2, 3, 0]  # by l2, short of -2, -1, 0, 1; by l1 the first is at -1 and the rest at 1
    for loss, order in (("l2", worst), ("l1", [0, 1, 2, 3])):
        assert run_main(PRINT, folder, "--loss", loss, "--gallery", tmp_path / "g.png").code == 0
        with Image.open(tmp_path / "g.png") as image:
            assert image.format == "PNG" and 1000 < image.width < 4000 and 500 < image.height < 2000
            picture = np.array(image.convert("RGB"))
        at = {name: centre_of(picture, colour) for name, colour in COLOURS.items()}
        places = [at[pairs[k][0]] for k in order]
        assert [y > 0.5 for y, _ in places] == [False, False, False, True]
        assert [int(3 * x) for _, x in places] == [0, 1, 2, 0]
        for left, right in pairs:
            assert at[left][0] == pytest.approx(at[right][0], abs=0.01) and 0 < at[right][1] - at[left][1] < 1 / 3


def test_the_gallery_grows_only_so_far(run_main, tmp_path, whole, monkeypatch):
    """Of a normalized run."""
    monkeypatch.setattr(gallery, "SHOWN", 2)
    monkeypatch.setattr(gallery, "COLUMNS", 1)
    folder = Path(shutil.copytree(folder_of(whole), tmp_path / "run"))
    heights = []
    for left in (3, 2, 1):
        for path in sorted(folder.glob("*.pt"))[2 * left :]:
            path.unlink()
        assert run_main(PRINT, folder, "--gallery", tmp_path / "g.png").code == 0
        with Image.open(tmp_path / "g.png") as image:
            heights.append(image.height)
    assert heights[0] == heights[1] > 1.5 * heights[2]


# ---- what cannot work ----


def test_other_captions_in_the_same_folder(run_main, tmp_path):
    """They do not show in the folder's name, yet the runs do not mix."""
    args = [*options("digits", "--t_interval", 1000), "--dataset", own_examples(tmp_path / "own", 1)]
    assert run_main(SCRIPT, *args).code == 0
    text = (tmp_path / "own/examples.jsonl").read_text()
    (tmp_path / "own/examples.jsonl").write_text(text.replace("a photo of", "a picture of"))
    assert "data: " in run_main(SCRIPT, *args).error.problem
    (tmp_path / "own/examples.jsonl").write_text(text)
    assert run_main(SCRIPT, *args).code == 0
