"""In somebody else's process: what was set there before a model is loaded and asked is set so afterwards."""

import logging
import shutil
import subprocess
import sys
import threading

import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers import ROOT
from safetensors.torch import save_file

from diffusion.io import hub
from diffusion.models import checkpoint
from diffusion.models import loading as load
from diffusion.settings import exact_float32, guest, no_first_values

STATE = """
import copy, locale, logging, multiprocessing, os, random, signal, socket, sys, threading, warnings
import diffusers, huggingface_hub, matplotlib, numpy as np, PIL.Image, PIL.ImageFile, torch, transformers
import diffusers.utils.logging as of_diffusers
import transformers.utils.logging as of_transformers
from huggingface_hub import constants
from huggingface_hub.utils import _http, are_progress_bars_disabled
LOGGERS = ["", "diffusers", "transformers", "huggingface_hub", "datasets", "torch", "PIL", "matplotlib", "httpx"]

def readable(read):
    try:
        return read()
    except RuntimeError:  # torch's older settings, where the newer ones are used
        return "RuntimeError"

def state():
    backends = torch.backends
    precise = [backends, backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul, backends.mkldnn.matmul]
    loggers = [logging.getLogger(name) for name in LOGGERS]
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": str(torch.get_default_device()),
        "layers": (torch.nn.Module.register_parameter, dict(vars(torch.nn.init))),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), backends.cudnn.deterministic),
        "benchmark": backends.cudnn.benchmark,
        "precision": [each.fp32_precision for each in precise],
        "older precision": [readable(torch.get_float32_matmul_precision)]
        + [readable(lambda of=of: of.allow_tf32) for of in (backends.cudnn, backends.cuda.matmul)],
        "random": (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()),
        "numpy": (np.geterr(), np.get_printoptions()),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "loggers": [(each.level, each.propagate, each.disabled, list(each.handlers)) for each in loggers],
        "logging": logging.root.manager.disable,
        "bars": (of_diffusers.is_progress_bar_enabled(), of_transformers.is_progress_bar_enabled()),
        "hub": (are_progress_bars_disabled(), constants.HF_HUB_OFFLINE, constants.HF_HUB_ETAG_TIMEOUT),
        "client": (_http._GLOBAL_CLIENT_FACTORY, {k: list(v) for k, v in _http.get_session().event_hooks.items()}),
        "environment": dict(os.environ),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "hooks": (sys.excepthook, sys.displayhook, threading.excepthook),
        "locale": locale.setlocale(locale.LC_ALL),
        "pillow": (PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES, sorted(PIL.Image.OPEN)),
        "matplotlib": {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"},
        "backend": matplotlib.get_backend(auto_select=False),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "socket": socket.getdefaulttimeout(),
        "path": (list(sys.path), os.getcwd(), sys.getrecursionlimit()),
    }

def same(what, before):
    after = state()
    changed = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    assert not changed, f"{what} changes {changed}"
"""
WORK = """
before = state()
import diffusion
same("import", before)
from diffusion import InputError, classify, load_model, score
same("from diffusion import", before)
model = load_model("digits")
same("load_model", before)
image = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
texts = ["a photo of the number three.", "a photo of the number five."]
answer = classify(model, image, texts, max_samples=4)
same("classify", before)
stream = classify(model, (each for each in [image, image]), texts, max_samples=4)
next(stream)
same("half of a stream", before)
errors = score(model, image, texts, n_samples=3)
same("score", before)
for name in ["a/b", "nonsense", sys.argv[1]]:
    try:
        load_model(name)
    except InputError:
        same(f"load_model({name!r})", before)
    else:
        raise AssertionError(name)
with torch.autocast("cpu", torch.bfloat16):
    inside = score(model, image, texts, n_samples=3)
    assert torch.is_autocast_enabled("cpu")
assert np.array_equal(errors, inside)
print(repr(answer.scores.tolist()), repr(errors.tolist()), answer.nfe)
"""
ODD = """
import sympy  # adds a filter of its own
for library in (of_diffusers, of_transformers):
    library.set_verbosity_info()
of_transformers.disable_progress_bar()
huggingface_hub.utils.enable_progress_bars()
logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
warnings.simplefilter("ignore")
torch.manual_seed(5)
torch.set_num_threads(1)
PRECISION
torch.set_default_dtype(torch.float64)
torch.set_grad_enabled(False)
"""
OLDER = "torch.set_float32_matmul_precision('medium')\ntorch.backends.cudnn.allow_tf32 = False"
NEWER = "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'\ntorch.backends.cudnn.conv.fp32_precision = 'ieee'"


def in_a_fresh_process(code: str, damaged) -> str:
    words = [sys.executable, "-c", code, str(damaged)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A copy of the embedded model whose U-Net's file breaks off: an error in the midst of loading."""
    folder = tmp_path_factory.mktemp("damaged") / "sd"
    shutil.copytree(ROOT / "models/digits-sd", folder)
    (path,) = folder.glob("unet/*.safetensors")
    path.write_bytes(path.read_bytes()[:100_000])
    return folder


@pytest.mark.slow
def test_a_process_with_settings_of_its_own(damaged):
    """They stay as they are, and the answers too: errors in float32 are the same bits, also within autocast."""
    usual = in_a_fresh_process(STATE + WORK, damaged)
    assert usual.startswith("[")
    for precision in (OLDER, NEWER):
        assert in_a_fresh_process(STATE + ODD.replace("PRECISION", precision) + WORK, damaged) == usual


def test_a_lora_draws_no_random_numbers(tmp_path):
    """peft's layers draw their first weights; the caller's generator does not notice."""
    pytest.importorskip("peft")
    unet = UNet2DConditionModel.from_pretrained(ROOT / "models/digits-sd", subfolder="unet")
    name = next(each for each, _ in unet.named_modules() if each.endswith("to_q"))
    out, into = unet.get_submodule(name).weight.shape
    tensors = {f"unet.{name}.lora_A.weight": torch.ones(2, into), f"unet.{name}.lora_B.weight": torch.ones(out, 2)}
    save_file(tensors, tmp_path / "lora.safetensors")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load.load_model(load.read_card("digits", lora=[str(tmp_path / "lora.safetensors")]))
    assert torch.equal(torch.get_rng_state(), before)


def test_nested_and_ended_by_an_error():
    level = logging.getLogger("diffusers").level
    with pytest.raises(KeyError), guest(), exact_float32():
        assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
        assert logging.getLogger("diffusers").level == logging.CRITICAL
        raise KeyError
    assert logging.getLogger("diffusers").level == level


def test_layers_of_other_threads_have_first_values():
    """While layers of this thread are made without, and afterwards of every thread; after an error too."""
    found = {}

    def fill(name: str) -> None:
        found[name] = torch.nn.init.zeros_(torch.ones(2)).tolist()

    with pytest.raises(KeyError), no_first_values():
        fill("here")
        other = threading.Thread(target=fill, args=["there"])
        other.start()
        other.join()
        raise KeyError
    fill("afterwards")
    assert found == {"here": [1, 1], "there": [0, 0], "afterwards": [0, 0]}


def test_contexts_of_two_threads_that_overlap():
    """The one that began first ends first: nothing of it stays."""
    before, second_began, first_ended = torch.nn.init.zeros_, threading.Event(), threading.Event()
    found = []

    def second() -> None:
        with no_first_values():
            second_began.set()
            first_ended.wait()
            found.append(torch.nn.init.zeros_(torch.ones(1)).item())

    other = threading.Thread(target=second)
    with no_first_values():
        other.start()
        second_began.wait()
        held = torch.nn.init.zeros_
    found.append(held(torch.ones(1)).item())
    first_ended.set()
    other.join()
    assert found == [0, 1] and torch.nn.init.zeros_ is before and held(torch.ones(1)).item() == 0


# ---- a bug of ours is no damaged file ----


@pytest.mark.parametrize("error", [AttributeError, KeyError, TypeError, ValueError, RuntimeError, ImportError])
@pytest.mark.parametrize(
    "place, works",
    [
        ((checkpoint, "_refuse"), ["check_weights", "load_model"]),
        ((checkpoint, "weight_files"), ["check_weights", "load_model"]),
        ((load, "_pipeline"), ["load_model"]),
        ((checkpoint, "check_part"), ["check_weights"]),
        ((checkpoint, "load_part"), ["load_model"]),
        ((load, "check_parts"), ["check_weights"]),
        ((load, "load_parts"), ["load_model"]),
    ],
    ids=lambda each: each[1] if isinstance(each, tuple) else "",
)
def test_a_bug_keeps_its_traceback(monkeypatch, error, place, works):
    """Wherever our own code fails while weights are read, the error is what it was."""

    def bug(*_, **__):
        raise error("a bug of ours")

    card = load.read_card("digits")
    monkeypatch.setattr(*place, bug)
    for work in works:
        with pytest.raises(error, match="a bug of ours") as raised:
            getattr(load, work)(card)
        assert type(raised.value) is error


@pytest.mark.parametrize("error", [AttributeError, KeyError, TypeError, ValueError, RuntimeError, EOFError])
def test_what_a_library_raises_is_one_line(monkeypatch, error):
    """Of its own call: diffusers, transformers, torch and safetensors raise nearly any class for a foreign file."""

    def foreign(*_, **__):
        raise error("not\nreadable")

    card = load.read_card("digits")
    monkeypatch.setattr("diffusers.UNet2DConditionModel.from_config", foreign)
    for work in (load.check_weights, load.load_model):
        with pytest.raises(load.InputError, match="cannot read its weights") as raised:
            work(card)
        assert "\n" not in str(raised.value) and isinstance(raised.value.__cause__, checkpoint.Unreadable)


def test_a_file_that_is_not_to_be_had(monkeypatch):
    def gone(*_):
        raise hub.Unreachable("the hub is away")

    card = load.read_card("digits")
    monkeypatch.setattr(hub, "fetch", gone)
    with pytest.raises(load.InputError, match="the hub is away"):
        load.load_model(card)
