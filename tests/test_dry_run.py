"""Before a run: presets are the published commands, and a dry run's figures are those of the run."""

import re
from pathlib import Path

import pytest
from documents import DOCUMENTS, presets
from helpers import contents, folder_of, import_script, records_of

from diffusion import InputError
from diffusion.data.catalogue import DATASETS
from diffusion.data.prompts import prompts_file
from diffusion.evaluate.config import RunConfig
from diffusion.evaluate.presets import PAPER, with_preset
from diffusion.runs import records

SCRIPT = "eval_prob_adaptive.py"
EMBEDDED = ["--version", "digits", "--dataset", "digits", "--device", "cpu"]


def options(*words):
    return import_script(SCRIPT).parser().parse_args(list(map(str, words)))


def published() -> dict:
    """Data set -> the options of its command in commands.md that has stages."""
    commands = [words[2:] for words in DOCUMENTS["commands.md"] if words[1:2] == [SCRIPT]]
    found = {}
    for args in [options(*words) for words in commands]:
        model = "digits" if args.dataset.startswith("digits") else "2-0"
        if args.dataset in DATASETS and args.to_keep and args.version == model:
            found.setdefault(args.dataset, args)
    return found


@pytest.mark.parametrize("name", DATASETS)
def test_a_preset_is_the_published_command(name):
    """All options agree, so do the runs; the prompts of a published command may be named though they are the usual."""
    words, _, _ = presets()[name]
    assert words[:2] == ["python", SCRIPT]
    ours = with_preset(options(*words[2:]), import_script(SCRIPT).parser())
    theirs = published()[name]
    assert RunConfig.from_args(ours, {}) == RunConfig.from_args(theirs, {})
    assert (theirs.prompt_path or usual_prompts(name)) == usual_prompts(name)
    differ = {key for key in vars(ours) if getattr(ours, key) != getattr(theirs, key)}
    assert differ <= {"preset", "prompt_path", "reads"}  # reads is a function of the parser


def usual_prompts(name: str) -> Path:
    return Path("prompts") / prompts_file(name)


@pytest.mark.parametrize("name", DATASETS)
def test_the_table_of_presets_has_its_schedules_and_hours(name):
    words, nfe, (hours, schedule, _) = presets()[name]
    preset = PAPER[name]
    stages = [" ".join(map(str, numbers)) for numbers in (preset.to_keep, preset.n_samples)]
    assert schedule == "; ".join([*stages, preset.loss])
    images = DATASETS[name].images
    if "--per_class" in words:
        images = DATASETS[name].classes * int(words[words.index("--per_class") + 1])
    assert hours == ("" if DATASETS[name].page is None else f"{images * nfe / 100 / 3600:,.0f}")


def test_a_preset_sets_these_options_alone():
    parser = import_script(SCRIPT).parser()
    asked = options("--dataset", "pets", "--preset", "paper", "--seed", 3)
    args = with_preset(asked, parser)
    assert (args.to_keep, args.n_samples, args.loss) == ([5, 1], [25, 250], "l1")
    assert {key for key in vars(args) if getattr(args, key) != getattr(asked, key)} == {"to_keep", "n_samples", "loss"}
    assert with_preset(options("--dataset", "pets", "--preset", "paper", "--loss", "huber"), parser).loss == "huber"
    plain = options("--dataset", "pets")
    assert with_preset(plain, parser) == plain


def figures(out: str) -> dict[str, list[float]]:
    """The numbers of each line of a dry run, by its first word."""
    found = {}
    for line in out.splitlines():
        if not line.startswith(" "):
            name, text = line.split(maxsplit=1)
            found[name] = [float(n.replace(",", "")) for n in re.findall(r"[\d,]*\d(?:\.\d+)?", text)]
    return found


def test_a_dry_run_of_stages_has_the_figures_of_the_run(run_main, tmp_path):
    words = [*EMBEDDED, "--to_keep", 3, 1, "--n_samples", 2, 6, "--limit", 4]
    dry = run_main(SCRIPT, *words, "--dry_run", "--rate", 50)
    assert dry.code == 0 and not list(tmp_path.glob("data/**/*")), "nothing is written"
    found = figures(dry.out)
    nfe = 2 * 10 + 4 * 3
    assert found["images"] == [4, 0] and found["compete"] == [10] and found["NFE"] == [nfe, 4 * nfe]
    assert found["time"] == [round(4 * nfe / 50), 50]

    done = run_main(SCRIPT, *words)
    assert sum(record["nfe"] for record in records_of(done).values()) == 4 * nfe
    after = figures(run_main(SCRIPT, *words, "--dry_run").out)
    assert after["images"] == [4, 4] and after["NFE"] == [nfe, 0]


def test_a_dry_run_refuses_what_the_run_refuses(run_main):
    """A folder that holds another run: the same error, and nothing is changed there."""
    words = [*EMBEDDED, "--to_keep", 1, "--n_samples", 1, "--limit", 1]
    folder = folder_of(run_main(SCRIPT, *words))
    before = contents(folder)
    for change in (["--seed", 5], ["--split", "train"]):
        run, dry = (run_main(SCRIPT, *words, *change, *more) for more in ([], ["--dry_run"]))
        assert run.code == dry.code == 2
        assert (dry.error.where, dry.error.problem) == (run.error.where, run.error.problem)
    assert contents(folder) == before
    assert run_main(SCRIPT, *words, "--dry_run").code == 0


def test_weights_that_were_not_read_are_not_compared(tmp_path):
    """Those of another option are."""
    details = {"images": 1, "arms": [["a", "a", 0]]}
    options = {"seed": 0, "weights": "x", "weights of unet": "y", "configuration": "z"}
    records.open_run(tmp_path, options, details)
    records.check_run(tmp_path, {"seed": 0, "weights": "x"}, details)
    for other in [{"seed": 0}, {"seed": 1, "weights": "x"}, {"seed": 0, "weights": "x", "weights of unet": "w"}]:
        with pytest.raises(InputError):
            records.check_run(tmp_path, other, details)


def test_a_dry_run_expects_what_a_pilot_cost(run_main):
    race = [*EMBEDDED, "--search", "race", "--max_samples", 20]
    pilot = run_main(SCRIPT, *race, "--limit", 3)
    spent = [record["nfe"] for record in records_of(pilot).values()]
    dry = run_main(SCRIPT, *race, "--limit", 9, "--dry_run", "--rate", 10)
    assert dry.code == 0 and str(folder_of(pilot)) in dry.out
    found = figures(dry.out)
    assert found["images"] == [9, 3] and found["NFE"] == [200, 1200] and found["expected"][0] == round(sum(spent) / 3)


def test_the_full_run_continues_a_pilot(run_main):
    """Without --limit, and shared among workers: the folder is the same, and nothing is measured twice."""
    words = [*EMBEDDED, "--to_keep", 1, "--n_samples", 1]
    pilot = run_main(SCRIPT, *words, "--limit", 3)
    measured = {index: folder_of(pilot) / f"{index:03d}.pt" for index in records_of(pilot)}
    written = {index: path.stat().st_mtime_ns for index, path in measured.items()}
    share = next(iter(measured)) % 166
    full = run_main(SCRIPT, *words, "--n_workers", 166, "--worker_idx", share)
    assert folder_of(full) == folder_of(pilot) and "3 images, 1 done before" in full.out
    assert written == {index: path.stat().st_mtime_ns for index, path in measured.items()}
    assert len(records_of(full)) == 3 + 2


@pytest.mark.parametrize("script", [SCRIPT, "eval_prob_dit.py"])
def test_a_dry_run_loads_no_model(run_main, monkeypatch, script):
    for name in ("load_model", "check_weights"):
        monkeypatch.setattr(f"diffusion.models.loading.{name}", lambda *_, **__: pytest.fail("weights were read"))
    assert run_main(script, *EMBEDDED, "--dry_run").code == 0


def test_a_dry_run_without_the_model_s_configuration(run_main, run_script, tmp_path):
    """Images, classes and NFE, and one line on what is missing; the run itself, and unknown models, are refused."""
    words = ["--dataset", "digits", "--preset", "paper", "--device", "cpu"]
    dry = run_main(SCRIPT, *words, "--dry_run", "--rate", 100)
    assert dry.code == 0 and not list(tmp_path.glob("data/**/*"))
    found = figures(dry.out)
    images, nfe = DATASETS["digits"].images, 2750
    assert found["images"] == [images] and found["compete"] == [10] and found["NFE"] == [nfe, nfe * images]
    assert found["time"] == [round(nfe * images / 100 / 3600, 1), 100] and found["folder"] and "weights" not in found
    assert len([line for line in dry.out.splitlines() if line.startswith("missing")]) == 1

    embedded = figures(run_main(SCRIPT, "--version", "digits", *words, "--dry_run").out)
    assert embedded["images"] == [images, 0]  # none is done; without the model nobody looked
    assert all(embedded[key] == found[key] for key in ("compete", "NFE"))
    race = figures(run_main(SCRIPT, "--dataset", "digits", "--search", "race", "--dry_run").out)
    assert race["NFE"] == [5000, 5000 * images]
    assert run_main(SCRIPT, *words).code == 2
    assert run_main(SCRIPT, *words, "--version", "nobody/nothing", "--dry_run").code == 2
    assert run_script(SCRIPT, *words, "--dry_run").out == dry.out  # by the command line, which looks at names early
