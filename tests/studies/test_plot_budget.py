"""Searches replayed on a run that measured everything: what they cost and decide is what they do when they are run."""

import json
import re
import shutil

import numpy as np
import pytest
from helpers import ROOT, csv_of, folder_of, import_script, options, race_options, records_of, subset
from PIL import Image

from diffusion.core.search import race, replay, spread_sequence
from diffusion.runs import results
from diffusion.runs.records import load_record

SCRIPT, EVAL = "studies/plot_budget.py", "eval_prob_adaptive.py"
IMAGES = (1, 301)
DATA = ROOT / "studies" / "data"
PETS = ["--simulate", DATA / "pets_accuracy_by_points.csv", "--classes", 37]
BY_LEVEL = ["--by_level", DATA / "pets_accuracy_by_level.csv"]


def table(result) -> dict[tuple[str, str], tuple[float, float, float]]:
    """(search, setting) -> NFE per image, agreement and accuracy in percent."""
    assert result.code == 0, result.err
    row = re.compile(r"^(\S.{22}) (.{11}) +([\d,]+)   ([\d.]+) \(.*?\) +([\d.]+) \(", re.M)
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
    own = ["--levels", "0-1", "--noise", "independent"]
    for key, command in {
        ("race", "z 2"): race_options(model_folder, *own, "--max_samples", 40, "--z", 2),
        ("race", "z 4"): race_options(model_folder, *own, "--max_samples", 40, "--z", 4),
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


def test_another_loss_decides(run_main, grid):
    _, folder = grid
    own, l2, l1 = (table(run_main(SCRIPT, folder, *more)) for more in ([], ["--loss", "l2"], ["--loss", "l1"]))
    assert own == l2 and l2["race", "z 4"] != l1["race", "z 4"]


def test_a_race_within_a_band_of_levels(run_main, grid):
    """Its points are those of the run whose levels lie there, in van der Corput's order."""
    _, folder = grid
    asked = ["--levels", "0-1", "0.25-0.75", "--max_samples", 10, 20, "--z", 2.25]
    found = table(run_main(SCRIPT, folder, *asked, "--to_keep", 5, 1, "--n_samples", 4, 40))
    assert found["published", "as given"] == found["halving", "4/40"]
    arm_class = np.array([*range(10), 2])
    errors, _, levels = results.read_full(results.read(folder))
    arms, middle = np.bincount(arm_class), np.flatnonzero((levels >= 250) & (levels < 750))
    assert len(middle) == 20
    for name, usable, most in [("race of 10", np.arange(40), 10), ("race 0.25-0.75 of 20", middle, 20)]:
        order = usable[spread_sequence(most, len(usable))]
        replays = [replay(race(levels[order], arms, 2.25), one[:, order], arms) for one in errors]
        agrees = [winner == one.mean(1).argmin() for (winner, _), one in zip(replays, errors, strict=True)]
        nfe, share, _ = found[name, "z 2.25"]
        assert nfe == pytest.approx(np.mean([nfe for _, nfe in replays]), abs=0.51)
        assert share == 100 * np.mean(agrees)


def test_a_band_is_a_share_of_the_models_levels(run_main, tmp_path, grid):
    """Which run.json says: of a model of 2000 levels, the same points are another share."""
    _, folder = grid
    other = shutil.copytree(folder, tmp_path / "run")
    about = json.loads((other / "run.json").read_text())
    assert about["schedule"] == 1000
    (other / "run.json").write_text(json.dumps(about | {"schedule": 2000}))
    of = [table(run_main(SCRIPT, f, "--levels", b, "--z", 3)) for f, b in ((folder, "0.2-0.8"), (other, "0.1-0.4"))]
    assert of[0]["race 0.2-0.8 of 24", "z 3"] == of[1]["race 0.1-0.4 of 24", "z 3"]


def test_a_simulation(run_main, tmp_path):
    """It says first that it is one, and of what; the cost of a schedule is the paper's."""
    given = [*PETS, "--to_keep", 5, 1, "--n_samples", 25, 250, "--images", 30, "--z", 2.5, 3, "--max_samples", 50, 250]
    result = run_main(SCRIPT, *given, "--out", tmp_path / "budget.png")
    first, second, *_ = result.out.splitlines()
    assert re.fullmatch(
        r"SIMULATED, no model was run: 30 images drawn from a fit to \S+/pets_accuracy_by_points.csv; "
        r"mu [\d.]+, tau [\d.]+, spread [\d.]+, rmse 0.47 points of accuracy",
        first,
    )
    assert "--spread 0.1 0.12 0.15 0.2 0.25 0.3 0.35" in second
    found = table(result)
    assert found["every class", "250 points"][:2] == (9250, 100)
    assert found["published", "as given"][0] == found["halving", "25/250"][0] == 2050
    assert found["race of 50", "z 2.5"][0] < found["race", "z 2.5"][0] < found["race", "z 3"][0] < 2050
    assert 60 < found["race", "z 3"][2] <= 97
    with Image.open(tmp_path / "budget.png") as picture:
        assert picture.format == "PNG" and picture.width > 800


def test_a_simulation_with_levels(run_main):
    """The middle levels tell more; a given spread is what is drawn from."""
    few = ["--images", 200, "--points", 40, "--z", 3, "--max_samples", 10]
    result = run_main(SCRIPT, *PETS, *BY_LEVEL, *few, "--spread", 0.1, "--levels", "0-1", "0.3-0.7", "0.7-1")
    assert "pets_accuracy_by_level.csv; mu 1.643, tau 1.201, spread 0.164, rmse 0.49 " in result.out.splitlines()[0]
    assert "as well" not in result.out
    found = table(result)
    assert found["race 0.3-0.7 of 10", "z 3"][2] > found["race of 10", "z 3"][2] > found["race 0.7-1 of 10", "z 3"][2]


@pytest.mark.parametrize("accuracy", ["0", "100", "2.7"])
def test_a_curve_that_says_nothing_is_simulated_as_it_is(run_main, tmp_path, accuracy):
    """Always wrong, always right, chance."""
    path = tmp_path / "curve.csv"
    path.write_text("".join(f"{line}\n" for line in ["points,accuracy", f"1,{accuracy}", f"2,{accuracy}", "9,100"]))
    assert run_main(SCRIPT, "--simulate", path, "--classes", 37, "--images", 2, "--points", 10).code == 0
