"""The command lines: what --help says of every option and how soon, and the choice of images."""

import itertools
import os
import re
import subprocess
import sys
import warnings
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, folder_of, import_script, records_of, subset, write_run

from diffusion import InputError, InputWarning, paths
from diffusion.evaluate import machine, options, selection
from diffusion.evaluate.config import RunConfig
from diffusion.matching.benchmarks import load_items
from diffusion.runs import records
from diffusion.runs.records import read_run
from diffusion.runs.results import read

SCRIPTS = [str(path.relative_to(ROOT)) for path in [*sorted(ROOT.glob("*.py")), *sorted(ROOT.glob("scripts/*.py"))]]
MODELS = ["eval_prob_adaptive.py", "eval_prob_dit.py", "run_winoground.py"]
HEAVY = "{'torch', 'torchvision', 'diffusers', 'transformers', 'matplotlib', 'scipy', 'open_clip', 'timm', 'datasets'}"


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_command_line_is_answered_before_anything_heavy_is_imported(script):
    """Asked for help, and with a flag that there is not."""
    run = f"""
import runpy, sys
for words, code in ("--help", 0), ("--no-such-flag", 2):
    sys.argv = [{script!r}, words]
    try:
        runpy.run_path({script!r}, run_name="__main__")
    except SystemExit as end:
        assert end.code == code, end.code
    else:
        raise AssertionError(words)
    assert not {HEAVY} & sys.modules.keys(), {HEAVY} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", run], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout and "usage: " in done.stderr


@pytest.mark.parametrize("script", [name for name in SCRIPTS if not name.endswith("write_cifar10_prompts.py")])
def test_every_option_is_explained_and_shows_its_default(script):
    parser = import_script(script).parser()
    said = " ".join(parser.format_help().split())
    assert len(parser.format_usage()) < 80
    for action in parser._actions:
        assert action.help and len(action.help) > 3, action
        takes = action.nargs != 0
        assert not takes or action.metavar or action.choices, f"{action.dest} has no metavar"
        if takes and action.default not in (None, False) and action.default != []:
            values = action.default if isinstance(action.default, list) else [action.default]
            shown = " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
            assert f"default {shown}" in said, action.dest


@pytest.mark.parametrize("script", [*MODELS, "scripts/baseline.py"])
def test_options_stand_in_groups(script):
    titles = [group.title for group in import_script(script).parser()._action_groups]
    search = ["search"] if script in MODELS else []
    before = ["before a run"] if script in MODELS[:2] else []
    assert titles[2:] == ["data", "model", *search, "what is stored", "sharding", *before]


def test_a_default_that_the_help_tells_in_words_is_not_added():
    from diffusion.evaluate import options

    p = options.parser("x")
    options.add(p, "--a N", "default what fits", 3)
    options.add(p, "--b N", "100%% of it", 0)
    options.add(p, "--c Z", "such", [0.5, 2])
    said = " ".join(p.format_help().split())
    assert "default what fits --b" in said and "100% of it; default 0" in said and "such; default 0.5 2" in said


@pytest.mark.parametrize(
    "script, words, says",
    [
        (MODELS[0], ["--n_sample", "10"], "unrecognized arguments: --n_sample 10; did you mean --n_samples?"),
        (MODELS[0], ["--serach", "race"], "unrecognized arguments: --serach race; did you mean --search?"),
        (MODELS[0], ["--serach=race"], "unrecognized arguments: --serach=race; did you mean --search?"),
        (MODELS[1], ["--image_size", "256"], "did you mean --image-size?"),
        (MODELS[0], ["--qqqq"], "unrecognized arguments: --qqqq"),
        (MODELS[0], ["--limit", "many"], "argument --limit: invalid int value: 'many'"),
        ("scripts/write_prompts.py", ["pets", "--templat", "{}"], "did you mean --template?"),
        (MODELS[0], ["--img", "256"], "did you mean --img_size?"),
        (MODELS[0], ["--class", "3"], "unrecognized arguments: --class 3"),
        (MODELS[0], ["--epochs", "3"], "unrecognized arguments: --epochs 3"),
        ("scripts/print_acc.py", ["x", "--steps"], "unrecognized arguments: --steps"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest_one(script, words, says, capsys):
    with pytest.raises(SystemExit) as end:
        import_script(script).parser().parse_args(words)
    assert end.value.code == 2 and capsys.readouterr().err.strip().endswith(says)


OTHER_PROGRAMS = "--gpu --lr --bs --epochs --steps --device_map --classes --resolution --verbose --checkpoint_every"


@pytest.mark.parametrize("script", [name for name in SCRIPTS if not name.endswith("write_cifar10_prompts.py")])
def test_hints_name_options_that_the_script_has_and_that_are_near(script, capsys):
    parser = import_script(script).parser()
    has = {name for action in parser._actions for name in action.option_strings or [action.dest]}
    for word in OTHER_PROGRAMS.split():
        if word not in has:
            named = hinted(parser, word, capsys)
            assert named == [] or named[0].startswith(f"{word}_"), (word, named)

    for wish in ("--out", "--output", "-o", "--model"):
        if wish in has:
            continue
        hints = hinted(parser, wish, capsys)
        assert set(hints) <= has
        table = options.MEANT[options.SPELT.get(wish, wish)]
        meant = next((name for name in table if name in has), None)
        if meant is not None and meant.startswith("--"):
            assert meant in hints


def positionals(parser) -> list[str]:
    """A word for each positional that a script needs."""
    words = []
    for action in parser._actions:
        if not action.option_strings and action.nargs != "*":
            words.append(next(iter(action.choices)) if action.choices else "x")
    return words


def hinted(parser, word: str, capsys) -> list[str]:
    """The options that the error for an unknown one names."""
    with pytest.raises(SystemExit):
        parser.parse_args([*positionals(parser), word])
    said = capsys.readouterr().err.partition(f"unrecognized arguments: {word}")[2]
    return re.findall(r"--\w[\w-]*", said)


@pytest.mark.parametrize(
    "script, word, hint",
    [
        (MODELS[0], "--out", "--picture"),
        (MODELS[2], "--out", "--gallery"),
        ("scripts/plot_errors.py", "--out", "after the folder"),
        ("scripts/print_acc.py", "--out", "printed"),
        ("scripts/save_noise.py", "--output_dir", "--out"),
        ("scripts/baseline.py", "--version", "--model"),
        ("scripts/calibrate.py", "--picture", "--out"),
        ("scripts/export.py", "--names", "compare.py"),
        ("scripts/print_acc.py", "--out", "--confusion"),
    ],
)
def test_common_wishes_are_answered(script, word, hint, capsys):
    parser = import_script(script).parser()
    with pytest.raises(SystemExit) as end:
        parser.parse_args([*positionals(parser), word, "y"])
    assert end.value.code == 2 and hint in capsys.readouterr().err.partition(f"arguments: {word}")[2]


@pytest.mark.parametrize("package", ["open_clip_torch", "timm", "datasets", "peft"])
def test_a_missing_package_is_named_as_pip_knows_it(monkeypatch, package):
    from diffusion.data import hub
    from diffusion.models import clip, lora, timm_classifier

    monkeypatch.setitem(sys.modules, package.removesuffix("_torch"), None)
    ask = {
        "open_clip_torch": clip._import,
        "timm": timm_classifier._import,
        "datasets": lambda: hub.rows_of_hub("x", "test"),
        "peft": lambda: lora.add(Namespace(load_lora_weights=None), "unet", "a.safetensors"),
    }[package]
    with pytest.raises(InputError, match=f"the package '{package}': pip install {package}$"):
        ask()


# ---- which images ----


def chosen(labels, **given) -> tuple[list[int], list[str]]:
    config = RunConfig.from_args(Namespace(dataset="digits", device="cpu", **given), {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images, mine = selection.choose_images(config, labels)
    assert images == mine
    return images, [str(each.message) for each in caught if each.category is InputWarning]


def test_per_class_by_hand():
    """Spread over the images of the class: the middle, the first quarter, the third, ..."""
    labels = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]
    assert chosen(labels, per_class=1) == ([2, 5, 9], [])
    assert chosen(labels, per_class=2) == ([1, 2, 4, 5, 8, 9], [])
    images, told = chosen(labels, per_class=4)
    assert images == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10] and told == ["--per_class 4: fewer images of class 1 (3)"]
    images, told = chosen([5] * 3 + list(range(20, 40)), per_class=2)
    assert len(images) == 22 and "fewer images of class 20 (1), 21 (1)" in told[0] and told[0].endswith("29 (1), ...")


def test_limit_by_hand():
    """The classes in turn, the middle one first; those that have none left are passed over."""
    labels = [0, 0, 0, 0, 1, 2, 2, 2]
    order = [4, 2, 6, 1, 5, 3, 7, 0]
    for n in range(1, 9):
        assert chosen(labels, limit=n) == (sorted(order[:n]), [])
    assert chosen(labels, limit=100)[0] == list(range(8))


def test_spread_order():
    """All of range(n) once; between two neighbours of a beginning lie at most twice as many as if it were even."""
    for n in range(70):
        order = selection.spread_order(n)
        assert sorted(order) == list(range(n))
        for k in range(1, n):
            gaps = np.diff([-1, *sorted(order[:k]), n])
            assert gaps.max() <= 2 * n / (k + 1) + 2, (n, k)


@pytest.mark.parametrize("seed", range(5))
def test_fewer_images_are_a_part_of_more(seed):
    """Whatever the sizes of the classes: of --limit, of --per_class, and of both; classes differ by one image."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 30, rng.integers(1, 25))
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes)).tolist()
    of_limit = [set(chosen(labels, limit=n)[0]) for n in range(1, len(labels) + 2)]
    of_class = [set(chosen(labels, per_class=n)[0]) for n in range(1, 31)]
    both = [set(chosen(labels, per_class=n, limit=20)[0]) for n in range(1, 31)]
    for nested in (of_limit, of_class, both):
        assert all(few <= more for few, more in itertools.pairwise(nested))
    assert [len(each) for each in of_limit] == [*range(1, len(labels) + 1), len(labels)]
    for n, images in enumerate(of_class, 1):
        found = np.bincount([labels[k] for k in images], minlength=len(sizes))
        assert found.tolist() == np.minimum(sizes, n).tolist()
    for images in of_limit:
        found = np.bincount([labels[k] for k in images], minlength=len(sizes))
        assert all(each == size or each >= found.max() - 1 for each, size in zip(found, sizes, strict=True))


def test_choices_combine(tmp_path):
    """First the subset, then so many of each of its classes, then so many in all."""
    labels = [k % 3 for k in range(30)]
    np.save(tmp_path / "s.npy", np.arange(9, 30))
    given = {"subset_path": tmp_path / "s.npy", "per_class": 2}
    found = chosen(labels, **given)[0]
    assert len(found) == 6 and min(found) >= 9 and sorted(labels[k] for k in found) == [0, 0, 1, 1, 2, 2]
    few = chosen(labels, **given, limit=4)[0]
    assert len(few) == 4 and set(few) <= set(range(9, 30)) and {labels[k] for k in few} == {0, 1, 2}


def test_examples_are_spread_over_their_tags():
    tags = [item.tags[0] for item in load_items("digits-pairs").items]
    found = [tags[k] for k in chosen(tags, limit=6)[0]]
    assert sorted(found) == ["Colour", "Colour", "Digit", "Digit", "Place", "Place"]


@pytest.mark.parametrize("script", MODELS)
def test_records_are_the_same_bits_and_the_run_the_same(run_main, tmp_path, script):
    """The choice of images is no option of the run: a smaller one joins it, and changes nothing of it."""
    data = ["--dataset", "digits-pairs" if script == "run_winoground.py" else "digits", "--device", "cpu"]
    search = ["--version", "digits", "--search", "race", "--max_samples", 4]
    few = run_main(script, *data, *search, "--limit", 3)
    assert few.code == 0, few.err
    told, before = read_run(folder_of(few))["options"], records_of(few)
    images = {index // 2 if script == "run_winoground.py" else index for index in before}
    alone = run_main(script, *data, *search, *subset(tmp_path, *images), "--limit", 2, log="alone")
    assert alone.code == 0, alone.err
    assert read_run(folder_of(alone))["options"] == told and "limit" not in told
    found = records_of(alone)
    assert 0 < len(found) < len(before) == len(images) * (2 if script == "run_winoground.py" else 1)
    assert all(torch.equal(record["errors"], before[index]["errors"]) for index, record in found.items())
    more = run_main(script, *data, *search, "--limit", 5)
    assert more.code == 0 and folder_of(more) == folder_of(few) and len(records_of(more)) > len(before)


def test_readers_take_a_dit_run_with_or_without_its_split(run_main, tmp_path):
    args = ["--version", "digits", "--dataset", "digits", "--device", "cpu", *subset(tmp_path, *range(0, 300, 30))]
    done = run_main("eval_prob_dit.py", *args, "--to_keep", 1, "--n_samples", 4)
    assert done.code == 0, done.err
    inner = folder_of(done)
    assert inner.name == "test" and read(inner.parent).folder == inner
    for script, *words in (
        ["scripts/print_acc.py", "--top", 3], ["studies/plot_budget.py"], ["scripts/calibrate.py", "--fit", "0.5"],
        ["scripts/report.py", "--out", tmp_path / "page.html"], ["scripts/print_dit_acc.py"],
        ["scripts/plot_levels.py"],
    ):  # fmt: skip
        long, short = (run_main(script, folder, *words) for folder in (inner, inner.parent))
        assert long.code == short.code == 0 and long.out == short.out, (script, long.err, short.err)
    for folder in (inner, inner.parent):
        assert run_main("scripts/plot_errors.py", folder, tmp_path / "a.png").code == 0
    (inner.parent / "train").mkdir()
    (inner.parent / "train" / "run.json").write_text((inner / "run.json").read_text())
    refused = run_main("scripts/print_acc.py", inner.parent)
    assert refused.code == 2 and "holds runs of 2 splits" in refused.err


def test_which_repository_is_loaded_is_said(monkeypatch, capsys):
    """Where a version is an alias of several; an embedded model is what it is called."""
    from diffusion.models import loading as load

    monkeypatch.setattr(load, "weights_size", lambda *_: 3e9)
    monkeypatch.setattr(load, "load_model", lambda *_, **__: None)
    card = load.Card("Manojb/stable-diffusion-2-base", "StableDiffusionPipeline", {}, 1000, (4, 64, 64), 512)
    for version in ("2-0", card.source):
        machine.load_for_run(RunConfig("pets", version=version, device=torch.device("meta")), card, "float32")
    first, second = capsys.readouterr().out.splitlines()
    told = "3.00 GB of weights, the network's in float32"
    assert first == f"2-0 (Manojb/stable-diffusion-2-base): {told}" and second == f"{card.source}: {told}"


def test_in_turns_every_beginning_has_its_share_of_each_label():
    labels = [0] * 20 + [1] * 10 + [2] * 10
    order = selection.in_turns(list(range(40)), labels)
    assert sorted(order) == list(range(40)) != order
    for n in (4, 8, 20, 40):
        assert [sum(labels[k] == c for k in order[:n]) for c in range(3)] == [n // 2, n // 4, n // 4]
    assert selection.in_turns([3, 5, 9], [-1] * 10) == [3, 5, 9]


@pytest.mark.parametrize(
    "size, n_workers, environ, threads",
    [
        (1e6, 1, {}, 1),
        (1e9, 1, {}, 6),
        (1e9, 2, {}, 3),
        (1e9, 9, {}, 1),
        (1e9, 2, {"SLURM_JOB_ID": "7"}, 6),
        (1e6, 2, {"OMP_NUM_THREADS": "5"}, None),
    ],
)
def test_workers_share_the_cores(monkeypatch, capsys, size, n_workers, environ, threads):
    chosen = []
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    machine.share_cores(n_workers, torch.device("cpu"), size, environ)
    assert chosen == ([] if threads is None else [threads])
    assert capsys.readouterr().out.startswith("" if threads is None else f"CPU: {threads} of 6 cores")


def test_ctrl_c_during_imports_is_one_line():
    """Here in the midst of numpy's."""
    code = f"""
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = [{MODELS[0]!r}, "--dataset", "digits", "--version", "digits"]
runpy.run_path({MODELS[0]!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr.strip() == "eval_prob_adaptive.py: ended by Ctrl-C before anything was measured"


# ---- the terminal, and what no shell has read ----


def test_a_name_that_the_terminal_cannot_print(run_script, tmp_path):
    """Neither what its encoding lacks nor what is no text is a traceback."""
    words = ("drei\u0308", "\u2603", "two")
    folders = [tmp_path / os.fsdecode(b"\xff"), tmp_path / "\u2603"]
    for folder in folders:
        write_run(folder, np.eye(3)[:, :, None], [0, 1, 2], words=words)
    (folders[0] / "0.pt").unlink()
    records.note_failure(folders[0] / "0.pt", "cannot read drei\u0308.png")
    for asked in (folders, [folders[0], "--metrics", "classes"]):
        done = run_script("scripts/print_acc.py", *asked, env={"PYTHONIOENCODING": "ascii"})
        assert "Traceback" not in done.err and done.code in (0, 1), done.err
        assert "\\u2603" in done.out and (done.out + done.err).isascii()


def test_the_home_folder_is_meant_by_its_sign(tmp_path):
    code = "from diffusion.data import catalogue; from diffusion.runs import naming; "
    code += "print(naming.LOG_DIR, catalogue.DATASET_ROOT)"

    def folders(log: str, root: str) -> str:
        env = os.environ | {"LOG_DIR": log, "DATASET_ROOT": root, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout.strip()

    assert folders("~/results", "~") == f"{tmp_path}/results {tmp_path}"
    assert folders("", "") == "data /datasets"
    parser = options.parser("")
    options.add(parser, "--noise_path PT", "")
    assert parser.parse_args(["--noise_path=~/x.pt"]).noise_path == Path.home() / "x.pt"


def test_the_command_of_a_run_is_that_of_all_its_workers():
    """Quoted as a shell needs it; the options in which workers differ are not part of it."""
    argv = ["--prompts", "a cat", "$x", "--n_workers", "4", "--worker_idx=2"]
    argv += ["--shard", "array", "-b", "8", "--limit", 5]
    assert options.command_line("/home/me/eval_prob_adaptive.py", argv) == (
        "eval_prob_adaptive.py --prompts 'a cat' '$x' --limit 5"
    )


def test_installed_help_and_messages_name_installed_commands(monkeypatch, capsys):
    text = (
        "python scripts/report.py X; see scripts/plot_maps.py; python eval_prob_dit.py, my/scripts/x.py, scripts/y.py"
    )
    assert paths.called(text) == text
    monkeypatch.setattr(paths, "INSTALLED", True)
    commands = "python -m diffusion.scripts.report X; see diffusion.scripts.plot_maps; eval-prob-dit"
    assert paths.called(text) == f"{commands}, my/scripts/x.py, scripts/y.py"  # not files of the user's
    for name in ("eval_prob_adaptive.py", "scripts/calibrate.py"):
        text = import_script(name).parser().format_help()
        assert "scripts/" not in text.replace("scripts/slurm_array.sh", "") and "python eval" not in text
