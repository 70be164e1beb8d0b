"""The real script on the embedded model: against the oracle, then against itself run otherwise."""

import os
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers import (
    PLAIN,
    SCRIPT,
    WORDS,
    assert_same,
    blocks,
    both,
    csv_of,
    folder_of,
    import_script,
    options,
    points_of,
    race_options,
    records_of,
    replayed,
    subset,
    table_of,
)
from PIL import Image

from diffusion.core.constants import LOSSES
from diffusion.core.noise import ImageNoise
from diffusion.core.search import spread_pairs, spread_sequence
from diffusion.data.datasets import load_dataset
from diffusion.data.images import centre_crop
from diffusion.evaluate.config import RunConfig
from diffusion.evaluate.points import usable_levels
from diffusion.runs import naming
from diffusion.runs.records import load_record, read_run

PRINT = "scripts/print_acc.py"
LATENT = (4, 8, 8)
PLAIN_LOOP = import_script("scripts/benchmark.py").plain_loop
PROMPTS = [f"a photo of the number {word}." for word in WORDS]
ROWS = [f"{prompt},{word},{k}" for k, (prompt, word) in enumerate(zip(PROMPTS, WORDS, strict=True))]


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> list:
    return subset(tmp_path_factory.mktemp("few"), 0, 1, 10, 301)


@pytest.fixture(scope="module")
def halving(model_folder, few) -> list:
    """Ten classes at four levels, three of them at twelve: 64 NFE."""
    return [*options(model_folder), *few]


@pytest.fixture(scope="module")
def halved(run_once, halving):
    return run_once(SCRIPT, *halving)


@pytest.fixture(scope="module")
def race(model_folder, few) -> list:
    return [*race_options(model_folder, "--max_samples", 20, "--z", 2.5), *few]


@pytest.fixture(scope="module")
def raced(run_once, race):
    return run_once(SCRIPT, *race)


@pytest.fixture
def a_run(halved, tmp_path) -> Path:
    """A copy of the halving's folder, where `run_main` looks for it."""
    folder = folder_of(halved)
    shutil.copytree(folder, tmp_path / "data" / "digits" / folder.name)
    return tmp_path / "data" / "digits" / folder.name


def image_of(index: int) -> torch.Tensor:
    return centre_crop(load_dataset("digits").open(index), 32)


# ---- against the oracle ----


def assert_agrees(record, version, noise, pixels) -> None:
    """Every stored error of a record, to 1e-5 relative; a level's noise is that of its place in the grid."""
    levels = record["levels"].tolist()
    wanted = oracle.errors(version, pixels, PROMPTS, levels, noise[[sorted(levels).index(level) for level in levels]])
    for arm, block in enumerate(blocks(record)):
        np.testing.assert_allclose(block, wanted[arm, : len(block)], rtol=1e-5)


def test_errors_agree_with_the_oracle(halved, model_folder):
    noise = ImageNoise(0, 301, LATENT)[range(12)]
    assert_agrees(records_of(halved)[301], model_folder, noise, image_of(301))


def test_errors_of_v_prediction_agree_with_the_oracle(run_main, tmp_path, v_model_folder):
    result = run_main(SCRIPT, *options(v_model_folder, n_samples="2 5"), "--seed", 9, *subset(tmp_path, 301))
    noise = ImageNoise(9, 301, LATENT)[range(5)]
    assert_agrees(records_of(result)[301], v_model_folder, noise, image_of(301))


def test_the_published_way_decides_the_same(halved, model_folder):
    """In a plain loop over prompts and batches of levels, for the same NFE."""
    pipe = StableDiffusionPipeline.from_pretrained(model_folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    text, _ = pipe.encode_prompt(PROMPTS, "cpu", 1, False)
    for index, record in records_of(halved).items():
        noise = ImageNoise(0, index, LATENT)[range(12)]
        wanted = PLAIN_LOOP(pipe, image_of(index), text, noise, [3, 1], [4, 12], batch_size=8)
        assert (record["pred"], record["nfe"]) == wanted


def test_a_record_holds_what_it_says(run_main, tmp_path, model_folder):
    result = run_main(SCRIPT, *options(model_folder), "--n_trials", 2, "--loss", "l1", *subset(tmp_path, 5))
    (record,) = records_of(result).values()
    assert record["index"] == 5 and record["losses"] == list(LOSSES)
    assert record["label"] == load_dataset("digits").labels[5]
    # the grid of 12 in 1000 that reaches the noisy end, four of it first, each level twice
    grid = [1000 * (2 * k + 1) // 24 for k in range(12)]
    first = [grid[k] for k in (1, 4, 7, 10)]
    order = first + [t for t in grid if t not in first]
    assert record["levels"].tolist() == [t for t in order for _ in range(2)]
    assert record["noise"].tolist() == [2 * grid.index(t) + k for t in order for k in range(2)]
    # ten classes on 8 points, three on 24
    counts, stage = record["counts"].numpy(), np.array([b[:8, 1].mean(dtype=np.float64) for b in blocks(record)])
    assert sorted(counts) == [8] * 7 + [24] * 3 and set(np.flatnonzero(counts == 24)) == set(np.argsort(stage)[:3])
    assert record["nfe"] == counts.sum() == 7 * 8 + 3 * 24 and record["decided"]
    assert record["errors"].shape == (record["nfe"], 3) and record["errors"].dtype == torch.float32
    last = [b[:, 1].mean(dtype=np.float64) if len(b) == 24 else np.inf for b in blocks(record)]
    assert record["pred"] == np.argmin(last)
    best, second, *_ = sorted(last)
    assert record["margin"] == pytest.approx(second / best - 1, rel=1e-9)


def test_the_noise_bank_gives_row_k_to_level_k(run_main, tmp_path, model_folder):
    """Of the grid, for every image; rows beyond the schedule are not used."""
    bank = torch.randn(20, *LATENT, generator=torch.Generator().manual_seed(3))
    torch.save(bank, tmp_path / "bank.pt")
    args = [*options(model_folder, to_keep="1", n_samples="5"), "--noise_path", tmp_path / "bank.pt"]
    args += subset(tmp_path, 1, 2)
    for index, record in records_of(run_main(SCRIPT, *args)).items():
        assert record["noise"].tolist() == list(range(5))
        wanted = oracle.errors(model_folder, image_of(index), [PROMPTS[2]], record["levels"].tolist(), bank)
        np.testing.assert_allclose(blocks(record)[2], wanted[0], rtol=1e-5)
    torch.save(torch.cat([bank, bank]), tmp_path / "bank.pt")
    again = run_main(SCRIPT, *args)
    assert again.code == 0 and "2 done before" in again.out
    torch.save(bank + 1, tmp_path / "bank.pt")
    other = run_main(SCRIPT, *args)
    assert other.code == 2 and "noise" in other.error.problem


# ---- a result depends on its options alone; workers that share a halving are in test_cluster.py ----


def test_batch_size_changes_no_bit_with_two_threads(run_main, tmp_path, model_folder, two_threads):
    args = [*options(model_folder, n_samples="2 4"), *subset(tmp_path, 4)]
    seven, many = (records_of(run_main(SCRIPT, *args, "-b", b, log=f"b{b}")) for b in (7, 100))
    assert_same(seven, many)


def test_finished_runs_load_no_model(run_main, a_run, halving, halved, monkeypatch):
    module = import_script(SCRIPT)
    monkeypatch.setattr("diffusion.models.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    again = run_main(module, *halving, "--load_stats")
    assert again.code == 0 and "4 images, 4 done before" in again.out
    assert table_of(again) == table_of(halved)


def test_load_stats_counts_what_was_done_before(run_main, a_run, halving):
    """One of four images is left, one is made wrong: the bar shows the accuracy over all four."""
    (a_run / "301.pt").unlink()
    record = load_record(a_run / "000.pt")
    torch.save(record | {"pred": record["label"] + 1}, a_run / "000.pt")
    result = run_main(SCRIPT, *halving, "--load_stats")
    right = [record["pred"] == record["label"] for record in records_of(result).values()]
    assert len(right) == 4 and f"{np.mean(right):.1%} right" in result.err and "64 NFE each" in result.err


# ---- the race ----


@pytest.mark.parametrize(
    "loss, trials, bank, noise", [("l1", 2, False, None), ("l2", 1, True, None), ("huber", 1, True, "antithetic")]
)
def test_a_race_sees_what_the_full_grid_sees(run_main, tmp_path, model_folder, loss, trials, bank, noise):
    """The same bits at the same points, the same answer, for less; and who runs how far is what race() says of them."""
    torch.save(torch.randn(40, *LATENT, generator=torch.Generator().manual_seed(3)), tmp_path / "bank.pt")
    more = ["--loss", loss, "--n_trials", trials, *subset(tmp_path, 0, 301)]
    more += ["--noise_path", tmp_path / "bank.pt"] * bank
    pairs = noise == "antithetic" or not bank
    part = ["--levels", "0.2-0.8", "--noise", "antithetic" if pairs else "independent"]  # a race's own
    grid = records_of(run_main(SCRIPT, *options(model_folder, to_keep="1", n_samples="20"), *part, *more))
    given = ["--noise", noise] if noise else []
    raced = records_of(run_main(SCRIPT, *race_options(model_folder, "--max_samples", 20), *given, *more))
    assert raced.keys() == grid.keys()
    points = points_of(200 + (spread_pairs if pairs else spread_sequence)(20, 600), trials, pairs=pairs)
    column = LOSSES.index(loss)
    for index, record in raced.items():
        whole, seen = grid[index], len(record["levels"])
        assert (record["levels"].tolist(), record["noise"].tolist()) == (points[0][:seen], points[1][:seen])
        assert ("signs" in record) == pairs
        if pairs:
            assert record["signs"].tolist() == [1, -1] * (seen // 2)
            assert dict(zip(*both(record), strict=True)).items() <= dict(zip(*both(whole), strict=True)).items()
        at = both(whole)[0]
        for block, full in zip(blocks(record), blocks(whole), strict=True):
            assert np.array_equal(block, full[[at.index(point) for point in both(record)[0][: len(block)]]])
        left, counts, nfe = replayed(whole, points, column, np.arange(10), z=3.0, pairs=pairs)
        assert record["counts"].tolist() == counts and record["nfe"] == nfe and record["decided"]
        assert [record["pred"]] == left == [whole["pred"]]
        means = [b[:, column].mean(dtype=np.float64) for b in blocks(record) if len(b) == seen]
        margin = np.divide(*sorted(means)[1::-1]) - 1 if len(means) > 1 else np.inf
        assert record["margin"] == pytest.approx(margin, rel=1e-9)
    assert sum(record["nfe"] for record in raced.values()) < 0.7 * sum(record["nfe"] for record in grid.values())


def test_a_race_depends_on_its_options_alone(run_main, race, raced):
    """Not on the batch, on who is in flight, on workers; resumed after half, it ends as if nothing had happened."""
    reference = records_of(raced)
    assert len({record["nfe"] for record in reference.values()}) > 1
    for worker, batch_size, in_flight in ((1, 7, 1), (0, 64, 3)):
        shared = ["-b", batch_size, "--in_flight", in_flight, "--n_workers", 2, "--worker_idx", worker]
        result = run_main(SCRIPT, *race, *shared)
    assert_same(records_of(result), reference)

    folder = folder_of(result)
    for index in (0, 301):
        (folder / f"{index:03d}.pt").unlink()
    (folder / ".301.pt.elsewhere-1").write_bytes(b"half")  # as a writer leaves it that dies a moment later
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.pt")}
    resumed = run_main(SCRIPT, *race)
    assert resumed.code == 0 and "4 images, 2 done before, at most 200 NFE each, at most 400 NFE to do" in resumed.out
    assert len(kept) == 2 and {path: path.stat().st_mtime_ns for path in kept} == kept
    names = [f"{index:03d}.pt" for index in reference]
    assert sorted(os.listdir(folder)) == [".index", *names, "results.json", "run.json"]
    assert_same(records_of(resumed), reference)


def test_a_budget_ends_a_race(run_main, model_folder, race, raced):
    """Before it is exceeded; what was not decided says so, and the leader is taken."""
    free = records_of(raced)
    limit = sorted(record["nfe"] for record in free.values())[2] - 1  # some need less, some more
    result = run_main(SCRIPT, *race, "--budget", limit)
    assert folder_of(result).name == f"v{model_folder.name}_1trials_race_2.5z_20samples_{limit}NFE"
    for index, record in records_of(result).items():
        assert record["nfe"] <= limit and record["decided"] == (free[index]["nfe"] <= limit)
        if record["decided"]:
            assert_same({index: record}, {index: free[index]})
            continue
        for block, whole in zip(blocks(record), blocks(free[index]), strict=True):
            assert np.array_equal(block, whole[: len(block)])
        last = len(record["levels"])
        means = [b[:, 0].mean(dtype=np.float64) if len(b) == last else np.inf for b in blocks(record)]
        assert record["pred"] == np.argmin(means)
    assert {record["decided"] for record in records_of(result).values()} == {True, False}


def test_what_a_race_leaves(run_main, tmp_path, model_folder, halved, raced):
    """Its options in run.json, and what the other scripts make of it."""
    folder = folder_of(raced)
    assert folder.name == f"v{model_folder.name}_1trials_race_2.5z_20samples" and folder.parent.name == "digits"
    found = read_run(folder)["options"]
    assert (found["search"], found["z"], found["max_samples"], found["budget"]) == ("race", 2.5, 20, None)
    assert not {"to_keep", "n_samples"} & found.keys()
    found = read_run(folder_of(halved))["options"]
    assert found["search"] == "halving" and not {"z", "max_samples", "budget"} & found.keys()

    records = records_of(raced)
    right = np.mean([record["pred"] == record["label"] for record in records.values()])
    printed = run_main(PRINT, folder)
    assert printed.code == 0 and printed.out.splitlines()[3:] == table_of(raced)
    assert "4 of 4" in printed.out and f"top-1 accuracy  {100 * right:.2f}%" in printed.out
    assert f"(in all {sum(record['nfe'] for record in records.values()):,})" in printed.out
    right = 0
    for record in records.values():
        means = [b[:, 1].mean() if len(b) == len(record["levels"]) else np.inf for b in blocks(record)]
        right += np.argmin(means) == record["label"]
    other = run_main(PRINT, folder, "--loss", "l1", "--confusion", tmp_path / "c.png")
    assert other.code == 0 and f"top-1 accuracy  {100 * right / 4:.2f}%" in other.out
    drawn = run_main("scripts/plot_errors.py", folder, tmp_path / "errors.png")
    assert drawn.code == 0, drawn.err
    assert Image.open(tmp_path / "errors.png").format == Image.open(tmp_path / "c.png").format == "PNG"


# ---- a reduced dtype: its rounding is noise like any other, which a race's standard errors contain ----


def test_ties_in_bfloat16_cost_no_more_than_others(run_main, tmp_path, model_folder):
    """Classes 0 and 1 have the same prompt: an image of a zero is a tie, in both dtypes to the bit."""
    rows = [f"a photo of the number {WORDS[max(k, 1) - 1]}.,{k},{k}" for k in range(10)]
    labels = load_dataset("digits").labels
    zero, six = labels.index(0), labels.index(6)
    args = [*options(model_folder, to_keep="1", n_samples="10"), *subset(tmp_path, zero, six)]
    args += ["--prompt_path", csv_of(tmp_path / "p.csv", *rows)]
    exact, coarse = (run_main(SCRIPT, *args, "--dtype", d, log=d) for d in ("float32", "bfloat16"))
    assert exact.code == coarse.code == 0, coarse.err
    exact, coarse = records_of(exact), records_of(coarse)
    assert exact[zero]["margin"] == coarse[zero]["margin"] == 0
    for index in (zero, six):
        assert exact[index]["nfe"] == coarse[index]["nfe"] == 100 and coarse[index]["pred"] == exact[index]["pred"]
        assert not torch.equal(coarse[index]["errors"], exact[index]["errors"])


def test_a_race_in_bfloat16_decides_as_one_in_float32(run_main, race, raced):
    """Rounding decides nothing where it is small beside the noise; each image is measured once, in bfloat16."""
    exact, coarse = records_of(raced), records_of(run_main(SCRIPT, *race, "--dtype", "bfloat16"))
    assert coarse.keys() == exact.keys()
    for index, record in coarse.items():
        assert record["nfe"] == record["counts"].sum() and record["pred"] == exact[index]["pred"]


# ---- prompts ----

# as a csv may have them: class ids in any order, three prompts of class 0, and one of class 7 that is repeated
ARMS = [7, 3, 0, 9, 1, 0, 2, 8, 4, 6, 5, 0, 7]


@pytest.fixture
def several(tmp_path) -> Path:
    rows = [ROWS[k] for k in ARMS]
    rows[5], rows[11] = "a photo of a red zero.,zero,0", "a photo of a blue zero.,zero,0"
    return csv_of(tmp_path / "p.csv", *rows)


def test_several_prompts_per_class(run_main, model_folder, few, halved, several):
    """The error of a class is the mean of its prompts'; pred is the class id of the csv, not its row."""
    arm_class, single = np.array(ARMS), records_of(halved)
    records = records_of(run_main(SCRIPT, *options(model_folder), *few, "--prompt_path", several))
    assert records.keys() == single.keys()
    for index, record in records.items():
        arms, counts = blocks(record), record["counts"].numpy()
        first = np.array([block[:4, 0].mean() for block in arms])
        stage = [first[arm_class == k].mean() for k in range(10)]
        assert set(arm_class[counts == 12]) == set(np.argsort(stage)[:3])
        last = np.array([block[:, 0].mean() if len(block) == 12 else np.inf for block in arms])
        assert record["pred"] == np.argmin([last[arm_class == k].mean() for k in range(10)])
        for arm, class_id in enumerate(ARMS):  # the same points as with one prompt per class, the same errors
            if arm not in (5, 11):
                other = blocks(single[index])[class_id]
                shared = min(len(arms[arm]), len(other))
                np.testing.assert_allclose(arms[arm][:shared], other[:shared], rtol=2e-6)


def test_a_race_of_classes_with_several_prompts(run_main, tmp_path, model_folder, several):
    """Each counts in NFE and budget."""
    args = [*subset(tmp_path, 0, 301), "--prompt_path", several]
    part = ["--levels", "0.2-0.8", "--noise", "antithetic"]  # a race's own
    grid = records_of(run_main(SCRIPT, *options(model_folder, to_keep="1", n_samples="12"), *part, *args))
    points = points_of(200 + spread_pairs(12, 600), pairs=True)
    classes, arm_class = np.unique(ARMS, return_inverse=True)
    for budget in (None, 40):
        given = ["--budget", budget] if budget else []
        how = {"budget": budget} if budget else {}
        raced = records_of(run_main(SCRIPT, *race_options(model_folder, "--max_samples", 12), *given, *args))
        for index, record in raced.items():
            left, counts, nfe = replayed(grid[index], points, 0, arm_class, pairs=True, z=3.0, **how)
            assert record["counts"].tolist() == counts and record["pred"] == classes[left[0]]
            assert record["nfe"] == sum(counts) == nfe <= (budget or np.inf)
            assert record["decided"] == (len(left) == 1)


# ---- names of folders ----


@pytest.mark.parametrize(
    "change, name",
    [
        ({"loss": "huber", "img_size": 256}, "cifar10/v2-0_1trials_5_1keep_50_500samples_huber_256"),
        ({"img_size": 512}, "cifar10/v2-0_1trials_5_1keep_50_500samples_l1"),
        ({"version": "/models/my sd/"}, "cifar10/vmy_sd_1trials_5_1keep_50_500samples_l1"),
        ({"dataset": "/data/my pets.csv"}, "my_pets/v2-0_1trials_5_1keep_50_500samples_l1"),
        ({"dataset": "hf:me/pets"}, "pets/v2-0_1trials_5_1keep_50_500samples_l1"),
        ({"dataset": "../.."}, "data/v2-0_1trials_5_1keep_50_500samples_l1"),
        ({"search": "race", "noise": "independent"}, "cifar10/v2-0_1trials_race_3z_500samples_l1_independent"),
        (
            {"search": "race", "noise_path": "n.pt", "noise": "antithetic", "levels": "0-1"},
            "cifar10/v2-0_1trials_race_3z_500samples_l1_levels0-1_antithetic",
        ),
        (
            {
                "search": "race",
                "z": 2.5,
                "budget": 2000,
                "max_samples": 64,
                "interpolation": "lanczos",
                "img_size": 256,
            },
            "cifar10/v2-0_1trials_race_2.5z_64samples_2000NFE_lanczos_l1_256",
        ),
    ],
)
def test_name_of_the_folder(change, name, monkeypatch):
    module = import_script(SCRIPT)
    published = {"dataset": "cifar10", "loss": "l1", "device": "cpu"}
    if "search" not in change:
        published |= {"to_keep": [5, 1], "n_samples": [50, 500]}
    args = Namespace(**vars(module.parser().parse_args([])) | published | change)
    monkeypatch.setattr(naming, "LOG_DIR", Path("data"))
    config = RunConfig.from_args(args, {})
    usable = usable_levels(config.level_range, 1000)
    schedule = module.schedule_of(args, config, np.ones(10, dtype=int), usable, None, None)
    run_name = module.run_name(args, config, schedule, "")
    assert str(naming.run_folder(config.dataset, config.extra, run_name)) == f"data/{name}"


# ---- from the shell ----


def test_from_the_shell(run_script, run_main, tmp_path):
    """The alias, the folder under LOG_DIR, and the table, which is the one that print_acc.py prints."""
    args = options("digits", to_keep="2 1", n_samples="2 4")
    result = run_script(SCRIPT, *args, *subset(tmp_path, 0, 1), "--loss", "l1", "--extra", "x")
    assert result.code == 0, result.err
    folder = tmp_path / "data/digits_x/vdigits_1trials_2_1keep_2_4samples_l1"
    assert sorted(os.listdir(folder)) == [".index", "000.pt", "001.pt", "results.json", "run.json"]
    prompts, head, weights, embeddings, *table = result.out.splitlines()
    assert prompts.startswith("10 prompts of 10 classes, from prompts/digits_prompts.csv")
    assert head == f"digits, test split: 2 images, 0 done before, 24 NFE each, 48 NFE to do -> {folder}"
    assert weights == "digits: 0.01 GB of weights, the network's in float32"
    size = "122.9 kB of embeddings"  # of each prompt 24 tokens of 128 float32 numbers
    assert embeddings == f"10 prompts kept as {size}"
    assert [line.split()[0] for line in table] == ["images", "top-1", "mean", "NFE"]
    assert "2 of 2" in table[0] and "24" in table[3] and "48" in table[3]  # 10 x 2 + 2 x 2 each
    assert "2/2" in result.err and "24 NFE each" in result.err and "NFE/s" in result.err
    printed = run_main("scripts/print_acc.py", folder)
    assert printed.code == 0 and printed.out.splitlines()[3:] == table
    about = [("run", folder), ("model", "digits"), ("data", "digits, test split")]
    assert printed.out.splitlines()[:3] == [f"{name:<15} {value}" for name, value in about]


def test_images_that_are_not_finite_are_left_out(run_main, tmp_path, model_folder):
    bank = torch.randn(1, *LATENT)
    bank[0, 0, 0, 0] = torch.nan
    torch.save(bank, tmp_path / "bank.pt")
    args = [*options(model_folder, to_keep="1", n_samples="1"), "--noise_path", tmp_path / "bank.pt"]
    result = run_main(SCRIPT, *args, *subset(tmp_path, 0, 4))
    assert result.code == 1 and records_of(result) == {}
    assert "image 0: the network's predictions are not all finite" in result.err and "image 4: " in result.err


# ---- print_acc.py ----


def test_print_acc_scores_by_another_loss(run_main, a_run):
    """Among the classes measured to the end, and without a model."""
    wrong = {"l2": 0, "l1": 0, "huber": 0}
    for path in a_run.glob("*.pt"):
        record = load_record(path)
        # make the losses disagree: of the classes left, l1 prefers the first and huber the last
        arms, left = blocks(record), np.flatnonzero(record["counts"].numpy() == 12)
        for rank, arm in enumerate(left):
            arms[arm][:, 1], arms[arm][:, 2] = rank, -rank
        torch.save(record | {"errors": torch.from_numpy(np.concatenate(arms))}, path)
        wrong["l2"] += record["pred"] != record["label"]
        wrong["l1"] += left[0] != record["label"]
        wrong["huber"] += left[-1] != record["label"]
    for args, loss in (([], "l2"), (["--loss", "l1"], "l1"), (["--loss", "huber"], "huber")):
        result = run_main(PRINT, a_run, *args)
        assert result.code == 0 and f"top-1 accuracy  {100 * (1 - wrong[loss] / 4):.2f}%" in result.out
        assert "4 of 4" in result.out and f"{7 * 4 + 3 * 12}" in result.out


def test_print_acc_of_three_whole_records(run_main, tmp_path, a_run):
    """While the run goes on; and where a record is damaged, which is named. Anyone can open the others."""
    (a_run / "000.pt").unlink()
    (a_run / ".000.pt.host-1").write_bytes(b"half")
    result = run_main(PRINT, a_run, "--confusion", tmp_path / "c.png")
    assert result.code == 0 and "3 of 4" in result.out and not result.err
    assert Image.open(tmp_path / "c.png").format == "PNG"
    for path in a_run.glob("*.pt"):  # ints, strings, lists and tensors, which the restricted loader takes as it is
        record = torch.load(path, weights_only=True)
        plain = {key: type(value) for key, value in record.items() if not isinstance(value, torch.Tensor)}
        assert plain == PLAIN
    (a_run / "000.pt").write_bytes(b"half")
    result = run_main(PRINT, a_run)
    assert result.code == 1 and "3 of 4" in result.out and len(result.err.splitlines()) == 1
    assert str(a_run / "000.pt") in result.err


def test_print_acc_of_published_files(run_main, tmp_path):
    """Only pred and label, numpy scalars; no run.json. Five of six, and (3/3 + 1/2 + 1/1) / 3."""
    for k, (pred, label) in enumerate([(0, 0), (0, 0), (0, 0), (1, 1), (0, 1), (5, 5)]):
        torch.save({"errors": torch.zeros(6, 3), "pred": np.int64(pred), "label": label}, tmp_path / f"{k:04d}.pt")
    result = run_main(PRINT, tmp_path, "--confusion", tmp_path / "c.png")
    assert result.code == 0 and not result.err
    lines = result.out.splitlines()
    assert len(lines) == 3 and lines[0].split() == ["images", "6", "of", "6"]
    assert "83.33%" in lines[1] and "43.65 to 96.99" in lines[1] and "83.33%" in lines[2]
    with Image.open(tmp_path / "c.png") as image:
        assert image.format == "PNG" and min(image.size) > 100
    assert run_main(PRINT, tmp_path, "--loss", "l1").error.where == "--loss l1"
