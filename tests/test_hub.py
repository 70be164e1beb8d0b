"""The whole path to the hub, with its real client: a hub of our own, over loopback, as it is and as it fails."""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from helpers import ROOT, Result, call_main, import_script
from huggingface_hub import constants
from local_hub import COMMIT, Hub, point_to
from safetensors.torch import load_file, save_file

from diffusion.io import hub
from diffusion.models.aliases import ALIASES
from diffusion.models.loading import check_weights, load_model, read_card

SCRIPT = import_script("eval_prob_adaptive.py")
FIRST, MIRROR = ALIASES["text"]["2-0"]
DATA = ["--dataset", "digits", "--device", "cpu", "--to_keep", 1, "--n_samples", 2]
GATED = {"X_Error_Code": "GatedRepo"}
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def server():
    with Hub() as served:
        yield served
        served.shutdown()


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    """A Stable Diffusion of 32 pixels and 0.1 MB, in diffusers layout."""
    folder = tmp_path_factory.mktemp("tiny") / "sd"
    tiny.save(tiny.sd, folder)
    return folder


@pytest.fixture
def served(server, tiny_model, tmp_path, monkeypatch):
    """The hub with the tiny model as 2-0 and its mirror, and a cache that is empty."""
    server.reset()
    server.repos = {FIRST: tiny_model, MIRROR: tiny_model}
    point_to(monkeypatch, server.url, tmp_path / "hf")
    monkeypatch.setattr(hub, "PAUSE", 0.05)
    hub.forget()
    yield server
    hub.forget()


@pytest.fixture
def run(served, tmp_path):
    """The script on one image, in this process, as if it were new; refused within seconds."""
    np.save(tmp_path / "first.npy", np.array([2]))

    def run(*args, log: str = "data", script=SCRIPT, data=(*DATA, "--subset_path", tmp_path / "first.npy")) -> Result:
        hub.forget()
        return call_main(tmp_path / log, script, *data, *args)

    return run


@pytest.fixture
def refused(run, tmp_path):
    """`refused(*args, says=[...])`: one line that says so, soon, before there is a run."""

    def refused(*args, says: list[str], seconds: float = 20, **more) -> str:
        start = time.monotonic()
        done = run(*args, log="refused", **more)
        took = time.monotonic() - start
        assert done.code == 2 and done.err.count("\n") == 1 and "Traceback" not in done.err, done
        assert not [word for word in says if word not in done.err], done.err
        assert took < seconds, f"{took:.1f} s"
        assert not (tmp_path / "refused").exists()
        return done.err

    return refused


def without_token(within: str):
    """The trouble of those who are not logged in; what is behind a redirect asks for no token."""

    def trouble(path, headers):
        right = within not in path or "/blobs/" in path or headers.get("Authorization") == "Bearer hf_right"
        return None if right else (401, GATED)

    return trouble


def options(folder: Path) -> dict:
    (path,) = folder.rglob("run.json")
    return json.loads(path.read_text())["options"]


def changed(folder: Path, to: Path, file: str, how) -> Path:
    """A copy of a model, one of whose files of weights is `how(tensors)`; None: is not there."""
    shutil.copytree(folder, to)
    tensors = how(load_file(to / file))
    save_file(tensors, to / file, {"format": "pt"}) if tensors else (to / file).unlink()
    return to


# ---- a hub as it should be ----


def test_an_alias(served, run, tmp_path):
    """The first repository is used, by its commit; nothing is fetched twice, nor what is not needed."""
    done = run("--version", "2-0")
    assert done.code == 0, done.err
    told = options(tmp_path / "data")
    assert told["model"] == FIRST and told["weights of unet"] == f"commit {COMMIT}"
    assert len(served.fetched()) == len(set(served.fetched())) == 3 and not any(MIRROR in path for path in served.asked)


def test_a_warm_cache(served, run, tmp_path, monkeypatch):
    """Offline, without a network, and when the hub fails or has lost the repository: from the cache."""
    assert run("--version", "2-0").code == 0
    asked = len(served.asked)
    with monkeypatch.context() as patch:
        point_to(patch, NOBODY, tmp_path / "hf")
        done = run("--version", "2-0")
        assert done.code == 0 and "1 done before" in done.out, done.err
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        done = run("--version", "2-0", "--seed", 1, "--extra", "b")
        assert done.code == 0, done.err
    assert len(served.asked) == asked
    for status, headers in (500, {}), (429, {"Retry_After": 300}), (404, {"X_Error_Code": "RepoNotFound"}), (403, {}):
        served.trouble = lambda path, _, wrong=(status, headers): wrong
        start = time.monotonic()
        done = run("--version", "2-0")
        assert done.code == 0 and "1 done before" in done.out and time.monotonic() - start < 5, done.err


def test_with_a_real_environment(server, tiny_model, tmp_path):
    """A process of its own, with a token."""
    server.reset()
    server.repos, server.trouble = {FIRST: tiny_model}, without_token("")
    env = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", f"from diffusion.io import hub; print(hub.look({FIRST!r}))"]
    for token, says in ("hf_right", f"commit='{COMMIT}'"), ("hf_wrong", "is gated: ask for access at"):
        shutil.rmtree(tmp_path / "hub", ignore_errors=True)
        done = subprocess.run(command, capture_output=True, text=True, env=env | {"HF_TOKEN": token}, cwd=ROOT)
        assert says in done.stdout + done.stderr, done


@pytest.mark.parametrize("where", ["no network", "wrong name"])
def test_from_the_shell_refused_soon(server, tiny_model, run_script, tmp_path, where):
    server.reset()
    server.repos = {FIRST: tiny_model}
    env = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    version, change, says = {
        "no network": (FIRST, {"HF_ENDPOINT": NOBODY}, "cannot be reached"),
        "wrong name": ("digitz", {"HF_ENDPOINT": NOBODY}, "did you mean digits?"),
    }[where]
    start = time.monotonic()
    done = run_script("eval_prob_adaptive.py", "--version", version, *DATA, env=env | change)
    took = time.monotonic() - start
    assert done.code == 2 and done.err.count("\n") == 1 and says in done.err, done
    assert took < 20, f"{took:.1f} s"


PLAIN = {"unet": "diffusion_pytorch_model", "transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
SD = ["safetensors", "fp16.safetensors", "bin", "fp16.bin"]
FLAX = ["flax_model.msgpack", "model.onnx", "openvino_model.bin", "openvino_model.xml"]
# How repositories are laid out: alias -> (pipeline, forms of weights of each part, the one to be fetched first; more)
LAID_OUT = {
    "1-5": (
        tiny.sd, {"": SD, "unet": [*SD, "non_ema.bin", "non_ema.safetensors"]},
        ["v1-5-pruned.ckpt", "v1-5-pruned-emaonly.safetensors", "safety_checker/model.safetensors"],
    ),
    "xl": (
        tiny.sdxl, {"": ["safetensors", "fp16.safetensors"]},
        ["sd_xl_base_1.0.safetensors", "sd_xl_offset_example-lora_1.0.safetensors", "vae_1_0/config.json",
         "vae_1_0/diffusion_pytorch_model.safetensors", "vae_encoder/model.onnx", "unet/model.onnx_data",
         *(f"{part}/{file}" for part in ("text_encoder", "text_encoder_2", "unet") for file in FLAX)],
    ),
    "3-medium": (
        tiny.sd3_with_t5,
        {"": ["safetensors"], "text_encoder": ["safetensors", "fp16.safetensors"], "text_encoder_3": ["2", "fp16.2"]},
        ["sd3_medium.safetensors"],
    ),
    "3-5-large": (
        tiny.sd3_with_t5, {"": ["safetensors"], "transformer": ["2"], "text_encoder_3": ["2", "fp16.2"]},
        ["sd3.5_large.safetensors"],
    ),
    "flux-dev": (
        tiny.flux, {"": ["safetensors"], "transformer": ["3"], "text_encoder_2": ["2"]},
        ["flux1-dev.safetensors", "ae.safetensors"],
    ),
    "pixart-alpha": (tiny.pixart, {"": ["safetensors"], "text_encoder": ["2"]}, []),
    "sana": (
        tiny.sana,
        {"": ["safetensors"], "transformer": ["safetensors", "fp16.safetensors"], "text_encoder": ["2", "bf16.2"]}, [],
    ),
    "dit-256": (tiny.dit, {"": ["bin"]}, []),
    # and as others are
    "only fp16": (tiny.sd, {"": ["fp16.safetensors"]}, []),
    "only bin": (tiny.sd, {"": ["bin", "fp16.bin"]}, []),
    "only fp16 bin": (tiny.sd, {"": ["fp16.bin"]}, []),
}  # fmt: skip


def write_form(folder: Path, stem: str, form: str, tensors: dict) -> None:
    """The weights of a part in one form: "fp16.safetensors", "bin", or "fp16.2", two shards of fp16."""
    *variant, kind = form.split(".")
    if kind == "bin":
        stem = stem.replace("pytorch_model", "x").replace("model", "pytorch_model").replace("x", "pytorch_model")
        return torch.save(tensors, folder / ".".join([stem, form]))
    name = ".".join([stem, *variant])
    if kind == "safetensors":
        return save_file(tensors, folder / f"{name}.{kind}", {"format": "pt"})
    keys, n = list(tensors), int(kind)
    for k in range(n):
        some = {key: tensors[key] for key in keys[k::n]}
        save_file(some, folder / f"{name}-{k + 1:05}-of-{n:05}.safetensors", {"format": "pt"})
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {}}))


@pytest.mark.slow
@pytest.mark.parametrize("alias", LAID_OUT)
def test_layouts(served, tmp_path, alias):
    """Of several files of a part one is fetched, or all its shards, and nothing beside; the model is whole."""
    build, forms, more = LAID_OUT[alias]
    told = "class" if build is tiny.dit else "text"
    folder, wanted = tmp_path / "repo", set()
    tiny.save(build, folder)
    for part in (path.parent for path in folder.glob("*/*.safetensors")):
        (path,) = part.glob("*.safetensors")
        tensors = load_file(path)
        path.unlink()
        for k, form in enumerate(forms.get(part.name, forms[""])):
            before = set(part.iterdir())
            write_form(part, PLAIN.get(part.name, "model"), form, tensors)
            if k == 0 and part.name != "text_encoder_3":  # T5 of Stable Diffusion 3: only with --t5
                wanted |= {file.relative_to(folder).as_posix() for file in set(part.iterdir()) - before}
    wanted = {file for file in wanted if not file.endswith(".json")}
    for file in more:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(b"{}")
    repo = ALIASES[told].get(alias, [FIRST])[0]
    served.repos[repo] = folder
    card = read_card(alias if alias in ALIASES[told] else FIRST, conditioned_on=told)
    known = check_weights(card)
    assert set(known.values()) == {f"commit {COMMIT}"} and card.lacks_t5 == ("3" in alias and "sd3" in build.__name__)
    assert sorted(served.fetched()) == sorted(f"{repo}/{file}" for file in wanted)
    load_model(card)
    assert len(served.fetched()) == len(wanted)


# ---- mirrors ----


def test_the_first_mirror_is_gone(served, run, tmp_path):
    del served.repos[FIRST]
    done = run("--version", "2-0")
    assert done.code == 0 and options(tmp_path / "data")["model"] == MIRROR, done.err


def test_the_first_mirror_has_no_weights(served, run, tmp_path, tiny_model):
    file = "unet/diffusion_pytorch_model.safetensors"
    served.repos[FIRST] = changed(tiny_model, tmp_path / "bare", file, lambda tensors: None)
    done = run("--version", "2-0")
    assert done.code == 0 and options(tmp_path / "data")["model"] == MIRROR, done.err


def test_all_mirrors_are_gone(served, refused):
    served.repos.clear()
    refused("--version", "2-0", says=[FIRST, MIRROR, "no such repository"])


# ---- refusals ----

TROUBLE = {
    "gated, not logged in": (401, GATED, ["is gated", "ask for access", FIRST, "HF_TOKEN"]),
    "gated, no access": (403, GATED, ["is gated", "ask for access", FIRST]),
    "forbidden": (403, {}, ["access"]),
    "private": (401, {"X_Error_Code": "RepoNotFound"}, ["HF_TOKEN"]),
    "too many": (429, {"Retry_After": 300}, ["429", "too many requests"]),
    "failing": (500, {}, ["500", "try again"]),
    "away": (503, {}, ["503"]),
}
PLACES = {"tree": "/tree/", "files": "/resolve/", "weights": ".safetensors"}


@pytest.mark.parametrize(
    "name, where",
    [*((name, "all") for name in TROUBLE), *((name, k) for name in ("gated, no access", "failing") for k in PLACES)],
)
def test_trouble(served, refused, name, where):
    """From the first question on; in the list of files; in files, as of gated repositories; or in weights alone."""
    status, headers, says = TROUBLE[name]
    within = PLACES.get(where, "")
    served.trouble = lambda path, _: (status, headers) if within in path else None
    refused("--version", FIRST, says=says)


@pytest.mark.parametrize("within", ["/api/models/", "/tree/", "/resolve/", "/blobs/"])
def test_one_failure_is_none(served, run, within):
    """A hub that fails now and then is asked again."""
    failed = []

    def trouble(path, _):
        if within in path and not failed:
            failed.append(path)
            return 503, {}

    served.trouble = trouble
    done = run("--version", FIRST)
    assert done.code == 0 and len(failed) == 1, done.err


def test_a_wrong_name(served, refused):
    says = refused("--version", "digitz", says=["digitz", "my-model; did you mean digits?\n"])
    assert not served.asked and "OWNER/NAME" in says
    refused("--version", "sd2-community/stable-difusion-2-base", says=["no such repository", f"did you mean {FIRST}?"])
    refused("--version", "x" * 300, says=["too long"])
    refused("--version", "a/b c", says=["can be no hub id"])


def test_nobody_is_there(served, refused, tmp_path, monkeypatch):
    point_to(monkeypatch, NOBODY, tmp_path / "hf")
    refused("--version", "2-0", says=["cannot be reached", FIRST, MIRROR])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("--version", "2-0", says=["offline"])


def test_a_network_that_swallows_everything(served, refused, tmp_path, monkeypatch):
    """As of a cluster's nodes behind a firewall: no answer, not even a refusal; all mirrors together."""
    import socket

    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: time.sleep(60))
    refused("--version", "2-0", says=["cannot be reached", FIRST, MIRROR])


def test_a_slow_hub(served, refused, monkeypatch):
    assert constants.DEFAULT_ETAG_TIMEOUT <= 10 and hub.CONNECT < 3
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    served.slow = 10
    refused("--version", FIRST, says=["does not answer"])


def test_a_download_that_breaks_off(served, run, monkeypatch):
    """Is gone on with, in this run, from where it was."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1024)
    served.cut = 2
    done = run("--version", FIRST)
    assert done.code == 0 and any("bytes=" in path for path in served.fetched()), done.err


def test_a_run_that_was_ended_while_it_fetched(served, run, refused):
    """What was fetched is kept; a cache that has a part of a model says that it is a part."""
    served.trouble = lambda path, _: (500, {}) if "vae" in path and path.endswith(".safetensors") else None
    refused("--version", FIRST, says=["500"])
    before = served.fetched()
    served.trouble = lambda path, _: (500, {})
    refused("--version", FIRST, says=["vae", "500"])
    served.trouble = lambda path, _: None
    assert run("--version", FIRST).code == 0
    assert len(served.fetched()) - len(before) <= 3 and len(set(served.fetched())) == 3


@contextlib.contextmanager
def as_nobody():
    """Root may write everywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_cache_that_cannot_be_written(served, refused, tmp_path):
    (tmp_path / "hf").write_text("no folder")
    refused("--version", FIRST, says=["HF_HOME"])


def test_a_cache_without_write_access(served, tiny_model, monkeypatch):
    """Warm it works, as one that a cluster shares; cold it is one line."""
    shared = Path(tempfile.mkdtemp())
    served.repos = {FIRST: shutil.copytree(tiny_model, shared / "repo")}
    try:
        point_to(monkeypatch, served.url, shared / "warm")
        check_weights(read_card(FIRST))
        (shared / "cold").mkdir()
        for path in (shared, *shared.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        hub.forget()
        asked = len(served.fetched())
        with as_nobody():
            card = read_card(FIRST)
            assert set(check_weights(card).values()) == {f"commit {COMMIT}"}
            load_model(card)
            assert len(served.fetched()) == asked
            point_to(monkeypatch, served.url, shared / "cold")
            hub.forget()
            with pytest.raises(ValueError, match="HF_HOME"):
                read_card(FIRST)
    finally:
        for path in (shared, *shared.rglob("*")):
            path.is_dir() and path.chmod(0o755)
        shutil.rmtree(shared)


def test_weights_that_lack_some(served, refused, tmp_path, tiny_model):
    def fewer(tensors):
        return {key: value for key, value in tensors.items() if "layers.1." not in key}

    served.repos[FIRST] = changed(tiny_model, tmp_path / "part", "text_encoder/model.safetensors", fewer)
    refused("--version", FIRST, says=["text_encoder", "weights are missing"])


# ---- what is beside a model ----


def test_lora_and_config_of_the_hub(served, run, refused, tmp_path, model_folder):
    pytest.importorskip("peft")
    import single_file
    from diffusers import UNet2DConditionModel

    net = UNet2DConditionModel.from_pretrained(model_folder, subfolder="unet")
    name = next(n for n, _ in net.named_modules() if n.endswith("to_q"))
    out, into = net.get_submodule(name).weight.shape
    tensors = {f"unet.{name}.lora_A.weight": torch.ones(2, into), f"unet.{name}.lora_B.weight": torch.ones(out, 2)}
    (tmp_path / "lora").mkdir()
    save_file(tensors, tmp_path / "lora/pytorch_lora_weights.safetensors")
    shutil.copytree(model_folder, tmp_path / "config", ignore=shutil.ignore_patterns("*.safetensors"))
    served.repos |= {"some/lora": tmp_path / "lora", "some/config": tmp_path / "config"}
    single_file.write(model_folder, tmp_path / "one.safetensors")
    done = run(
        "--version", tmp_path / "one.safetensors", "--config", "some/config", "--lora", "some/lora:0.5", "--limit", 1
    )
    assert done.code == 0, done.err
    told = options(tmp_path / "data")["weights of --lora some/lora:0.5"]
    assert told == f"commit {COMMIT}, pytorch_lora_weights.safetensors"
    assert served.fetched() == ["some/lora/pytorch_lora_weights.safetensors"]
    refused("--version", FIRST, "--lora", "some/none", says=["--lora some/none", "no such repository"])
    refused("--version", FIRST, "--lora", "nonsense", says=["--lora nonsense", "OWNER/NAME"])


# ---- data sets ----


def write_parquet(folder: Path, **columns) -> Path:
    """A repository with a split `test`; of images, labels and texts."""
    import datasets

    of = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])}
    features = {key: of.get(key.split("_")[0], datasets.Value("string")) for key in columns}
    (folder / "data").mkdir(parents=True)
    data = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    data.to_parquet(folder / "data/test-00000-of-00001.parquet")
    return folder


@pytest.fixture
def images(tmp_path):
    from diffusion.data.datasets import load_dataset

    digits = load_dataset("digits", "test", tmp_path)
    return [digits.open(k).convert("RGB") for k in range(4)]


def test_a_data_set_by_parquet(served, run, refused, tmp_path, images, monkeypatch):
    pytest.importorskip("datasets")
    served.repos["some/set"] = write_parquet(tmp_path / "set", image=images, label=[0, 1, 0, 1])
    args = ["--version", FIRST, "--dataset", "hf:some/set", "--device", "cpu", "--to_keep", 1, "--n_samples", 2]
    done = run(*args, data=())
    assert done.code == 0 and "4 of 4" in done.err + done.out, done.err
    shutil.rmtree(tmp_path / "hf")
    for status, headers, says in (
        (401, GATED, "ask for access"),
        (500, {}, "500"),
        (429, {"Retry_After": 300}, "429"),
        (404, {"X_Error_Code": "RepoNotFound"}, "no such"),
    ):
        served.trouble = lambda path, _, wrong=(status, headers): wrong if "some/set" in path else None
        refused(*args, data=(), says=["hf:some/set", says])
    served.trouble = lambda path, _: None
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    served.slow = 10
    refused(*args, data=(), says=["hf:some/set", "does not answer"], seconds=5)


def test_winoground_with_a_token(served, run, refused, tmp_path, images, monkeypatch):
    pytest.importorskip("datasets")
    texts = {"caption_0": ["a three."], "caption_1": ["a five."], "collapsed_tag": ["Object"], "id": ["0"]}
    served.repos["facebook/winoground"] = write_parquet(
        tmp_path / "wino", image_0=images[:1], image_1=images[1:2], **texts
    )

    served.trouble = without_token("facebook/winoground")
    script = import_script("run_winoground.py")
    args = ["--version", FIRST, "--device", "cpu", "--t_interval", 500]
    refused(*args, script=script, data=(), says=["winoground", "ask for access", "HF_TOKEN"])
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    done = run(*args, script=script, data=())
    assert done.code == 0 and "Object" in done.out, done


# ---- the client of the process, which is the caller's ----


def test_the_callers_client_is_as_it_was(served, refused, run):
    """Its factory, its hooks and the level of its log; also after a refusal. Its own hooks see the requests."""
    import huggingface_hub
    from huggingface_hub.utils import _http

    seen = []
    client = huggingface_hub.get_session()
    client.event_hooks = {"request": [*client.event_hooks["request"], seen.append], "response": []}
    logger = logging.getLogger("huggingface_hub")

    def state():
        bars = huggingface_hub.utils.are_progress_bars_disabled()
        hooks = {event: list(hooks) for event, hooks in client.event_hooks.items()}
        return _http._GLOBAL_CLIENT_FACTORY, huggingface_hub.get_session(), hooks, logger.level, bars

    before = state()
    hub.look(FIRST)
    assert state() == before and seen
    served.trouble = lambda path, _: (429, {"Retry_After": 300})
    with pytest.raises(hub.Unreachable):
        hub.look("some/other")
    assert state() == before


def test_seconds_to_answer_are_huggingface_hubs(served, monkeypatch):
    """A hub that takes longer than the default is waited for, where HF_HUB_ETAG_TIMEOUT says so; and not else."""
    served.slow = 0.4
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    with pytest.raises(hub.Unreachable, match="does not answer"):
        hub.look(FIRST)
    hub.forget()
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 5)
    assert hub.look(FIRST).commit == COMMIT
