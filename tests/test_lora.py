"""LoRAs and embeddings: every tensor of a file finds its place and changes something, or one line says so."""

import json
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from diffusers import DiffusionPipeline
from helpers import answers, refused
from safetensors.torch import load_file, save_file

from diffusion import InputError
from diffusion.io.wording import split_weight
from diffusion.models.loading import check_weights, load_model, read_card
from diffusion.models.lora import STARTS

pytest.importorskip("peft")
SCRIPT = "eval_prob_adaptive.py"
ARGS = ["--version", "digits", "--dataset", "digits", "--device", "cpu", "--to_keep", 1, "--n_samples", 2]
RANK, ALPHA = 2, 1.0  # so alpha / rank is 1/2


@pytest.fixture(scope="session")
def layers(model_folder) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Module of the embedded model's U-Net or text encoder -> down [r, in] and up [out, r]."""
    pipe = DiffusionPipeline.from_pretrained(model_folder, safety_checker=None)
    rng, found = torch.Generator().manual_seed(0), {}
    for part in ("unet", "text_encoder"):
        for name, module in getattr(pipe, part).named_modules():
            if isinstance(module, torch.nn.Linear) and name.endswith(("to_q", "to_v", "to_out.0", "_proj")):
                out, into = module.weight.shape
                down, up = torch.randn(RANK, into, generator=rng) / 8, torch.randn(out, RANK, generator=rng) / 8
                found[f"{part}.{name}"] = down, up
    return found


@pytest.fixture(scope="session")
def wanted(model_folder, tmp_path_factory, layers):
    """What the model says with up down alpha / rank added to its weights by hand; of the U-Net alone, or of both, or of
    the U-Net's attention.
    """
    found = {}
    for parts in ("unet",), ("unet", "text_encoder"), ("unet", "attention"):
        folder = tmp_path_factory.mktemp("by_hand") / "model"
        shutil.copytree(model_folder, folder)
        for part, file in ("unet", "diffusion_pytorch_model"), ("text_encoder", "model"):
            path = folder / part / f"{file}.safetensors"
            tensors = {key: value.float() for key, value in load_file(path).items()}
            for name, (down, up) in layers.items():
                if name.split(".")[0] == part and part in parts and ("attn" in name or "attention" not in parts):
                    key = name.removeprefix(f"{part}.") + ".weight"
                    tensors[key] = tensors[key] + ALPHA / RANK * up @ down
            save_file(tensors, path, {"format": "pt"})
        found[parts] = answers(load_model(str(folder)))
    return found


def kohya(layers, alpha: float | None = ALPHA) -> dict[str, torch.Tensor]:
    out = {}
    for name, (down, up) in layers.items():
        part, _, rest = name.partition(".")
        text = rest if rest.startswith("text_model") else f"text_model.{rest}"
        key = f"lora_unet_{rest.replace('.', '_')}" if part == "unet" else f"lora_te_{text.replace('.', '_')}"
        out |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        out |= {f"{key}.alpha": torch.tensor(alpha)} if alpha else {}
    return out


def unet_only(layers):
    return {name: value for name, value in layers.items() if name.startswith("unet.")}


def plain(layers, a: str, b: str, head: str = "unet.") -> dict[str, torch.Tensor]:
    """Of the U-Net, with alpha in the up half."""
    out = {}
    for name, (down, up) in unet_only(layers).items():
        out |= {head + name.removeprefix("unet.") + a: down, head + name.removeprefix("unet.") + b: up * ALPHA / RANK}
    return out


def diffusers_peft(layers):
    return plain(layers, ".lora_A.weight", ".lora_B.weight")


def diffusers_old(layers):
    return plain(layers, ".lora.down.weight", ".lora.up.weight")


def processors(layers, head: str = "") -> dict[str, torch.Tensor]:
    """As diffusers saved them in 2023: the processor of an attention holds them."""
    out = {}
    for name, (down, up) in unet_only(layers).items():
        if "attn" not in name:  # they know no other layers
            continue
        attention, _, which = name.removeprefix("unet.").replace("to_out.0", "to_out").rpartition(".")
        key = f"{head}{attention}.processor.{which}_lora"
        out |= {f"{key}.down.weight": down, f"{key}.up.weight": up * ALPHA / RANK}
    return out


def base_model(layers):
    return plain(layers, ".lora_A.weight", ".lora_B.weight", "base_model.model.")


FORMATS = {
    "kohya": lambda layers: kohya(unet_only(layers)),
    "peft in diffusers": diffusers_peft,
    "diffusers": diffusers_old,
    "processors": processors,
    "processors of the unet": lambda layers: processors(layers, "unet."),
    "no part named": lambda layers: plain(layers, ".lora_A.weight", ".lora_B.weight", ""),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_layouts(tmp_path, model_folder, layers, wanted, form, suffix):
    """All mean the same weights, to 3e-8 of each."""
    path = tmp_path / f"lora.{suffix}"
    tensors = FORMATS[form](layers)
    save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
    card = read_card(str(model_folder), lora=str(path))
    check_weights(card)
    parts = ("unet", "attention") if form.startswith("processors") else ("unet",)
    torch.testing.assert_close(answers(load_model(card)), wanted[parts], rtol=1e-4, atol=1e-5)


def test_kohya_with_text_encoder(tmp_path, model_folder, layers, wanted):
    save_file(kohya(layers), tmp_path / "lora.safetensors")
    card = read_card(str(model_folder), lora=str(tmp_path / "lora.safetensors"))
    check_weights(card)
    torch.testing.assert_close(answers(load_model(card)), wanted[("unet", "text_encoder")], rtol=1e-4, atol=1e-5)


def test_kohya_to_3e8(tmp_path, model_folder, layers):
    """The weights themselves."""
    from diffusion.models import lora as models_lora

    save_file(kohya(layers), tmp_path / "lora.safetensors")
    pipe = DiffusionPipeline.from_pretrained(model_folder, safety_checker=None, dtype=torch.float32)
    before = {key: value.clone() for key, value in pipe.unet.state_dict().items()}
    models_lora.add(pipe, "unet", f"{tmp_path / 'lora.safetensors'}:0.7")
    for key, value in pipe.unet.state_dict().items():
        down, up = layers.get(f"unet.{key.removesuffix('.weight')}", (None, None))
        by_hand = before[key] if down is None else before[key] + 0.7 * ALPHA / RANK * up @ down
        assert (value - by_hand).abs().max() <= 1.2e-7 * by_hand.abs().max(), key  # float32's last bit


def test_peft_folder(tmp_path, model_folder, layers, wanted):
    """Its alpha is in adapter_config.json; without that, nobody knows it."""
    tensors = {k: v * (RANK / ALPHA) if "lora_B" in k else v for k, v in base_model(layers).items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    card = read_card(str(model_folder), lora=str(tmp_path / "adapter_model.safetensors"))
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        check_weights(card)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA}))
    for given in tmp_path, tmp_path / "adapter_model.safetensors":
        card = read_card(str(model_folder), lora=str(given))
        check_weights(card)
        torch.testing.assert_close(answers(load_model(card)), wanted[("unet",)], rtol=1e-4, atol=1e-5)


MODULES = {  # of tiny.sdxl: part, module -> its rank and alpha, as a resized or block-weighted file has them
    ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"): (2, 1.0),
    ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0"): (3, 6.0),
    ("unet", "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj"): (4, 4.0),
    ("unet", "down_blocks.1.resnets.0.conv1"): (3, 0.75),
    ("unet", "mid_block.resnets.0.conv2"): (2, 1.0),
    ("text_encoder", "encoder.layers.0.self_attn.q_proj"): (2, 1.0),
    ("text_encoder", "encoder.layers.1.mlp.fc1"): (4, 1.0),
    ("text_encoder", "encoder.layers.1.self_attn.out_proj"): (2, 5.0),
    ("text_encoder_2", "text_model.encoder.layers.0.self_attn.v_proj"): (2, 3.0),
    ("text_encoder_2", "text_model.encoder.layers.1.mlp.fc2"): (3, 1.0),
}


def by_hand(folder, modules, header: bool = False):
    """kohya's file, or diffusers' with a header, and the folder's weights plus alpha / rank up @ down, in place."""
    rng, kohya_file, peft_file = torch.Generator().manual_seed(0), {}, {}
    heads = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    for (part, module), (rank, alpha) in modules.items():
        (path,) = (folder / part).glob("*.safetensors")
        tensors = load_file(path)
        weight = tensors[f"{module}.weight"]
        down = torch.randn(rank, *weight.shape[1:], generator=rng) / 4
        up = torch.randn(len(weight), rank, *[1] * (weight.ndim - 2), generator=rng) / 4
        change = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
        tensors[f"{module}.weight"] = weight + alpha / rank * change
        save_file(tensors, path, {"format": "pt"})
        text = module if part == "unet" or module.startswith("text_model") else f"text_model.{module}"
        key = f"{heads[part]}_{text.replace('.', '_')}"
        kohya_file |= {
            f"{key}.lora_down.weight": down,
            f"{key}.lora_up.weight": up,
            f"{key}.alpha": torch.tensor(alpha),
        }
        peft_file |= {f"{part}.{module}.lora_A.weight": down, f"{part}.{module}.lora_B.weight": up}
    return peft_file if header else kohya_file


@pytest.mark.parametrize("which", ["attn", "conv", "text_encoder", "all"])
def test_kohya_whose_modules_have_different_alphas(tmp_path, which):
    """Each module has alpha / rank of its own: the bits of the weights, but for float32's last."""
    from diffusion.models import lora as models_lora

    modules = {(part, name): v for (part, name), v in MODULES.items() if which == "all" or which in f"{part}.{name}"}
    tiny.save(tiny.sdxl, tmp_path / "xl")
    shutil.copytree(tmp_path / "xl", tmp_path / "by_hand")
    save_file(by_hand(tmp_path / "by_hand", modules), tmp_path / "l.safetensors")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "xl", dtype=torch.float32)
    wanted = DiffusionPipeline.from_pretrained(tmp_path / "by_hand", dtype=torch.float32)
    models_lora.add(pipe, "unet", str(tmp_path / "l.safetensors"))
    for part in ("unet", "text_encoder", "text_encoder_2"):
        for key, value in getattr(pipe, part).state_dict().items():
            torch.testing.assert_close(value, getattr(wanted, part).state_dict()[key], rtol=1e-6, atol=1e-6, msg=key)


def test_different_alphas_in_a_run(tmp_path):
    """As --lora, with a weight, and as a prompt's own, which is switched on and off: as the weights changed by hand."""
    tiny.save(tiny.sdxl, tmp_path / "xl")
    shutil.copytree(tmp_path / "xl", tmp_path / "by_hand")
    save_file(by_hand(tmp_path / "by_hand", MODULES), tmp_path / "l.safetensors")
    wanted = answers(load_model(read_card(str(tmp_path / "by_hand"), 32)))
    base = answers(load_model(read_card(str(tmp_path / "xl"), 32)))
    card = read_card(str(tmp_path / "xl"), 32, lora=str(tmp_path / "l.safetensors"))
    check_weights(card)
    torch.testing.assert_close(answers(load_model(card)), wanted, rtol=1e-4, atol=1e-5)
    assert (wanted - base).abs().max() > 1e-3
    halves = read_card(str(tmp_path / "xl"), 32, lora=[f"{tmp_path / 'l.safetensors'}:0.5"] * 2)
    torch.testing.assert_close(answers(load_model(halves)), wanted, rtol=1e-4, atol=1e-5)
    own = str(tmp_path / "l.safetensors")
    model = load_model(replace(read_card(str(tmp_path / "xl"), 32), prompt_loras=(own,)))
    found = []
    for loras in [(own,), (), (own,)]:
        rows = model.conditions(["a photo of a red three.", "a photo of the number five."], [loras] * 2)
        x = model.encode(torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32))
        with torch.inference_mode():
            found.append(torch.cat([model.denoise(x, model.process.time[[400]], rows[k]) for k in range(2)]))
    torch.testing.assert_close(found[1], base, rtol=1e-4, atol=1e-5)
    for each in found[::2]:
        torch.testing.assert_close(each, wanted, rtol=1e-4, atol=1e-5)


def test_alphas_in_diffusers_header(tmp_path):
    """Of a file that diffusers saved with its adapters' configurations: alpha_pattern is of the modules it names."""
    tiny.save(tiny.sdxl, tmp_path / "xl")
    shutil.copytree(tmp_path / "xl", tmp_path / "by_hand")
    unet = {key: value for key, value in MODULES.items() if key[0] == "unet"}
    tensors, names = by_hand(tmp_path / "by_hand", unet, header=True), [name for _, name in unet]
    header = {"r": 2, "lora_alpha": 1.0, "target_modules": names, "init_lora_weights": "gaussian"}
    header |= {"rank_pattern": {name: rank for (_, name), (rank, _) in unet.items()}}
    header |= {"alpha_pattern": {name: alpha for (_, name), (_, alpha) in unet.items()}}
    text = json.dumps({f"unet.{key}": value for key, value in header.items()})
    save_file(tensors, tmp_path / "l.safetensors", {"format": "pt", "lora_adapter_metadata": text})
    card = read_card(str(tmp_path / "xl"), 32, lora=str(tmp_path / "l.safetensors"))
    check_weights(card)
    wanted = answers(load_model(read_card(str(tmp_path / "by_hand"), 32)))
    torch.testing.assert_close(answers(load_model(card)), wanted, rtol=1e-4, atol=1e-5)


def test_an_alpha_of_no_module(run_main, tmp_path, layers):
    save_file(kohya(unet_only(layers)) | {"lora_unet_x.alpha": torch.tensor(1.0)}, tmp_path / "l.safetensors")
    refused(run_main(SCRIPT, *ARGS, "--lora", tmp_path / "l.safetensors"), tmp_path, "lora_unet_x.alpha")


@pytest.mark.parametrize("start", ["pissa", "PiSSA_niter_4", "olora", "corda", "loftq", "lora_ga", "of a later peft"])
@pytest.mark.parametrize("where", ["beside", "header"])
def test_adapters_that_changed_the_model_first(run_main, tmp_path, layers, start, where):
    """Their tensors are a difference from other weights than the model's."""
    if where == "beside":
        save_file(base_model(layers), tmp_path / "adapter_model.safetensors")
        config = {"r": RANK, "lora_alpha": ALPHA, "init_lora_weights": start}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        given = tmp_path
    else:
        given = tmp_path / "l.safetensors"
        header = json.dumps({"unet.init_lora_weights": start, "unet.r": RANK})
        save_file(diffusers_peft(layers), given, {"lora_adapter_metadata": header})
    refused(run_main(SCRIPT, *ARGS, "--lora", given), tmp_path, start, "path_initial_model_for_weight_conversion")


def test_starts_that_leave_the_model_as_it_was():
    """As peft itself makes them; a start that it knows and we do not is refused."""
    from peft import LoraConfig, get_peft_model

    for start in (True, False, "gaussian", "orthogonal", "mica", "eva", "pissa", "pissa_niter_2", "olora"):
        module = torch.nn.Sequential(torch.nn.Linear(6, 6))
        before = module[0].weight.detach().clone()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            get_peft_model(module, LoraConfig(r=2, target_modules=["0"], init_lora_weights=start))
        same = torch.equal(module[0].base_layer.weight, before)
        assert same == (start in STARTS), start


@pytest.mark.parametrize("alpha", [None, ALPHA])
@pytest.mark.parametrize("ends", [("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight")])
def test_comfyui(tmp_path, ends, alpha):
    """Of SDXL, in the original names of the blocks, with dots: as the weights changed by hand."""
    tiny.save(tiny.sdxl, tmp_path / "xl")
    shutil.copytree(tmp_path / "xl", tmp_path / "by_hand")
    path = tmp_path / "by_hand/unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    key = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    out, into = tensors[key].shape
    rng = torch.Generator().manual_seed(0)
    down, up = torch.randn(RANK, into, generator=rng), torch.randn(out, RANK, generator=rng)
    tensors[key] += (alpha or RANK) / RANK * up @ down
    save_file(tensors, path, {"format": "pt"})
    head = "diffusion_model.input_blocks.3.1.transformer_blocks.0.attn1.to_q"
    lora = {f"{head}.{ends[0]}": down, f"{head}.{ends[1]}": up}
    save_file(lora | ({f"{head}.alpha": torch.tensor(alpha)} if alpha else {}), tmp_path / "l.safetensors")
    card = read_card(str(tmp_path / "xl"), 32, lora=str(tmp_path / "l.safetensors"))
    check_weights(card)
    said, wanted = answers(load_model(card)), answers(load_model(read_card(str(tmp_path / "by_hand"), 32)))
    torch.testing.assert_close(said, wanted, rtol=1e-5, atol=1e-6)
    assert (said - answers(load_model(read_card(str(tmp_path / "xl"), 32)))).abs().max() > 1e-3


def test_several_with_weights(tmp_path, model_folder, layers, wanted):
    """Half of each of two equal ones is one; a colon may be part of a name."""
    path = tmp_path / "a:0.5"
    save_file(kohya(unet_only(layers)), tmp_path / "b.safetensors")
    path.mkdir()
    shutil.copy(tmp_path / "b.safetensors", path / "lora.safetensors")
    card = read_card(str(model_folder), lora=[f"{path}:0.5", f"{tmp_path / 'b.safetensors'}:0.5"])
    known = check_weights(card)
    torch.testing.assert_close(answers(load_model(card)), wanted[("unet",)], rtol=1e-4, atol=1e-5)
    assert sum("weights of --lora" in key for key in known) == 2
    assert split_weight(str(path)) == (str(path), 1.0) and split_weight(f"{path}:-2") == (str(path), -2.0)
    assert split_weight("user/name") == ("user/name", 1.0) and split_weight("C:x") == ("C:x", 1.0)


def ruined(layers) -> dict[str, dict[str, torch.Tensor]]:
    """Files that are not, or not only, a LoRA of this model."""
    good, old = kohya(unet_only(layers)), diffusers_peft(layers)
    some = list(old)
    foreign = {k.replace("unet.", "unet.other_") if n % 2 else k: v for n, (k, v) in enumerate(old.items())}
    elsewhere = {k.replace("blocks.1", "blocks.7").replace("mid_block", "mad_block"): v for k, v in old.items()}
    return {
        "of nothing": {"x": torch.zeros(2)},
        "half foreign": foreign,
        "of deeper blocks": elsewhere,
        "without an up": {key: value for key, value in old.items() if key != some[1]},
        "without ups": {key: value for key, value in old.items() if "lora_B" not in key},
        "of another part": {key.replace("unet.", "transformer."): value for key, value in old.items()},
        "kohya's half foreign": {k.replace("to_q", "to_x"): v for k, v in good.items()},
        "kohya's of text encoder 2": {k.replace("lora_unet", "lora_te2"): v for k, v in good.items()},
        "another width": {k: v[:, :-1] if "lora_A" in k else v for k, v in old.items()},
        "kohya's other width": {k: v[:, :-1] if "lora_down" in k else v for k, v in good.items()},
        "of zeros": {k: torch.zeros_like(v) if "lora_B" in k else v for k, v in old.items()},
        "kohya's of zeros": {k: torch.zeros_like(v) if "lora_up" in k else v for k, v in good.items()},
        "DoRA": good | {k.replace("lora_up.weight", "dora_scale"): v[:, :1] for k, v in good.items() if "lora_up" in k},
        "LoHa": {k.replace("lora_down.weight", "hada_w1_a").replace("lora_up.weight", "hada_w1_b"): v for k, v in good.items()},  # noqa: E501
        "one more": old | {"unet.extra.lora_A.weight": torch.ones(2, 2), "unet.extra.lora_B.weight": torch.ones(2, 2)},
        "peft's of another": {f"base_model.model.model.layers.{k}.q.lora_A.weight": torch.ones(2, 2) for k in range(3)},
        "a whole model": load_file("models/digits-sd/unet/diffusion_pytorch_model.safetensors"),
        "empty": {},
    }  # fmt: skip


NAMES = [
    "of nothing", "half foreign", "of deeper blocks", "without an up", "without ups", "of another part",
    "kohya's half foreign", "kohya's of text encoder 2", "another width", "kohya's other width", "of zeros",
    "kohya's of zeros", "DoRA", "LoHa", "one more", "peft's of another", "a whole model", "empty",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_bad_files(run_main, tmp_path, layers, name, monkeypatch):
    from helpers import ROOT

    monkeypatch.chdir(ROOT)
    path = tmp_path / "lora.safetensors"
    save_file({key: value.contiguous() for key, value in ruined(layers)[name].items()}, path)
    refused(run_main(SCRIPT, *ARGS, "--lora", path), tmp_path, "--lora", "lora.safetensors")


def test_how_many_found_their_place(run_main, tmp_path, layers):
    tensors = diffusers_peft(layers) | {
        "unet.extra.lora_A.weight": torch.ones(2, 2), "unet.extra.lora_B.weight": torch.ones(2, 2)
    }  # fmt: skip
    save_file(tensors, tmp_path / "lora.safetensors")
    n = len(tensors)
    says = f"{n - 2} of its {n} tensors found their place", "unet.extra"
    refused(run_main(SCRIPT, *ARGS, "--lora", tmp_path / "lora.safetensors"), tmp_path, *says)


def test_several_files_in_a_folder(run_main, tmp_path, layers):
    for name in ("a", "b"):
        save_file(diffusers_peft(layers), tmp_path / f"{name}.safetensors")
    refused(run_main(SCRIPT, *ARGS, "--lora", tmp_path), tmp_path, "several", "a.safetensors")


def test_another_lora_of_the_same_name(run_main, tmp_path, layers):
    np.save(tmp_path / "first.npy", np.array([2]))
    path = tmp_path / "lora.safetensors"
    args = [SCRIPT, *ARGS, "--lora", path, "--subset_path", tmp_path / "first.npy"]
    save_file(diffusers_peft(layers), path)
    assert run_main(*args).code == 0
    save_file({key: value + 1e-3 for key, value in diffusers_peft(layers).items()}, path)
    done = run_main(*args)
    assert done.code == 2 and "weights of --lora" in done.err


# ---- embeddings ----


def embedding_files(folder):
    """Two vectors for one token, as diffusers, A1111 and the trainers save them -> the token."""
    vectors = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    torch.save({"<thing>": vectors}, folder / "d.bin")
    save_file({"<thing>": vectors}, folder / "d.safetensors")
    save_file({"emb_params": vectors}, folder / "zorg.safetensors")
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "zorg"}, folder / "a.pt")
    return {"d.bin": "<thing>", "d.safetensors": "<thing>", "zorg.safetensors": "zorg", "a.pt": "zorg"}


def test_embeddings(tmp_path, model_folder):
    """A token in a prompt stands for its vectors: the same conditions from every kind of file, and no other's."""
    said = []
    for name, token in embedding_files(tmp_path).items():
        card = read_card(str(model_folder), embeddings=[str(tmp_path / name)])
        known = check_weights(card)
        assert next(iter(known)) == f"weights of --embeddings {tmp_path / name}"
        said.append(load_model(card).conditions([f"a photo of a {token}."]))
    assert len({each.digest() for each in said}) == 1
    pipe = DiffusionPipeline.from_pretrained(model_folder, safety_checker=None, dtype=torch.float32)
    unknown = load_model(str(model_folder)).conditions(["a photo of a zorg."])
    assert (unknown["text"] - said[0]["text"]).abs().max() > 1e-3
    pipe.load_textual_inversion(str(tmp_path / "d.bin"))
    assert torch.equal(pipe.encode_prompt("a photo of a <thing>.", "cpu", 1, False)[0], said[0]["text"])


def test_a_run_with_embeddings(run_main, tmp_path):
    embedding_files(tmp_path)
    np.save(tmp_path / "first.npy", np.array([2]))
    (tmp_path / "p.csv").write_text(
        "prompt,classname,classidx\n" + "".join(f"a photo of {k} <thing>.,{k},{k}\n" for k in range(10))
    )
    more = ["--embeddings", tmp_path / "d.bin", "--prompt_path", tmp_path / "p.csv"]
    done = run_main(SCRIPT, *ARGS, *more, "--subset_path", tmp_path / "first.npy")
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "data" / "digits").iterdir()
    assert "d.bin" in folder.name


# ---- those of single prompts: columns of the csv ----


def write_csv(path, header: str, rows: list[str]):
    """Prompts of the ten digits, each with its own cells."""
    path.write_text(
        f"prompt,classname,classidx,{header}\n"
        + "".join(f"a photo of the number {k}.,{k},{k},{row}\n" for k, row in enumerate(rows))
    )
    return path


def cells(n: int = 10, **own: str) -> list[str]:
    return [own.get(f"_{k}", "") for k in range(n)]


@pytest.fixture(scope="session")
def two(tmp_path_factory, layers):
    """A folder with a LoRA of the U-Net, a.safetensors, and one of both parts, b.safetensors."""
    folder = tmp_path_factory.mktemp("loras")
    save_file(diffusers_peft({key: (down.flip(0), up) for key, (down, up) in layers.items()}), folder / "a.safetensors")
    save_file(kohya(layers), folder / "b.safetensors")
    return folder


def record_of(folder, args, *more) -> dict:
    """The only record of a run, on one image, into a new folder."""
    from helpers import call_main

    done = call_main(folder, SCRIPT, *args, *more)
    assert done.code == 0, done.err
    (path,) = folder.glob("*/*/*.pt")
    return torch.load(path, weights_only=True)


def by_arm(record: dict) -> list[torch.Tensor]:
    return record["errors"].split(record["counts"].tolist())


@pytest.fixture
def one_image(tmp_path):
    np.save(tmp_path / "one.npy", np.array([301]))
    return [*ARGS, "--subset_path", tmp_path / "one.npy"]


@pytest.mark.parametrize("beside, own", [
    ([], {3: "a.safetensors", 5: "b.safetensors:0.5", 7: "a.safetensors b.safetensors:0.5"}),
    (["a.safetensors:-0.3"], {4: "b.safetensors"}),
], ids=["alone", "beside --lora"])  # fmt: skip
def test_each_prompt_by_its_own_lora(tmp_path, one_image, two, beside, own):
    """As runs of the whole model with --lora: the bits of arms without, else within the rounding of adding first."""
    path = write_csv(two / "p.csv", "lora", cells(**{f"_{k}": cell for k, cell in own.items()}))
    plain_csv = write_csv(tmp_path / "plain.csv", "note", cells())
    flag = ["--lora", *(two / each for each in beside)] if beside else []
    ours = by_arm(record_of(tmp_path / "ours", one_image, *flag, "--prompt_path", path))
    for number, cell in enumerate(["", *own.values()]):
        loras = [two / each for each in [*beside, *cell.split()]]
        flag = ["--lora", *loras] if loras else []
        theirs = by_arm(record_of(tmp_path / str(number), one_image, *flag, "--prompt_path", plain_csv))
        arms = [k for k, each in own.items() if each == cell] or [k for k in range(10) if k not in own]
        for arm in range(10):
            if arm not in arms:
                assert (ours[arm] - theirs[arm]).abs().max() > 1e-4  # so none was left on
            elif cell:
                torch.testing.assert_close(ours[arm], theirs[arm], rtol=3e-6, atol=0)
            else:
                assert torch.equal(ours[arm], theirs[arm])


def test_company_changes_no_bit_of_own_loras(tmp_path, two):
    """Races and halvings side by side, in calls of any size and in any order; NFE are the rows of the blocks."""
    from dataclasses import replace

    from diffusion.core.batching import together
    from diffusion.core.image import Question, search_image
    from diffusion.core.noise import ImageNoise
    from diffusion.core.schedule import Points
    from diffusion.core.search import halving, noise_rows, race, spread_sequence
    from diffusion.data.datasets import load_dataset
    from diffusion.data.images import centre_crop

    images, spread = (0, 1, 2, 3, 301, 496), spread_sequence(24, 1000)
    a, b = str(two / "a.safetensors"), f"{two / 'b.safetensors'}:0.5"
    loras = [(), (a,), (b,), (a, b), (), (b,), (a,), (), (), (a, b)]
    model = load_model(replace(read_card("digits"), prompt_loras=(a, b)))
    conditions = model.conditions([f"a photo of the number {k}." for k in range(10)], loras)
    points = Points(spread, noise_rows(spread, 1, True), None, np.ones(len(spread)))
    data, one = load_dataset("digits"), np.ones(10, dtype=int)
    x = {k: model.encode(centre_crop(data.open(k), 32)[None])[0] for k in images}

    def image(k: int):
        start = [lambda _: race(spread, one, 3.0), lambda _: halving(10, [3, 12], [4, 1])][k % 2]
        question = Question(x[k], conditions, np.arange(10), start, ImageNoise(0, k, (4, 8, 8)))
        return k, (yield from search_image(question, points, loss="l2"))

    found = []
    for order, how in (images, {"batch_size": 32}), (images[::-1], {"batch_size": 23}), (images, {"batch_size": 16, "in_flight": 1}):  # fmt: skip  # noqa: E501
        nfe = []
        found.append(dict(together(model, map(image, order), spent=nfe.append, **how)))
        assert sum(nfe) == sum(measured.nfe for measured in found[-1].values())
    for other in found[1:]:
        for k in images:
            assert torch.equal(found[0][k].counts, other[k].counts) and torch.equal(found[0][k].errors, other[k].errors)


def test_other_weights_of_a_column(run_main, tmp_path, one_image, layers, two):
    """Each file of a column is in run.json, and who has it."""
    shutil.copy(two / "a.safetensors", tmp_path)
    path = write_csv(tmp_path / "p.csv", "lora", cells(_3="a.safetensors"))
    args = [SCRIPT, *one_image, "--prompt_path", path]
    assert run_main(*args).code == 0
    (file,) = tmp_path.glob("data/*/*/run.json")
    options = json.loads(file.read_text())["options"]
    assert options["lora of prompts"] == [[str(tmp_path / "a.safetensors")] if k == 3 else [] for k in range(10)]
    write_csv(path, "lora", cells(_4="a.safetensors"))
    assert "lora of prompts was" in run_main(*args).err
    write_csv(path, "lora", cells(_3="a.safetensors"))
    save_file({key: value + 1e-3 for key, value in diffusers_peft(layers).items()}, tmp_path / "a.safetensors")
    done = run_main(*args)
    assert done.code == 2 and "weights of column lora: " in done.err


@pytest.mark.parametrize("column, cell, says", [
    ("lora", "./none.safetensors", "none.safetensors: cannot be read"),
    ("lora", "a.safetensors:0", "line 5: lora a.safetensors:0: a weight of 0"),
    ("lora", "a.safetensors 'b", "line 5: lora is"),
    ("lora", "foreign.safetensors", "foreign.safetensors: does not fit"),
    ("lora", "zero.safetensors", "leaves the weights as they are"),
    ("embedding", "none.bin", "none.bin: cannot be read"),
    ("embedding", "a.safetensors", "wanted one token's embeddings"),
    ("embedding", "d.safetensors", "does not use its token '<thing>'"),
])  # fmt: skip
def test_bad_cells(run_main, tmp_path, layers, two, column, cell, says):
    embedding_files(tmp_path)
    shutil.copy(two / "a.safetensors", tmp_path)
    foreign = {f"unet.x.lora_{half}.weight": torch.ones(2, 2) for half in "AB"}
    save_file(foreign, tmp_path / "foreign.safetensors")
    save_file(ruined(layers)["of zeros"], tmp_path / "zero.safetensors")
    path = write_csv(tmp_path / "p.csv", column, cells(_3=cell))
    refused(run_main(SCRIPT, *ARGS, "--prompt_path", path), tmp_path, says, column)


def test_columns_where_nothing_could_use_them(run_main, tmp_path, two):
    """They are not passed over: from Python, by classifiers, and with a network that is compiled for one LoRA."""
    from diffusion import classify
    from diffusion.evaluate.classifier import text_card
    from diffusion.evaluate.config import RunConfig

    path = write_csv(two / "q.csv", "lora", cells(_3="a.safetensors"))
    with pytest.raises(InputError, match="column lora"):
        classify(load_model("digits"), torch.zeros(3, 32, 32), path)
    done = run_main("scripts/baseline.py", "--dataset", "digits", "--model", "clip:digits", "--prompt_path", path)
    assert done.code == 2 and "column lora" in done.err
    with pytest.raises(InputError, match="--compile"):
        text_card(RunConfig("digits", version="digits", compile=True), [("a.safetensors",)])


def test_each_prompt_by_its_own_token(tmp_path, one_image):
    """Everybody's token is called <thing>: each prompt has its own file's, as a run with --embeddings alone."""
    files = []
    for seed in range(2):
        vectors = torch.randn(1 + seed, 128, generator=torch.Generator().manual_seed(seed))
        files.append(tmp_path / f"{seed}.safetensors")
        save_file({"<thing>": vectors}, files[-1])
    text = "a photo of the number <thing>."
    rows = [text if k < 2 else f"a photo of the number {k}." for k in range(10)]
    path = tmp_path / "p.csv"
    own = [f"{row},{k},{k},{'01'[k]}.safetensors\n" if k < 2 else f"{row},{k},{k},\n" for k, row in enumerate(rows)]
    path.write_text("prompt,classname,classidx,embedding\n" + "".join(own))
    (tmp_path / "alone.csv").write_text(
        "prompt,classname,classidx\n" + "".join(f"{row},{k},{k}\n" for k, row in enumerate(rows))
    )
    ours = by_arm(record_of(tmp_path / "ours", one_image, "--prompt_path", path))
    for k, file in enumerate(files):
        more = ["--prompt_path", tmp_path / "alone.csv", "--embeddings", file]
        theirs = by_arm(record_of(tmp_path / f"with_{k}", one_image, *more))
        assert torch.equal(ours[k], theirs[k]) and not torch.equal(ours[1 - k], theirs[1 - k])
        assert all(map(torch.equal, ours[2:], theirs[2:]))


def test_the_same_text_by_two_loras_is_no_duplicate(recwarn, two):
    """The csv tells two classes apart that have one text; without the column it warns."""
    from diffusion.data.prompts import duplicates, read_prompts

    for column, same in ("lora", 0), ("note", 1):
        rows = [f"a photo,{k},{k},{each}" for k, each in enumerate(["a.safetensors", "b.safetensors"])]
        (two / "same.csv").write_text("\n".join([f"prompt,classname,classidx,{column}", *rows]))
        assert len(duplicates(read_prompts(two / "same.csv", added=True))) == same
