"""Searches replayed on a run that measured everything: what they cost and decide is what they do when they are run."""

import re

import numpy as np
import pytest
from conftest import import_script
from PIL import Image
from test_eval_prob_adaptive import csv_of, folder_of, options, race_options, records_of, subset

from diffusion.records import load_record

SCRIPT, EVAL = "scripts/plot_budget.py", "eval_prob_adaptive.py"
IMAGES = (0, 1, 10, 301)


def table(result) -> dict[tuple[str, str], tuple[float, float, float]]:
    """(search, setting) -> NFE per image, agreement and accuracy in percent."""
    assert result.code == 0, result.err
    row = re.compile(r"^(\S.{13}) (.{11}) +([\d,]+)   ([\d.]+) \(.*?\) +([\d.]+) \(", re.M)
    return {
        (name.strip(), setting.strip()): (float(nfe.replace(",", "")), float(agrees), float(right))
        for name, setting, nfe, agrees, right in row.findall(result.out)
    }


@pytest.fixture(scope="module")
def grid(run_once, tmp_path_factory, model_folder):
    """Ten classes, 11 prompts, 40 levels; few enough that not all races are over soon."""
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    rows = [f"a photo of the number {word}.,{word},{k}" for k, word in enumerate(words)]
    folder = tmp_path_factory.mktemp("budget")
    args = [*subset(folder, *IMAGES), "--prompt_path", csv_of(folder / "p.csv", *rows, "a photo of a red two.,two,2")]
    return args, folder_of(run_once(EVAL, *options(model_folder, to_keep="1", n_samples="40"), *args))


def test_a_replay_is_what_a_run_does(run_main, tmp_path, model_folder, grid):
    """Its NFE, and its answers, of races and of halvings."""
    args, folder = grid
    result = run_main(SCRIPT, folder, "--out", tmp_path / "budget.png")
    found = table(result)
    truth = {k: record["pred"] for k, record in records_of_folder(folder).items()}
    label = {k: record["label"] for k, record in records_of_folder(folder).items()}
    assert found["every class", "40 points"][:2] == (440, 100)
    for key, command in {
        ("race", "z 2"): race_options(model_folder, "--max_samples", 40, "--z", 2),
        ("race", "z 4"): race_options(model_folder, "--max_samples", 40, "--z", 4),
        ("halving", "4/40"): options(model_folder, to_keep="5 1", n_samples="4 40"),
    }.items():
        records = records_of(run_main(EVAL, *command, *args, log=f"{key}"))
        pred = {k: record["pred"] for k, record in records.items()}
        wanted = [[pred[k] == other[k] for k in IMAGES] for other in (truth, label)]
        nfe, agrees, right = found[key]
        assert nfe == pytest.approx(np.mean([record["nfe"] for record in records.values()]), abs=0.51)
        assert (agrees, right) == tuple(100 * np.mean(hits) for hits in wanted)
    with Image.open(tmp_path / "budget.png") as picture:
        assert picture.format == "PNG" and picture.width > 800


def records_of_folder(folder) -> dict[int, dict]:
    return {int(path.stem): load_record(path) for path in sorted(folder.glob("*.pt"))}


def test_the_paired_t_test_by_hand():
    """Class 1 is worse by 1 on average, with spread s at n points: t = sqrt(n) / s."""
    module = import_script(SCRIPT)
    spread = np.resize([-1.0, 1.0], 40)
    errors = np.stack([np.zeros(40), 1 + 1.5 * spread])
    # 20 points: s = 1.5 sqrt(20 / 19) = 1.539, t = 2.906, p = 0.0090 two-sided with 19 degrees of freedom
    for p_value, points in ((0.01, 20), (0.008, 21)):
        winner, nfe = module.replay(module.t_test(40, np.ones(2, dtype=int), p_value), errors, np.ones(2, dtype=int))
        assert winner == 0 and (nfe == 40) == (points == 20)


def test_a_run_that_dropped_classes_is_refused(run_main, tmp_path, model_folder):
    """There is nothing to replay where nothing was measured."""
    one = subset(tmp_path, 0)
    halved = folder_of(run_main(EVAL, *options(model_folder, to_keep="3 1", n_samples="2 4"), *one))
    result = run_main(SCRIPT, halved)
    assert result.code == 2 and "wanted a run of one stage" in result.err and result.err.count("\n") == 1
    for path in halved.glob("*.pt"):
        path.unlink()
    result = run_main(SCRIPT, halved)
    assert result.code == 2 and "no image is done yet" in result.err and result.err.count("\n") == 1


def test_another_loss_decides(run_main, grid):
    _, folder = grid
    own, l2, l1 = (table(run_main(SCRIPT, folder, *more)) for more in ([], ["--loss", "l2"], ["--loss", "l1"]))
    assert own == l2 and l2["race", "z 4"] != l1["race", "z 4"]
