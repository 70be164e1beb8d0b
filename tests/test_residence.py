"""Text encoders are there only while prompts are encoded, and all numbers are as if every part were always there."""

import math
import shutil
from dataclasses import replace

import pytest
import tiny
import torch
from diffusers import AutoencoderKL
from helpers import ROOT, answers
from safetensors.torch import load_file, save_file

from diffusion import InputError
from diffusion.data.datasets import load_dataset
from diffusion.data.images import crop
from diffusion.models import checkpoint, loading, residence
from diffusion.models.loading import load_model, read_card

PROMPTS = ["a photo of the number three.", "a red cat"]
FILE = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def pipelines(monkeypatch):
    """The pipelines that are made, in order."""
    made, real = [], loading._pipeline
    monkeypatch.setattr(loading, "_pipeline", lambda *args: made.append(real(*args)) or made[-1])
    return made


@pytest.fixture(scope="module")
def folder(saved):
    return saved(tiny.sd3_with_t5)


def card_of(folder):
    return read_card(str(folder), 32, t5=True)


def devices(pipeline) -> dict[str, set[str]]:
    """Where the weights of each part are."""
    found = {}
    for part, module in pipeline.components.items():
        if isinstance(module, torch.nn.Module):
            found[part] = {parameter.device.type for parameter in module.parameters()}
    return found


def errors(model, conditions) -> torch.Tensor:
    x = model.encode(torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)).expand(len(conditions), -1, -1, -1)
    with torch.inference_mode():
        return model.denoise(x, model.process.time[[400] * len(conditions)], conditions)


def same(these, those) -> bool:
    """Whether conditions are the same bits."""
    return [row.digest() for row in rows_of(these)] == [row.digest() for row in rows_of(those)]


def rows_of(conditions) -> list:
    return [conditions[k] for k in range(len(conditions))]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_parts_come_and_go(folder, monkeypatch, pipelines, dtype):
    """After the prompts no text encoder is there, and before them no network; bits are the same."""
    always = load_model(card_of(folder), dtype=dtype)
    assert all(places == {"cpu"} for places in devices(pipelines[0]).values())
    wanted = always.conditions(PROMPTS)
    monkeypatch.setattr(residence, "SMALL", 0)
    model = load_model(card_of(folder), dtype=dtype)
    pipeline = pipelines[1]
    encoders = ["text_encoder", "text_encoder_2", "text_encoder_3"]
    away = {part: {"meta"} for part in [*encoders, "transformer"]} | {"vae": {"cpu"}}
    assert devices(pipeline) == away
    found = model.conditions(PROMPTS)
    assert same(found, wanted) and devices(pipeline) == away
    if dtype != torch.float16:  # slow on a CPU
        assert torch.equal(errors(model, found), errors(always, wanted))
        assert devices(pipeline) == away | {"transformer": {"cpu"}}
    assert same(model.conditions(PROMPTS[::-1]), always.conditions(PROMPTS[::-1]))
    assert all(devices(pipeline)[part] == {"meta"} for part in encoders)


def test_a_failure_while_encoding_leaves_nothing_there(folder, monkeypatch, pipelines):
    monkeypatch.setattr(residence, "SMALL", 0)
    model = load_model(card_of(folder))
    with pytest.raises(InputError):
        model.conditions(["a photo " * 400 + "x", "a photo " * 400 + "y"])
    assert devices(pipelines[0])["text_encoder_3"] == {"meta"}
    assert same(model.conditions(PROMPTS), load_model(card_of(folder)).conditions(PROMPTS))


def test_a_network_that_is_damaged_is_refused_at_once(folder, tmp_path, monkeypatch):
    """Not only when it is read."""
    monkeypatch.setattr(residence, "SMALL", 0)
    shutil.copytree(folder, tmp_path / "copy")
    tensors = load_file(tmp_path / "copy" / FILE)
    tensors.pop(next(key for key in tensors if key.endswith(".weight")))
    save_file(tensors, tmp_path / "copy" / FILE)
    with pytest.raises(InputError, match="missing"):
        load_model(card_of(tmp_path / "copy"))
    whole = (folder / FILE).read_bytes()
    (tmp_path / "copy" / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError):
        load_model(card_of(tmp_path / "copy"))


def test_prefixes_and_scales_of_a_network_that_is_read_later(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "copy")
    tensors = load_file(tmp_path / "copy" / FILE)
    key = next(key for key in tensors if key.endswith("attn.to_q.weight"))
    quantised = tensors[key].to(torch.float8_e4m3fn)
    tensors[key] = quantised.float() * 0.5
    save_file(tensors, tmp_path / "copy" / FILE)
    wanted = answers(load_model(card_of(tmp_path / "copy")))
    tensors |= {key: quantised, key.replace("weight", "scale_weight"): torch.tensor(0.5)}
    save_file({f"module.{key}": value for key, value in tensors.items()}, tmp_path / "copy" / FILE)
    monkeypatch.setattr(residence, "SMALL", 0)
    assert torch.equal(answers(load_model(card_of(tmp_path / "copy"))), wanted)


def test_loras_keep_all_parts_there(monkeypatch, pipelines, tmp_path):
    """Their weights are not those of the files."""
    pytest.importorskip("peft")
    unet = load_file(ROOT / "models/digits-sd/unet/diffusion_pytorch_model.safetensors")
    key = next(key for key in unet if key.endswith("to_q.weight"))
    out, into = unet[key].shape
    halves = {"lora_A": torch.ones(2, into), "lora_B": torch.ones(out, 2)}
    lora = {f"unet.{key}".replace("weight", f"{half}.weight"): value for half, value in halves.items()}
    save_file(lora, tmp_path / "lora.safetensors")
    card = replace(read_card("digits"), lora=(str(tmp_path / "lora.safetensors"),))
    wanted = answers(load_model(card))
    monkeypatch.setattr(residence, "SMALL", 0)
    assert torch.equal(answers(load_model(card)), wanted)
    assert all(places == {"cpu"} for places in devices(pipelines[-1]).values())


def test_visitors_go_back_without_a_copy(folder):
    """As on an accelerator, for which the meta device stands here: the weights are the same memory as before."""
    encoder = load_parts(folder)["text_encoder"]
    before = {key: value.data_ptr() for key, value in encoder.state_dict().items()}
    with residence.visiting([encoder], torch.device("meta")):
        assert {parameter.device.type for parameter in encoder.parameters()} == {"meta"}
    assert {key: value.data_ptr() for key, value in encoder.state_dict().items()} == before
    with pytest.raises(KeyError), residence.visiting([encoder], torch.device("meta")):
        raise KeyError
    assert {key: value.data_ptr() for key, value in encoder.state_dict().items()} == before


def load_parts(folder) -> dict[str, torch.nn.Module]:
    return loading.load_parts(card_of(folder), torch.float32)


def test_tiles_would_change_a_latent():
    """So no VAE works in tiles: what it encodes is what diffusers does with the whole image, of any size."""
    model = load_model("digits")
    vae = AutoencoderKL.from_pretrained(ROOT / "models/digits-sd", subfolder="vae").eval()
    digits = load_dataset("digits")
    images = [crop(digits.open(k).convert("RGB"), 32, "bicubic") for k in range(4)]
    image = torch.cat([torch.cat(images[:2], 2), torch.cat(images[2:], 2)], 1)[None]  # [1, 3, 64, 64]
    with torch.no_grad():
        whole = vae.encode(image).latent_dist.mean
        vae.enable_tiling()
        tiled = vae.encode(image).latent_dist.mean
    assert (tiled - whole).pow(2).mean().sqrt() > 0.1 * whole.pow(2).mean().sqrt()
    torch.testing.assert_close(model.encode(image), whole * vae.config.scaling_factor)


# ---- files ----


def test_a_file_is_cast_by_and_by(tmp_path, monkeypatch):
    """Whatever the size of its parts: the tensors, their order and dtypes are those of a cast at once."""
    rng = torch.Generator().manual_seed(0)
    tensors = {f"t{k}": torch.randn(10, k + 1, generator=rng).half() for k in range(7)}
    tensors |= {"whole": torch.arange(5), "f8": torch.ones(4).to(torch.float8_e4m3fn), "wide": torch.ones(3)}
    save_file(tensors, tmp_path / "a.safetensors")
    opened, real = [], checkpoint.safe_open
    monkeypatch.setattr(checkpoint, "safe_open", lambda *args: opened.append(args) or real(*args))
    for most, times in ((0, {8, 9}), (math.inf, {2})):
        monkeypatch.setattr(checkpoint, "AT_ONCE", most)
        opened.clear()
        found = checkpoint.read([tmp_path / "a.safetensors"], torch.float32)
        assert found.keys() == tensors.keys() and len(opened) in times
        for key, value in tensors.items():
            cast = value.dtype == torch.float16
            assert found[key].dtype == (torch.float32 if cast else value.dtype)
            assert torch.equal(found[key].float(), value.float())
