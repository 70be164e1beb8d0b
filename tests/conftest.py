"""Scripts run as from the shell, offline: in this process where that is enough, or in one of their own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import that reads it

import pytest
import torch

pytest.register_assert_rewrite("helpers")
from helpers import ROOT, Result, call_main

SCRIPTS = {"run_script", "run_main", "run_once"}  # fixtures that run a whole script: half a second, or seconds
LONGEST = ["test_slurm.py", "test_cluster.py", "test_numbers.py", "test_eval_prob_adaptive.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that run a script as slow; the files that take longest come first, lest they run alone at the end."""
    for item in items:
        if SCRIPTS.intersection(item.fixturenames):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture
def run_script(tmp_path):
    """`run_script(name, *args, env=None) -> Result`: the real script in its own process; results in tmp_path/data."""

    def run(name, *args, env=None):
        env = os.environ | {"LOG_DIR": str(tmp_path / "data")} | (env or {})
        done = subprocess.run([sys.executable, ROOT / name, *map(str, args)], capture_output=True, text=True, env=env)
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def run_main(tmp_path):
    """`run_main(name or module, *args, log="data") -> Result`: its main, in this process; results in tmp_path/log."""
    return lambda script, *args, log="data": call_main(tmp_path / log, script, *args)


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    """`run_once(script, *args) -> Result`, as `run_main`, but the tests of a module share what it made: read only."""
    done = {}

    def run(script, *args):
        command = (script, *map(str, args))
        if command not in done:
            done[command] = call_main(tmp_path_factory.mktemp("shared"), script, *args)
        return done[command]

    return run


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """A copy of the embedded model, so that the tests of one session all see the same weights."""
    folder = tmp_path_factory.mktemp("models") / "sd"
    shutil.copytree(ROOT / "models" / "digits-sd", folder)
    return folder


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """`saved(build) -> folder`: a tiny pipeline of tests/tiny.py, built once; read only."""
    root = tmp_path_factory.mktemp("tiny")

    def folder(build) -> Path:
        import tiny

        if not (root / build.__name__).exists():
            tiny.save(build, root / build.__name__)
        return root / build.__name__

    return folder


@pytest.fixture(scope="session")
def v_model_folder(model_folder) -> Path:
    """The same weights, declared to predict v: poor predictions, but the whole path of a v-prediction model."""
    folder = model_folder.with_name("sd-v")
    shutil.copytree(model_folder, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "v_prediction"}))
    return folder


@pytest.fixture(scope="session")
def dit_folder(tmp_path_factory) -> Path:
    """A copy of the embedded class-conditional model; no test depends on how well it was trained, except one."""
    folder = tmp_path_factory.mktemp("models") / "dit"
    shutil.copytree(ROOT / "models" / "digits-dit", folder)
    return folder


@pytest.fixture
def two_threads(monkeypatch):
    """torch works with two threads."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # else a run chooses
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The `datasets` library, offline and with a cache of its own."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return datasets


@pytest.fixture(scope="session")
def imagenet_dit(tmp_path_factory, dit_folder) -> Path:
    """A DiT of 1000 classes that has learned nothing, over the embedded VAE."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    with torch.random.fork_rng():
        torch.manual_seed(1)
        transformer = DiTTransformer2DModel(
            num_layers=1, num_attention_heads=2, attention_head_dim=8, sample_size=8, in_channels=4, out_channels=8,
            num_embeds_ada_norm=1000,
        )  # fmt: skip
    folder = tmp_path_factory.mktemp("imagenet") / "dit"
    vae = AutoencoderKL.from_pretrained(dit_folder, subfolder="vae")
    scheduler = DDIMScheduler.from_pretrained(dit_folder, subfolder="scheduler")
    DiTPipeline(transformer, vae, scheduler).save_pretrained(folder)
    return folder
