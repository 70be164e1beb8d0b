"""Fewer classes to search: candidates of a first stage, and groups that race first; from the command line."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_eval_prob_adaptive import (
    SCRIPT,
    assert_same,
    blocks,
    csv_of,
    folder_of,
    options,
    race_options,
    records_of,
    subset,
    table_of,
)  # fmt: skip

from diffusion import candidates, metrics
from diffusion.datasets import load_dataset, prompts_file, read_prompts
from diffusion.records import competitors, read_run
from diffusion.search import replay, tree

ACC, DIT = "scripts/print_acc.py", "eval_prob_dit.py"
IMAGES = (0, 3, 10, 301)
COLOURED = ["--dataset", "digits-colour"]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return subset(tmp_path_factory.mktemp("few"), *IMAGES)


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """Random scores of digits' ten classes, and the file they are in."""
    path = tmp_path_factory.mktemp("scores") / "mine.npy"
    table = np.random.default_rng(0).standard_normal((497, 10))
    np.save(path, table)
    return table, path


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


# ---- candidates ----


def test_the_best_by_hand():
    assert candidates.best(np.array([1.0, 3, 3, -1, 2]), 3).tolist() == [1, 2, 4]
    assert candidates.best(np.array([0.0, 0, 0]), 2).tolist() == [0, 1]  # ties: the smaller class
    assert candidates.best(np.array([-np.inf, 1, np.inf]), 2).tolist() == [2, 1]


def test_clip_chooses_as_a_plain_loop_does(run_main, few, model_folder):
    """And all that is measured is the same bits as without it."""
    args = [*race_options(model_folder, "--max_samples", 20), *few, *COLOURED]
    plain = records_of(run_main(SCRIPT, *args))
    result = run_main(SCRIPT, *args, "--candidates", 4, "--candidates_from", "clip:digits")
    assert folder_of(result).name.endswith("_4of_clip_digits")
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
    told = read_run(folder_of(result))["options"]
    assert (told["candidates"], told["candidates_from"]) == (4, "clip:digits")


def test_all_classes_as_candidates_are_the_plain_run(run_main, few, model_folder, scores):
    args = [*options(model_folder), *few]
    plain = records_of(run_main(SCRIPT, *args))
    result = run_main(SCRIPT, *args, "--candidates", 10, "--candidates_from", scores[1])
    for index, record in records_of(result).items():
        assert record.pop("candidates") == np.argsort(-scores[0][index]).tolist()
        assert_same({index: record}, {index: plain[index]})
    assert "candidates" not in read_run(folder_of(run_main(SCRIPT, *args)))["options"]  # as before there were any


def test_recall_is_how_often_the_label_is_a_candidate(run_main, tmp_path, model_folder, scores):
    """At the end of a run, by print_acc.py, and by hand; one with the truth has all of it."""
    few = subset(tmp_path, *range(0, 497, 60))
    args = [*options(model_folder, to_keep="1", n_samples="2"), *few]
    result = run_main(SCRIPT, *args, "--candidates", 4, "--candidates_from", scores[1])
    labels = load_dataset("digits").labels
    hits = [labels[k] in np.argsort(-scores[0][k])[:4] for k in range(0, 497, 60)]
    line = next(line for line in table_of(result) if line.startswith("recall"))
    assert 0 < np.mean(hits) < 1 and f" {100 * np.mean(hits):.2f}%" in line and line.endswith("among 4 candidates")
    assert line in run_main(ACC, folder_of(result)).out
    for more in (["--top", 3], ["--loss", "l1"], ["--confusion", tmp_path / "c.png"]):
        assert line in run_main(ACC, folder_of(result), *more).out
    assert run_main("scripts/plot_errors.py", folder_of(result), tmp_path / "e.png").code == 0
    truth = tmp_path / "truth.npy"
    np.save(truth, np.eye(10, dtype=int)[labels])
    result = run_main(SCRIPT, *args, "--candidates", 2, "--candidates_from", truth)
    assert "100.00%" in next(line for line in table_of(result) if line.startswith("recall"))


def test_it_does_not_matter_who_measures_what(run_main, few, model_folder):
    """Other batches, two workers, a second start: the same bits."""
    args = [*race_options(model_folder), *few, "--candidates", 3, "--candidates_from", "clip:digits"]
    alone = records_of(run_main(SCRIPT, *args))
    for worker in (0, 1):
        shared = run_main(SCRIPT, *args, "-b", 7, "--n_workers", 2, "--worker_idx", worker, log="shared")
    assert_same(alone, records_of(shared))
    again = run_main(SCRIPT, *args)
    assert "4 done before" in again.out and "recall" in again.out


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
    result = run_main(DIT, *args, "--search", "race", "--randomize_noise")
    for row, record in zip(clip_scores("digits", IMAGES), records_of(result).values(), strict=True):
        assert record["candidates"] == np.argsort(-row)[:4].tolist()
        assert set(np.flatnonzero(record["counts"]).tolist()) == set(record["candidates"])
    result = run_main(DIT, *args)  # 25 levels of four, 250 of half of them
    assert "550 NFE" in result.out and all(record["nfe"] == 550 for record in records_of(result).values())


@pytest.mark.parametrize("script, words, said", [
    (SCRIPT, "--candidates 1 --candidates_from clip:digits", "--candidates 1: must be in 2..10, the classes"),
    (SCRIPT, "--candidates 11 --candidates_from clip:digits", "--candidates 11: must be in 2..10"),
    (SCRIPT, "--candidates 3", "--candidates 3: wanted --candidates_from too"),
    (SCRIPT, "--candidates_from clip:digits", "--candidates_from: is for --candidates K"),
    (SCRIPT, "--candidates 3 --candidates_from clip:nonsense", "clip:nonsense: open_clip has no such"),
    (SCRIPT, "--candidates 3 --candidates_from none.npy", "--candidates_from none.npy: cannot be read as npy"),
    (SCRIPT, "--candidates 3 --candidates_from {narrow}", "holds float64 [497, 9], wanted numbers [images, classes] = "
     "[497, 10]"),
    (SCRIPT, "--candidates 3 --candidates_from {short}", "holds float64 [5, 10]"),
    (SCRIPT, "--candidates 3 --candidates_from {texts}", "holds <U1 [497, 10]"),
    (SCRIPT, "--candidates 3 --candidates_from {nan}", "nan at [7, 2]"),
    (SCRIPT, "--candidates 3 --candidates_from {narrow} --pretrained x", "--pretrained: is for --candidates_from"),
    (SCRIPT, "--candidates 3 --candidates_from {good} --to_keep 5 1 --n_samples 2 4", "cannot keep 5 of 3 classes"),
    (SCRIPT, "--candidates 3 --candidates_from {good} --search race --budget 5", "the first look alone takes 6"),
    (DIT, "--candidates 3 --candidates_from {good} --cls 0-4", "--candidates: of a part of the classes"),
])  # fmt: skip
def test_refusals(run_main, tmp_path, model_folder, dit_folder, script, words, said):
    bad = {
        "narrow": np.zeros((497, 9)), "short": np.zeros((5, 10)), "texts": np.full((497, 10), "a"),
        "nan": np.where(np.arange(4970).reshape(497, 10) == 72, np.nan, 0), "good": np.zeros((497, 10)),
    }  # fmt: skip
    for name, array in bad.items():
        np.save(tmp_path / f"{name}.npy", array)
    paths = {name: tmp_path / f"{name}.npy" for name in bad}
    start = ["--dataset", "digits", "--device", "cpu", "--version", model_folder if script == SCRIPT else dit_folder]
    start += [] if script == DIT or "--to_keep" in words or "race" in words else ["--to_keep", 1, "--n_samples", 2]
    result = run_main(script, *start, *words.format(**paths).split())
    assert result.code == 2 and said in result.err and result.err.count("\n") == 1
    assert not (tmp_path / "data").exists()


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


def test_groups_race_first(run_main, few, model_folder, grouped):
    """As `tree` does on the errors of the full grid, with the same bits; and the answer is the plain race's."""
    args = [*race_options(model_folder, "--max_samples", 16, "--levels", "0-1"), *few, *COLOURED]
    full = records_of(run_main(SCRIPT, *options(model_folder, to_keep="1", n_samples="16"), *few, *COLOURED))
    plain = records_of(run_main(SCRIPT, *args))
    result = run_main(SCRIPT, *args, "--prompt_path", grouped, log="grouped")
    groups = np.repeat(np.arange(6), 10)
    for index, record in records_of(result).items():
        assert record["pred"] == plain[index]["pred"] and record["nfe"] < plain[index]["nfe"]
        place = {level: k for k, level in enumerate(full[index]["levels"].tolist())}
        order = [place[level] for level in np.sort(full[index]["levels"].numpy()).tolist()]
        errors = np.stack(blocks(full[index]))[:, order]  # levels ascending
        spread = np.searchsorted(np.sort(full[index]["levels"].numpy()), levels_of_race(16))
        winner, nfe = replay(
            tree(levels_of_race(16), np.ones(60, dtype=int), groups, 3.0),
            errors[:, spread, 0].astype(float),
            np.ones(60, dtype=int),
        )
        assert (record["pred"], record["nfe"]) == (winner, nfe)
        for arm, block in enumerate(blocks(record)):
            np.testing.assert_array_equal(block, errors[arm, spread[: len(block)]])
        assert metrics.rescore(record, np.arange(60), "l2") == winner
    told = read_run(folder_of(result))["options"]["groups"]
    assert told[:11] == ["red"] * 10 + ["green"]
    assert run_main(ACC, folder_of(result), "--top", 5).code == 0


def levels_of_race(n: int) -> np.ndarray:
    from diffusion.search import spread_sequence

    return spread_sequence(n, 1000)


def test_candidates_race_in_their_groups(run_main, few, model_folder, grouped):
    args = [*race_options(model_folder), *few, *COLOURED, "--prompt_path", grouped]
    result = run_main(SCRIPT, *args, "--candidates", 8, "--candidates_from", "clip:digits")
    for record in records_of(result).values():
        assert set(np.flatnonzero(record["counts"]).tolist()) <= set(record["candidates"])


def test_groups_are_for_the_race(run_main, few, model_folder, grouped):
    """A halving takes no notice of them; a budget does not go with them; a class has one."""
    args = [*options(model_folder), *few, *COLOURED]
    assert_same(
        records_of(run_main(SCRIPT, *args)), records_of(run_main(SCRIPT, *args, "--prompt_path", grouped, log="g"))
    )
    args = [*race_options(model_folder, "--budget", 500), *few, *COLOURED, "--prompt_path", grouped]
    result = run_main(SCRIPT, *args)
    assert result.code == 2 and "--budget 500: not with prompts that have groups" in result.err
    text = grouped.read_text()
    assert json.dumps(text).count("red") > 10
    wrong = grouped.with_name("wrong.csv")
    wrong.write_text(re.sub("a photo of a red one.,red one,1,red", "a photo of a red one.,red one,0,blue", text))
    result = run_main(SCRIPT, *race_options(model_folder), *COLOURED, "--prompt_path", wrong)
    assert result.code == 2 and "line 3: class 0 is in group 'blue', and above in 'red'" in result.err
