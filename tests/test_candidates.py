"""Fewer classes to search: candidates of a first stage, and groups that race first; from the command line."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    ROOT,
    SCRIPT,
    assert_same,
    blocks,
    call_main,
    clip_scores,
    csv_of,
    folder_of,
    options,
    race_options,
    records_of,
    rewrite_run,
    subset,
    table_of,
)

from diffusion.core.search import replay, spread_pairs, tree
from diffusion.data.datasets import load_dataset
from diffusion.data.prompts import prompts_file, read_prompts
from diffusion.evaluate import candidates
from diffusion.runs.records import load_record, read_run, save_record
from diffusion.runs.results import competitors
from diffusion.stats import calibration, metrics

ACC, DIT, BASELINE = "scripts/print_acc.py", "eval_prob_dit.py", "scripts/baseline.py"
IMAGES = (3, 301)
COLOURED = ["--dataset", "digits-colour"]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return subset(tmp_path_factory.mktemp("few"), *IMAGES)


@pytest.fixture(scope="module")
def coloured(run_once, model_folder, few):
    """The plain race of 60 classes at 16 points, and the command that made it."""
    args = [*race_options(model_folder, "--max_samples", 16, "--levels", "0-1"), *few, *COLOURED]
    return records_of(run_once(SCRIPT, *args)), args


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """Random scores of digits' ten classes, and the file they are in."""
    path = tmp_path_factory.mktemp("scores") / "mine.npy"
    table = np.random.default_rng(0).standard_normal((497, 10))
    np.save(path, table)
    return table, path


# ---- candidates ----


def test_the_best_by_hand():
    assert candidates.best(np.array([1.0, 3, 3, -1, 2]), 3).tolist() == [1, 2, 4]
    assert candidates.best(np.array([0.0, 0, 0]), 2).tolist() == [0, 1]  # ties: the smaller class
    assert candidates.best(np.array([-np.inf, 1, np.inf]), 2).tolist() == [2, 1]


def test_clip_chooses_as_a_plain_loop_does(run_main, few, coloured):
    """And all that is measured is the same bits as without it; CLIP's records choose as CLIP does."""
    plain, args = coloured
    result = run_main(SCRIPT, *args, "--candidates", 4, "--candidates_from", "clip:digits")
    assert folder_of(result).name.endswith("_4of_clip_digits_levels0-1")
    wanted = clip_scores("digits-colour", IMAGES)
    for row, (index, record) in zip(wanted, records_of(result).items(), strict=True):
        kept = record["candidates"]
        assert kept == sorted(range(60), key=lambda k: -row[k])[:4] and record["pred"] in kept
        assert set(np.flatnonzero(record["counts"]).tolist()) == set(kept)
        assert record["nfe"] == record["counts"].sum()
        for arm in kept:
            one, other = blocks(record)[arm], blocks(plain[index])[arm]
            shared = min(len(one), len(other))
            np.testing.assert_array_equal(one[:shared], other[:shared])
    found = read_run(folder_of(result))["options"]
    assert (found["candidates"], found["candidates_from"]) == (4, "clip:digits")

    clip = folder_of(run_main(BASELINE, "--dataset", "digits-colour", "--model", "clip:digits", *few))
    same = records_of(run_main(SCRIPT, *args, "--candidates", 4, "--candidates_from", clip))
    assert [record.pop("first_nfe") for record in same.values()] == [1] * len(IMAGES)
    assert_same(same, records_of(result))


def test_all_classes_as_candidates_are_the_plain_run(run_main, few, model_folder, scores):
    args = [*options(model_folder), *few]
    plain = run_main(SCRIPT, *args)
    result = run_main(SCRIPT, *args, "--candidates", 10, "--candidates_from", scores[1])
    for index, record in records_of(result).items():
        assert record.pop("candidates") == np.argsort(-scores[0][index]).tolist()
        assert_same({index: record}, {index: records_of(plain)[index]})
    assert "candidates" not in read_run(folder_of(plain))["options"]  # as before there were any


def test_recall_is_how_often_the_label_is_a_candidate(run_main, tmp_path, model_folder, scores):
    """At the end of a run, by print_acc.py, and by hand."""
    images = range(0, 497, 60)
    args = [*options(model_folder, to_keep="1", n_samples="2"), *subset(tmp_path, *images)]
    result = run_main(SCRIPT, *args, "--candidates", 4, "--candidates_from", scores[1])
    labels = load_dataset("digits").labels
    hits = [labels[k] in np.argsort(-scores[0][k])[:4] for k in images]
    line = next(line for line in table_of(result) if line.startswith("recall"))
    assert 0 < np.mean(hits) < 1 and f" {100 * np.mean(hits):.2f}%" in line and line.endswith("among 4 candidates")
    for more in ([], ["--top", 3], ["--loss", "l1"], ["--confusion", tmp_path / "c.png"]):
        assert line in run_main(ACC, folder_of(result), *more).out
    assert run_main("scripts/plot_errors.py", folder_of(result), tmp_path / "e.png").code == 0


def test_several_prompts_of_a_class_are_one_candidate(run_main, tmp_path, few, model_folder):
    """Its score is their mean; all of them are measured."""
    pytest.importorskip("open_clip")
    texts = read_prompts(ROOT / "prompts" / prompts_file("digits")).texts
    rows = [f"{text},x,{9 - k}" for k, text in enumerate(texts)] + [f"{texts[3]},x,6", f"{texts[0]},x,6"]
    path = csv_of(tmp_path / "p.csv", *rows)
    args = [*options(model_folder, to_keep="1", n_samples="2"), *few, "--prompt_path", path]
    result = run_main(SCRIPT, *args, "--candidates", 3, "--candidates_from", "clip:digits")
    by_digit = clip_scores("digits", IMAGES)
    _, arm_class = competitors(read_run(folder_of(result)))
    for row, record in zip(by_digit, records_of(result).values(), strict=True):
        of_class = row[::-1].copy()
        of_class[6] = (row[3] + row[3] + row[0]) / 3
        assert record["candidates"] == np.argsort(-of_class)[:3].tolist()
        measured = record["counts"].numpy() > 0
        assert set(arm_class[measured]) == set(record["candidates"])
        assert measured.sum() == np.isin(arm_class, record["candidates"]).sum()


def test_dit_takes_candidates_too(run_main, few, dit_folder):
    args = ["--dataset", "digits", "--version", dit_folder, "--device", "cpu", *few]
    args += ["--candidates", 4, "--candidates_from", "clip:digits"]
    result = run_main(DIT, *args, "--search", "race", "--randomize_noise", "--max_samples", 16)
    for row, record in zip(clip_scores("digits", IMAGES), records_of(result).values(), strict=True):
        assert record["candidates"] == np.argsort(-row)[:4].tolist()
        assert set(np.flatnonzero(record["counts"]).tolist()) == set(record["candidates"])
    assert "550 an image" in run_main(DIT, *args, "--dry_run").out  # 25 levels of four, 250 of half of them


# ---- a run before a run ----


def record_by_hand(errors: list[list[float]]) -> dict:
    """errors: of each arm, at its points."""
    counts = torch.tensor([len(row) for row in errors])
    return {"losses": ["l2"], "counts": counts, "errors": torch.tensor([e for row in errors for e in row])[:, None]}


def test_the_last_dropped_by_hand():
    """Far came 2, 0, 1, then 4; class 3 was not measured; of equally far ones the smaller error counts."""
    record = record_by_hand([[1, 3, 4], [1, 1, 5], [1, 1, 2, 2], [], [0, 1]])
    assert candidates.last_dropped(record, np.arange(5), np.arange(5), "l2").tolist() == [2, 1, 0, 4]
    both = np.array([7, 5, 5, 6, 7])  # the rows of a class: 5 has the winner's, 7 the place of its better one
    assert candidates.last_dropped(record, both, np.arange(5), "l2").tolist() == [0, 2]
    arms = np.array([0, 0, 1, 2, 3])  # the first two are of one class, though of these it would not be the best
    record = record_by_hand([[1, 3], [1, 5], [2, 1], [], [2, 2]])
    assert candidates.last_dropped(record, np.array([3, 4, 8, 9]), arms, "l2").tolist() == [1, 3, 0]


@pytest.fixture(scope="module")
def first(tmp_path_factory, few, model_folder):
    """The folder of a run that costs 20 NFE an image, on a few of digits' images."""
    result = call_main(
        tmp_path_factory.mktemp("first"), SCRIPT, *options(model_folder, to_keep="1", n_samples="2"), *few
    )
    return folder_of(result)


@pytest.fixture
def copy(first, tmp_path):
    """`copy(name) -> folder`: the first run, under another name."""
    return lambda name: Path(shutil.copytree(first, tmp_path / name))


def test_a_run_chooses_as_its_scores_do(run_main, tmp_path, few, model_folder, first):
    """The same records as from a npy file of the scores of its records, which also say what the first run cost."""
    args = [*race_options(model_folder, "--max_samples", 16), *few, "--candidates", 4, "--candidates_from"]
    result = run_main(SCRIPT, *args, first)
    assert folder_of(result).name.endswith(f"_4of_run_{first.name}")
    table = np.zeros((497, 10))
    for index in IMAGES:
        record = load_record(first / f"{index:03d}.pt")
        table[index] = calibration.scores(record, np.arange(10), np.arange(10), "l2")
    np.save(tmp_path / "same.npy", table)
    other = run_main(SCRIPT, *args, tmp_path / "same.npy")
    found = records_of(result)
    assert [record.pop("first_nfe") for record in found.values()] == [20] * len(IMAGES)
    assert_same(found, records_of(other))
    last = "first stage     20 NFE per image"
    lines = table_of(result)
    lines.remove(last)
    assert lines == table_of(other)
    assert last in run_main(ACC, folder_of(result)).out and "first stage" not in run_main(ACC, first).out


def test_it_goes_on_wherever_the_first_run_lies(run_main, tmp_path, few, model_folder, first, copy):
    """Two workers, a second start, a first run that was moved: the same bits. Another first run is refused."""
    args = [*race_options(model_folder, "--max_samples", 16), *few, "--candidates", 3, "--candidates_from"]
    result = run_main(SCRIPT, *args, first)
    for worker in (0, 1):
        shared = run_main(SCRIPT, *args, first, "-b", 7, "--n_workers", 2, "--worker_idx", worker, log="shared")
    assert_same(records_of(result), records_of(shared))
    moved = tmp_path / "elsewhere" / first.name
    shutil.copytree(first, moved)
    (folder_of(result) / "003.pt").unlink()
    again = run_main(SCRIPT, *args, moved)
    assert "1 done before" in again.out and "first stage     20 NFE" in again.out
    assert_same(records_of(again), records_of(shared))
    told = json.loads((moved / "run.json").read_text())
    told["options"]["seed"] = 1
    rewrite_run(moved, told)
    refused = run_main(SCRIPT, *args, moved)
    assert refused.code == 2 and "holds a run with other options: candidates_from: its scores" in refused.err


def test_three_runs_count_all_before(run_main, few, model_folder, first):
    second = run_main(SCRIPT, *options(model_folder, to_keep="1", n_samples="3"), *few,
                      "--candidates", 6, "--candidates_from", first)  # fmt: skip
    third = run_main(SCRIPT, *race_options(model_folder, "--max_samples", 16), *few,
                     "--candidates", 3, "--candidates_from", folder_of(second))  # fmt: skip
    before = records_of(second)
    for index, record in records_of(third).items():
        assert record["first_nfe"] == 20 + 18 and set(record["candidates"]) < set(before[index]["candidates"])
    assert "first stage     38 NFE per image" in third.out


def test_a_run_of_another_model_and_kind(run_main, tmp_path, few, dit_folder, first):
    """DiT after prompts; DiT after DiT, whose folder is named with or without the split."""
    args = ["--dataset", "digits", "--version", dit_folder, "--device", "cpu", *few]
    after = [*args, "--search", "race", "--max_samples", 16, "--randomize_noise"]
    after += ["--candidates", 4, "--candidates_from"]
    for index, record in records_of(run_main(DIT, *after, first)).items():
        scores = calibration.scores(load_record(first / f"{index:03d}.pt"), np.arange(10), np.arange(10), "l2")
        assert record["candidates"] == candidates.best(scores, 4).tolist() and record["pred"] in record["candidates"]
    cheap = folder_of(run_main(DIT, *args, "--to_keep", 1, "--n_samples", 2))
    whole = run_main(DIT, *after, cheap)
    assert cheap.name == "test" and folder_of(whole).parent.name.endswith(f"_4of_run_{cheap.parent.name}")
    part = run_main(DIT, *after, cheap.parent)
    assert folder_of(part) == folder_of(whole) and "2 done before" in part.out
    assert table_of(part) == table_of(whole) and "first stage     20 NFE per image" in part.out


def change(folder: Path, **more) -> None:
    """Other options in a run.json; or beside them, where they are there."""
    run = json.loads((folder / "run.json").read_text())
    for key, value in more.items():
        (run if key in run else run["options"])[key] = value
    rewrite_run(folder, run)


def spoil(path: Path, **more) -> None:
    save_record(path, load_record(path) | more)


@pytest.mark.parametrize("how, said", [
    (lambda f: change(f, dataset="digits-two"), "on other images: dataset is 'digits-two', wanted 'digits'"),
    (lambda f: change(f, data="396, sha256 0"), "on other images: 396 images, now 497"),
    (lambda f: change(f, loss=None), "no loss there"),
    (lambda f: change(f, arms=[[f"a {k}.", "x", max(k, 1)] for k in range(10)]), "they differ in the ids [0]"),
    (lambda f: (f / "003.pt").unlink(), "1 of 2 images have no record there that will do: 3 (no record)"),
    (lambda f: [path.unlink() for path in f.glob("*.pt")], "2 of 2 images have no record there that will do: 3, 301"),
    (lambda f: spoil(f / "301.pt", first_nfe="x"), "first_nfe is 'x'"),
    (lambda f: spoil(f / "301.pt", counts=3), "301.pt: no record"),
    (lambda f: spoil(f / "301.pt", counts=torch.tensor([0] * 8 + [2, 2]), errors=torch.rand(4, 3)),
     "301.pt has 2 classes, wanted 3 and more)"),
])  # fmt: skip
def test_a_run_that_will_not_do(run_main, tmp_path, few, model_folder, copy, how, said):
    folder = copy("first")
    how(folder)
    args = [*race_options(model_folder), *few, "--candidates", 3, "--candidates_from", folder]
    result = run_main(SCRIPT, *args)
    assert result.code == 2 and not result.out and result.err.count("\n") == 1 and said in result.err, result.err
    assert f"--candidates_from {folder}" in result.err and not (tmp_path / "data").exists()


# ---- groups ----


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """The prompts of digits-colour, each in the group of its colour."""
    prompts = read_prompts(ROOT / "prompts" / prompts_file("digits-colour"))
    path = tmp_path_factory.mktemp("grouped") / "p.csv"
    rows = zip(prompts.texts, prompts.names, prompts.classes, strict=True)
    lines = [f"{text},{name},{k},{name.split()[0]}" for text, name, k in rows]
    path.write_text("\n".join(["prompt,classname,classidx,group", *lines]))
    return path


def test_groups_race_first(run_main, few, model_folder, grouped, coloured):
    """As `tree` does on the errors of the full grid, with the same bits; and the answer is the plain race's."""
    plain, args = coloured
    whole = [*options(model_folder, to_keep="1", n_samples="16"), "--noise", "antithetic"]
    full = records_of(run_main(SCRIPT, *whole, *few, *COLOURED))
    result = run_main(SCRIPT, *args, "--prompt_path", grouped, log="grouped")
    groups = np.repeat(np.arange(6), 10)
    order = spread_pairs(16, 1000)
    for index, record in records_of(result).items():
        assert record["pred"] == plain[index]["pred"] and record["nfe"] < plain[index]["nfe"]
        levels = full[index]["levels"].tolist()
        errors = np.stack(blocks(full[index]))[:, [levels.index(level) for level in order]]
        arms = np.ones(60, dtype=int)
        task = tree(order, arms, groups, 3.0, pairs=True)
        winner, nfe = replay(task, errors[:, :, 0].astype(float), arms)
        assert (record["pred"], record["nfe"]) == (winner, nfe)
        for arm, block in enumerate(blocks(record)):
            np.testing.assert_array_equal(block, errors[arm, : len(block)])
        assert metrics.rescore(record, np.arange(60), "l2") == winner
    found = read_run(folder_of(result))["options"]["groups"]
    assert found[:11] == ["red"] * 10 + ["green"]
    assert run_main(ACC, folder_of(result), "--top", 5).code == 0


def test_candidates_race_in_their_groups(run_main, coloured, grouped):
    args = [*coloured[1], "--prompt_path", grouped, "--candidates", 8, "--candidates_from", "clip:digits"]
    for record in records_of(run_main(SCRIPT, *args)).values():
        assert set(np.flatnonzero(record["counts"]).tolist()) <= set(record["candidates"])


def test_groups_are_for_the_race(run_main, few, model_folder, grouped):
    """A halving takes no notice of them; a budget does not go with them; a class has one."""
    args = [*options(model_folder, to_keep="1", n_samples="1"), *few, *COLOURED]
    plain, other = (run_main(SCRIPT, *args, *more) for more in ([], ["--prompt_path", grouped, "--extra", "g"]))
    assert_same(records_of(plain), records_of(other))
    args = [*race_options(model_folder, "--budget", 500), *few, *COLOURED, "--prompt_path", grouped]
    result = run_main(SCRIPT, *args)
    assert result.code == 2 and "--budget 500: not with prompts that have groups" in result.err
    text = grouped.read_text()
    assert json.dumps(text).count("red") > 10
    wrong = grouped.with_name("wrong.csv")
    wrong.write_text(re.sub("a photo of a red one.,red one,1,red", "a photo of a red one.,red one,0,blue", text))
    result = run_main(SCRIPT, *race_options(model_folder), *COLOURED, "--prompt_path", wrong)
    assert result.code == 2 and "line 3: class 0 is in group 'blue', and above in 'red'" in result.err
