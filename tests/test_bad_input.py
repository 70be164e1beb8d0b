"""What cannot work is refused in one line that names it, before a model is loaded or anything is written."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from helpers import ROOT, import_script
from PIL import Image

SCRIPT = "eval_prob_adaptive.py"
HEAD = "prompt,classname,classidx\n"
TEN = "".join(f"a {k}.,{k},{k}\n" for k in range(10))


@pytest.fixture
def refused(run_main, tmp_path, monkeypatch):
    """`refused(*args) -> message`: exit code 2, one line on stderr, nothing on stdout, no folder made."""
    monkeypatch.chdir(tmp_path)
    module = import_script(SCRIPT)

    def load_model(*_, **__):
        raise AssertionError("a model was loaded")

    def run(*args):
        before = sorted(os.listdir(tmp_path))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("diffusion.models.loading.load_model", load_model)
            result = run_main(module, *args)
        assert result.code == 2 and not result.out, result
        assert result.err.startswith(f"{SCRIPT}: ") and result.err.count("\n") == 1 and result.err.endswith("\n")
        assert sorted(os.listdir(tmp_path)) == before
        return result.err

    return run


def options(**change) -> list[str]:
    """A command line that works, with flags changed; a list is given as several words, None not at all."""
    given = {"dataset": "digits", "version": "digits", "device": "cpu", "to_keep": [3, 1], "n_samples": [4, 12]}
    words = []
    for flag, value in (given | change).items():
        values = value if isinstance(value, list) else [value]
        if value is None or value is True:
            words += [f"--{flag}"] if value else []
            continue
        words += [f"--{flag}={values[0]}"] if len(values) == 1 else [f"--{flag}", *map(str, values)]
    return words


RACE = {"search": "race", "to_keep": None, "n_samples": None}


# ---- flags ----


@pytest.mark.parametrize(
    "change, says",
    [
        # the schedule
        ({"to_keep": [5]}, ["--to_keep 5 --n_samples 4 12", "equally many"]),
        ({"n_samples": [4, 12, 30]}, ["--n_samples 4 12 30", "equally many"]),
        ({"n_samples": [12, 4]}, ["--n_samples 12 4", "must grow"]),
        ({"n_samples": [0, 12]}, ["--n_samples 0 12", "at least 1"]),
        ({"to_keep": [1, 3]}, ["--to_keep 1 3", "must shrink"]),
        ({"to_keep": [3, 2]}, ["--to_keep 3 2", "must end in 1"]),
        ({"n_samples": [4, 1001]}, ["--n_samples 4 1001", "only 1000 noise levels"]),
        ({"to_keep": None}, ["--to_keep and --n_samples", "--search race"]),
        ({"n_samples": None}, ["--to_keep and --n_samples", "--search race"]),
        # the race
        (RACE | {"z": 0}, ["--z 0", "greater than 0"]),
        (RACE | {"z": -1}, ["--z -1", "greater than 0"]),
        (RACE | {"z": "nan"}, ["--z nan", "greater than 0"]),
        (RACE | {"max_samples": 1}, ["--max_samples 1", "2..600"]),
        (RACE | {"max_samples": 5000}, ["--max_samples 5000", "2..600"]),
        (RACE | {"budget": 19}, ["--budget 19", "20 NFE"]),
        (RACE | {"budget": 0}, ["--budget 0", "20 NFE"]),
        (RACE | {"to_keep": [3, 1]}, ["--to_keep", "not for race"]),
        (RACE | {"n_samples": [4, 12]}, ["--n_samples", "not for race"]),
        ({"budget": 1000}, ["--budget", "is for --search race"]),
        ({"z": 2}, ["--z", "is for --search race"]),
        ({"max_samples": 100}, ["--max_samples", "is for --search race"]),
        # numbers
        ({"batch_size": 0}, ["--batch_size 0", "at least 1"]),
        ({"batch_size": -3}, ["--batch_size -3", "at least 1"]),
        ({"in_flight": 0}, ["--in_flight 0", "at least 1"]),
        ({"n_trials": 0}, ["--n_trials 0", "at least 1"]),
        ({"seed": -1}, ["--seed -1", "at least 0"]),
        ({"img_size": 33}, ["--img_size 33", "multiple of 4"]),
        ({"img_size": -32}, ["--img_size -32", "multiple of 4"]),
        ({"img_size": 0}, ["--img_size 0"]),
        ({"n_workers": 0}, ["--n_workers 0", "at least 1"]),
        ({"worker_idx": 1}, ["--worker_idx 1", "0..0"]),
        ({"n_workers": 3, "worker_idx": 3}, ["--worker_idx 3", "0..2"]),
        ({"n_workers": 3, "worker_idx": -1}, ["--worker_idx -1", "0..2"]),
        # names
        ({"dataset": "cifar11"}, ["'cifar11'", "cifar10", "hf:NAME"]),
        ({"dataset": "mine.csv"}, ["mine.csv"]),
        ({"dataset": "cifar10"}, ["'cifar10' not found", "cifar-10-batches-py"]),
        ({"split": "val"}, ["'digits'", "'val'", "test, train"]),
        ({"version": "2-7"}, ["--version 2-7", "local folder", "2-0"]),
        ({"version": "nobody/nothing"}, ["--version nobody/nothing", "local folder"]),
        ({"version": "no/such/folder"}, ["--version no/such/folder", "local folder"]),
        ({"extra": "../x"}, ["--extra '../x'"]),
        ({"extra": "a b"}, ["--extra 'a b'"]),
        ({"extra": ""}, ["--extra ''"]),
        # where it runs
        ({"dtype": "float16"}, ["--dtype float16"]),
        ({"compile": True}, ["--compile", "CUDA", "cpu"]),
        ({"device": "nonsense"}, ["--device nonsense"]),
        ({"device": "meta"}, ["--device meta"]),
        ({"device": "cpu:x"}, ["--device cpu:x"]),
        # files that are not there
        ({"prompt_path": "none.csv"}, ["none.csv"]),
        ({"subset_path": "none.npy"}, ["--subset_path none.npy"]),
        ({"noise_path": "none.pt"}, ["--noise_path none.pt"]),
    ],
    ids=str,
)
def test_flags(refused, change, says):
    message = refused(*options(**change))
    assert all(part in message for part in says), message


@pytest.mark.skipif(torch.cuda.is_available(), reason="it has CUDA")
def test_no_cuda(refused):
    assert "--device cuda" in refused(*options(device="cuda"))


@pytest.mark.parametrize(
    "content, says",
    [
        ("", "no column prompt, classname"),
        ("prompt,classidx\n", "no column classname"),
        (HEAD, "no row"),
        (HEAD + TEN.replace("a 3.", ""), "line 5: the prompt is empty"),
        (HEAD + TEN.replace("3,3", "3,x"), "line 5: classidx is 'x'"),
        (HEAD + TEN.replace("3,3", "3,-3"), "line 5: classidx is '-3'"),
        (HEAD + TEN + "a, b,c,9\n", "line 12: 4 fields"),
        (HEAD + TEN.replace("3,3", "3,2"), "no class 3 (three)"),
        (HEAD + TEN[: TEN.index("a 7.")], "no class 7 (seven), 8 (eight), 9 (nine)"),
        (HEAD + TEN + "a 10.,10,10\n", "class ids [10] there, digits has only 0..9"),
        (HEAD + "a 0.,0,0\na nought.,0,0\n", "classidx 0, wanted at least two classes"),
    ],
)
def test_prompts(refused, tmp_path, content, says):
    (tmp_path / "p.csv").write_text(content)
    message = refused(*options(prompt_path="p.csv"))
    assert says in message and ("p.csv" in message or "the prompts have" in message)


@pytest.mark.parametrize(
    "indices, says",
    [
        ([0, 497], "index 497 is outside the data set's 0..496"),
        ([-1, 3], "index -1 is outside"),
        ([0.0, 1.0], "holds float64 [2]"),
        ([True, False], "holds bool [2]"),
        ([[0, 1]], "holds int64 [1, 2]"),
        (3, "holds int64 []"),
        ([], "holds float64 [0]"),
        (["a"], "holds <U1 [1]"),
    ],
)
def test_subsets(refused, tmp_path, indices, says):
    np.save(tmp_path / "s.npy", np.array(indices))
    message = refused(*options(subset_path="s.npy"))
    assert message.startswith(f"{SCRIPT}: --subset_path s.npy: {says}")


def save_objects(path):
    with path.open("wb") as file:
        np.save(file, np.array([0, None], dtype=object))


def save_npz(path):
    with path.open("wb") as file:
        np.savez(file, indices=np.arange(3))


def save_empty(path):
    path.write_bytes(b"")


def save_text(path):
    path.write_text("0\n1\n2\n")


def save_folder(path):
    path.mkdir()


def save_truncated(path):
    np.save(path, np.arange(100))
    path.write_bytes(path.read_bytes()[:-50])


def save_zip_magic(path):
    path.write_bytes(b"PK\x03\x04 and then nothing")


@pytest.mark.parametrize(
    "make",
    [
        save_empty,
        save_text,
        save_folder,
        save_objects,
        save_truncated,
        save_npz,
        save_zip_magic,
    ],
)
def test_subsets_that_are_no_npy(refused, tmp_path, make):
    make(tmp_path / "s.npy")
    assert "--subset_path s.npy" in refused(*options(subset_path="s.npy"))


@pytest.mark.parametrize(
    "content, says",
    [
        (torch.zeros(11, 4, 8, 8), "holds 11 draws, the schedule needs 12"),
        (torch.zeros(0, 4, 8, 8), "holds 0 draws, the schedule needs 12"),
        (torch.zeros(12, 4, 8, 9), "holds [12, 4, 8, 9], the model's latents need [n, c, h, w] = ['n', 4, 8, 8]"),
        (torch.zeros(4, 8, 8), "holds [4, 8, 8]"),
        (torch.tensor(0.0), "holds []"),
        ({"noise": torch.zeros(12, 4, 8, 8)}, "holds dict"),
        (None, "holds NoneType"),
    ],
    ids=["short", "empty", "shape", "one draw", "scalar", "dict", "none"],
)
def test_noise_banks(refused, tmp_path, content, says):
    torch.save(content, tmp_path / "n.pt")
    message = refused(*options(noise_path="n.pt"))
    assert message.startswith(f"{SCRIPT}: --noise_path n.pt: ") and says in message


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 and then nothing", "folder"])
def test_noise_banks_that_cannot_be_read(refused, tmp_path, content):
    (tmp_path / "n.pt").mkdir() if content == "folder" else (tmp_path / "n.pt").write_bytes(content)
    assert "--noise_path n.pt: cannot be read" in refused(*options(noise_path="n.pt"))


def test_a_bank_must_last_for_every_trial(refused, tmp_path):
    """And to the end of a race, which may need it."""
    torch.save(torch.zeros(12, 4, 8, 8), tmp_path / "n.pt")
    assert "holds 12 draws, the schedule needs 13" in refused(*options(noise_path="n.pt", max_samples=13, **RACE))
    assert "needs 24" in refused(*options(noise_path="n.pt", n_trials=2))


def test_a_bank_with_code_in_it(refused, tmp_path):
    class Touch:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    torch.save(Touch(), tmp_path / "n.pt")
    assert "--noise_path n.pt" in refused(*options(noise_path="n.pt"))
    assert not (tmp_path / "ran").exists()


# ---- models ----


def model_of(folder, **change):
    """The embedded model's configurations, without weights, with parts of model_index.json replaced."""
    shutil.copytree(ROOT / "models/digits-sd", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return folder


def test_a_pipeline_of_an_unknown_class(refused, tmp_path):
    model_of(tmp_path / "m", _class_name="KandinskyPipeline")
    message = refused(*options(version="m"))
    assert "--version m" in message and "KandinskyPipeline" in message and "StableDiffusionPipeline" in message


def damaged(folder, case):
    if case == "no model_index.json":
        (folder / "model_index.json").unlink()
    elif case == "model_index.json without a class":
        (folder / "model_index.json").write_text("{}")
    elif case == "no such json":
        (folder / "model_index.json").write_text("{")
    elif case == "no vae":
        shutil.rmtree(folder / "vae")
    elif case == "no unet in model_index.json":
        index = json.loads((folder / "model_index.json").read_text())
        del index["unet"]
        (folder / "model_index.json").write_text(json.dumps(index))
    elif case == "empty unet config":
        (folder / "unet/config.json").write_text("{}")
    elif case == "empty folder":
        shutil.rmtree(folder)
        folder.mkdir()


@pytest.mark.parametrize(
    "case",
    [
        "no model_index.json",
        "model_index.json without a class",
        "no such json",
        "no vae",
        "no unet in model_index.json",
        "empty unet config",
        "empty folder",
    ],
)
def test_damaged_model_folders(refused, tmp_path, case):
    damaged(model_of(tmp_path / "m"), case)
    assert "--version m" in refused(*options(version="m"))


def test_a_model_without_weights(run_main, tmp_path):
    """Only loading can tell: still one line."""
    model_of(tmp_path / "m")
    result = run_main(SCRIPT, *options(version=tmp_path / "m"))
    assert result.code == 2 and str(tmp_path / "m") in result.err
    assert result.err.count("\n") == 1


# ---- data and runs ----


def test_own_data(refused, run_main, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(*options(dataset="empty"))
    (tmp_path / "own.csv").write_text("file,label\n1.png,cat\n")
    assert "own.csv: no column path" in refused(*options(dataset="own.csv"))
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "pets" / name / "1.png")
    own = str(tmp_path / "pets")
    assert "'train'" in refused(*options(dataset=own, split="train"))
    assert "the first stage keeps all classes, there are 2" in run_main(SCRIPT, *options(dataset=own)).err


def test_other_options_in_the_same_folder(refused, run_main, tmp_path):
    """The prompts and the seed do not show in the folder's name, yet the runs do not mix."""
    np.save(tmp_path / "s.npy", np.array([0]))
    short = {"to_keep": 1, "n_samples": 1, "subset_path": tmp_path / "s.npy"}
    first = run_main(SCRIPT, *options(**short))
    assert first.code == 0, first.err
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.*") if path.is_file()}
    assert len(before) == 4  # run.json, a record, .index, results.json
    assert "seed was 0, now 5" in refused(*options(seed=5, **short))
    assert "split was 'test', now 'train'" in refused(*options(split="train", **short))
    assert "dtype was 'float32', now 'bfloat16'" in refused(*options(dtype="bfloat16", **short))
    (tmp_path / "p.csv").write_text(HEAD + TEN)
    assert 'prompts now have "a 0.",0,0 and' in refused(*options(prompt_path="p.csv", **short))
    assert {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.*") if path.is_file()} == before


def test_duplicate_prompts_warn_and_name_the_classes(run_main, tmp_path):
    np.save(tmp_path / "s.npy", np.array([0]))
    (tmp_path / "p.csv").write_text(HEAD + TEN.replace("a 4.,4", "a 3.,four"))
    result = run_main(
        SCRIPT, *options(to_keep=1, n_samples=1, subset_path=tmp_path / "s.npy", prompt_path=tmp_path / "p.csv")
    )
    assert result.code == 0
    assert "warning: 'a 3.' stands for 3 and four: they cannot be told apart" in result.err


def test_from_the_shell(run_script, tmp_path):
    """No library says anything beside our line."""
    result = run_script(SCRIPT, *options(version="2-7"))
    assert result.code == 2 and result.out == "" and result.err.count("\n") == 1 and "--version 2-7" in result.err
    assert not (tmp_path / "data").exists()


def test_usage_errors_are_argparse_own(run_main):
    result = run_main(SCRIPT, "--dataset", "digits", "--loss", "l3", "--to_keep", "1", "--n_samples", "1")
    assert result.code == 2 and "usage:" in result.err and "--loss" in result.err
