"""What pip installs, away from the clone: prompts and models come along, the commands and the API work."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT

from diffusion.data.datasets import load_dataset
from diffusion.runs.records import load_record

pytestmark = pytest.mark.slow
PARTS = ["diffusion", "scripts", "models", "prompts", "docs", "LICENSE", "README.md", "pyproject.toml"]
API = """
import diffusion
from diffusion import classify, load_model, paths
shell = paths.program("scripts/slurm_array.sh").read_text().splitlines()[0]
answer = classify(load_model("digits"), "zero.png", paths.DATA / "prompts" / "digits_prompts.csv", max_samples=8)
print(diffusion.__file__, diffusion.__version__, shell, answer.best, answer.nfe)
"""


def call(words: list, folder: Path, **env) -> str:
    """What python prints with these words."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the sdist of a copy of the clone, as pip builds them."""
    folder = tmp_path_factory.mktemp("built")
    clone = folder / "clone"
    clone.mkdir()
    for path in [*(ROOT / part for part in PARTS), *ROOT.glob("*.py")]:
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, clone / path.name)
    sdist = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    call(["-c", sdist], clone)
    wheel = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w"]
    call([*wheel, folder, clone], folder)
    return folder


@pytest.fixture(scope="module")
def installed(built) -> Path:
    """The wheel, installed into a folder of its own."""
    (wheel,) = built.glob("*.whl")
    pip = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", built / "site"]
    call([*pip, wheel], built)
    return built / "site"


def test_wheel_and_sdist_carry_prompts_and_models(built):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    wanted = {
        str(path.relative_to(ROOT))
        for part in ("prompts", "models")
        for path in (ROOT / part).rglob("*")
        if path.is_file()
    }
    scripts = {path.name for path in ROOT.glob("*.py")}
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {f"diffusion/scripts/{path.name}" for path in (ROOT / "scripts").glob("*.py")} <= inside
    assert {f"diffusion/assets/{name}" for name in wanted} | scripts <= inside
    beside = {"scripts/report.html.jinja", "scripts/slurm_array.sh", "py.typed"}
    assert {f"diffusion/{name}" for name in beside} <= inside
    assert not {Path(name).name for name in inside} & {path.name for path in (ROOT / "studies").glob("*.py")}
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    assert wanted | scripts | {"pyproject.toml", "diffusion/runs/naming.py"} <= sources


def test_a_wheel_of_the_sdist_is_the_same(built, tmp_path):
    (sdist,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    made = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w"]
    call([*made, tmp_path, sdist], tmp_path)
    names = [sorted(zipfile.ZipFile(path).namelist()) for path in (wheel, tmp_path / wheel.name)]
    assert names[0] == names[1]


def test_from_anywhere(installed, tmp_path):
    """The command, with the package's prompts and model, and the API classify the same image alike, to the bit.

    Scripts read the run; what they write lies in the working folder.
    """
    load_dataset("digits").open(0).save(tmp_path / "zero.png")
    np.save(tmp_path / "one.npy", np.array([0]))
    there = {"PYTHONPATH": str(installed), "LOG_DIR": "data", "OMP_NUM_THREADS": "1"}
    before = sorted(installed.rglob("*.csv"))
    words = ["--version", "digits", "--dataset", "digits", "--subset_path", "one.npy", "--device", "cpu"]
    words += ["--prompt_path", "prompts/digits_prompts.csv", "--max_samples", 8]
    call([installed / "bin" / "eval-prob-adaptive", *words], tmp_path, **there)
    (path,) = tmp_path.glob("data/*/*/*.pt")
    record = load_record(path)
    where, version, shell, best, nfe = call(["-c", API], tmp_path, **there).split()
    assert where == str(installed / "diffusion" / "__init__.py") and shell == "#!/bin/bash"
    assert version == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (int(best), int(nfe)) == (record["pred"], record["nfe"])

    table = call(["-m", "diffusion.scripts.print_acc", path.parent], tmp_path, **there)
    assert f"NFE per image   {record['nfe']} " in table
    call(["-m", "diffusion.scripts.report", path.parent, "--out", "report.html"], tmp_path, **there)
    assert "<!doctype html>" in (tmp_path / "report.html").read_text()
    call(["-m", "diffusion.scripts.write_prompts", "stl10"], tmp_path, **there)
    assert (tmp_path / "prompts/stl10_prompts.csv").read_bytes() == (ROOT / "prompts/stl10_prompts.csv").read_bytes()
    assert sorted(installed.rglob("*.csv")) == before


@pytest.mark.parametrize("name", ["eval-prob-adaptive", "eval-prob-dit", "run-winoground"])
def test_help_comes_at_once(installed, tmp_path, name):
    started = time.monotonic()
    said = call([installed / "bin" / name, "--help"], tmp_path, PYTHONPATH=str(installed))
    assert said.startswith(f"usage: {name} [options]")
    assert time.monotonic() - started < 2


def test_every_command_of_the_readme_from_another_folder(installed, tmp_path):
    """README's commands: `python X.py` as X, `python scripts/X.py` as -m diffusion.scripts.X; all is found."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    lines = "\n".join(map(joined, blocks)).splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    mine = [words[1:] for words in commands if words[:1] == ["python"]]
    assert len(mine) >= 8
    for script, *words in mine:
        checked = call(["-c", PARSED, script, *words], tmp_path, PYTHONPATH=str(installed))
        assert checked.split() == [
            "parsed",
            *(str(installed / "diffusion/assets" / w) for w in words if "prompts/" in w),
        ]
    assert not any(tmp_path.iterdir())


PARSED = """
import argparse, runpy, sys
from diffusion import paths
def parsed(self, args=None, namespace=None):
    parse(self, args, namespace)
    print("parsed", *(paths.shipped(word) for word in sys.argv if "prompts/" in word))
    sys.exit(0)
parse, argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_args, parsed
del sys.argv[0]
module = sys.argv[0].removesuffix(".py").replace("scripts/", "diffusion.scripts.").replace("/", ".")
runpy.run_module(module, run_name="__main__", alter_sys=False)
"""


def joined(block: str) -> str:
    return block.replace("\\\n", " ")


def test_recipes_run_installed_scripts(installed, tmp_path):
    """The loss of docs/architecture.md, in a file of the user's: it decides, and the report is drawn."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/architecture.md").read_text(), re.M | re.S)
    (recipe,) = (block for block in blocks if "logcosh" in block)
    (tmp_path / "mine.py").write_text(recipe)
    np.save(tmp_path / "one.npy", np.array([0]))
    there = {"PYTHONPATH": str(installed), "LOG_DIR": "data", "OMP_NUM_THREADS": "1"}
    words = ["--version", "digits", "--dataset", "digits", "--subset_path", "one.npy", "--device", "cpu"]
    call(["mine.py", "eval_prob_adaptive.py", *words, "--max_samples", 4, "--loss", "logcosh"], tmp_path, **there)
    (path,) = tmp_path.glob("data/*/*/*.pt")
    assert load_record(path)["losses"][-1] == "logcosh"
    assert "1 of 1" in call(["mine.py", "scripts/print_acc.py", path.parent, "--loss", "logcosh"], tmp_path, **there)
    text = call(["-m", "diffusion.scripts.calibrate", "--help"], tmp_path, **there)
    assert "python -m diffusion.scripts.calibrate" in text and "scripts/calibrate.py" not in text
