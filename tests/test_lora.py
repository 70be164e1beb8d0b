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
from diffusion.core.batching import together
from diffusion.core.image import Question, search_image
from diffusion.core.noise import ImageNoise
from diffusion.core.schedule import Points
from diffusion.core.search import halving, noise_rows, race, spread_sequence
from diffusion.data.datasets import load_dataset
from diffusion.data.images import centre_crop
from diffusion.io.wording import split_weight
from diffusion.models import lora
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
    """What the model answers with up down alpha / rank added by hand to the weights of its U-Net, or of the U-Net's
    attention.
    """
    found = {}
    for where in ("unet", "attention"):
        folder = tmp_path_factory.mktemp("by_hand") / "model"
        shutil.copytree(model_folder, folder)
        path = folder / "unet/diffusion_pytorch_model.safetensors"
        tensors = {key: value.float() for key, value in load_file(path).items()}
        for name, (down, up) in unet_only(layers).items():
            if where == "unet" or "attn" in name:
                key = name.removeprefix("unet.") + ".weight"
                tensors[key] = tensors[key] + ALPHA / RANK * up @ down
        save_file(tensors, path, {"format": "pt"})
        found[where] = answers(load_model(folder))
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


@pytest.mark.slow
@pytest.mark.parametrize("form, suffix", [*((form, "safetensors") for form in FORMATS), ("diffusers", "bin")])
def test_layouts(tmp_path, model_folder, layers, wanted, form, suffix):
    """All mean the same weights."""
    path = tmp_path / f"lora.{suffix}"
    tensors = FORMATS[form](layers)
    save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
    card = read_card(str(model_folder), lora=str(path))
    check_weights(card)
    where = "attention" if form.startswith("processors") else "unet"
    torch.testing.assert_close(answers(load_model(card)), wanted[where], rtol=1e-4, atol=1e-5)


def test_peft_folder(tmp_path, model_folder, layers, wanted):
    """Its alpha is in adapter_config.json; without that, nobody knows it."""
    tensors = {k: v * (RANK / ALPHA) if "lora_B" in k else v for k, v in base_model(layers).items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    card = read_card(str(model_folder), lora=str(tmp_path / "adapter_model.safetensors"))
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        check_weights(card)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA}))
    for file in tmp_path, tmp_path / "adapter_model.safetensors":
        card = read_card(str(model_folder), lora=str(file))
        check_weights(card)
        torch.testing.assert_close(answers(load_model(card)), wanted["unet"], rtol=1e-4, atol=1e-5)


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


@pytest.fixture(scope="module")
def changed_xl(saved, tmp_path_factory):
    """A folder with a tiny Stable Diffusion XL whose weights were changed by hand, and kohya's file that means this."""
    root = tmp_path_factory.mktemp("xl")
    shutil.copytree(saved(tiny.sdxl), root / "model")
    save_file(by_hand(root / "model", MODULES), root / "l.safetensors")
    return root / "model", str(root / "l.safetensors")


@pytest.fixture(scope="module")
def of_xl(saved, changed_xl):
    """What the tiny Stable Diffusion XL answers, and what it answers with its weights changed by hand."""
    return [answers(load_model(read_card(folder, 32))) for folder in (saved(tiny.sdxl), changed_xl[0])]


def test_kohya_whose_modules_have_different_alphas(saved, changed_xl):
    """Each module has alpha / rank of its own: the bits of the weights, but for float32's last."""
    folder, file = changed_xl
    pipe = DiffusionPipeline.from_pretrained(saved(tiny.sdxl), dtype=torch.float32)
    wanted = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    lora.add(pipe, "unet", file)
    for part in ("unet", "text_encoder", "text_encoder_2"):
        for key, value in getattr(pipe, part).state_dict().items():
            torch.testing.assert_close(value, getattr(wanted, part).state_dict()[key], rtol=1e-6, atol=1e-6, msg=key)


def test_different_alphas_in_a_run(saved, changed_xl, of_xl):
    """As --lora, with a weight, and as a prompt's own, which is switched on and off: as the weights changed by hand."""
    (base, wanted), (_, file) = of_xl, changed_xl
    assert (wanted - base).abs().max() > 1e-3
    halves = read_card(saved(tiny.sdxl), 32, lora=[f"{file}:0.5"] * 2)
    check_weights(halves)
    torch.testing.assert_close(answers(load_model(halves)), wanted, rtol=1e-4, atol=1e-5)
    model = load_model(replace(read_card(saved(tiny.sdxl), 32), prompt_loras=(file,)))
    for loras, right in [((file,), wanted), ((), base), ((file,), wanted)]:
        with_loras = replace(
            model, conditions=lambda prompts, loras=loras: model.conditions(prompts, [loras] * len(prompts))
        )
        torch.testing.assert_close(answers(with_loras), right, rtol=1e-4, atol=1e-5)


def test_alphas_in_diffusers_header(tmp_path, saved):
    """Of a file that diffusers saved with its adapters' configurations: alpha_pattern is of the modules it names."""
    shutil.copytree(saved(tiny.sdxl), tmp_path / "by_hand")
    unet = {key: value for key, value in MODULES.items() if key[0] == "unet"}
    tensors, names = by_hand(tmp_path / "by_hand", unet, header=True), [name for _, name in unet]
    header = {"r": 2, "lora_alpha": 1.0, "target_modules": names, "init_lora_weights": "gaussian"}
    header |= {"rank_pattern": {name: rank for (_, name), (rank, _) in unet.items()}}
    header |= {"alpha_pattern": {name: alpha for (_, name), (_, alpha) in unet.items()}}
    text = json.dumps({f"unet.{key}": value for key, value in header.items()})
    save_file(tensors, tmp_path / "l.safetensors", {"format": "pt", "lora_adapter_metadata": text})
    card = read_card(saved(tiny.sdxl), 32, lora=str(tmp_path / "l.safetensors"))
    check_weights(card)
    wanted = answers(load_model(read_card(tmp_path / "by_hand", 32)))
    torch.testing.assert_close(answers(load_model(card)), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("start, where", [("PiSSA_niter_4", "beside"), ("of a later peft", "header")])
def test_adapters_that_changed_the_model_first(run_main, tmp_path, layers, start, where):
    """Their tensors are a difference from other weights than the model's."""
    if where == "beside":
        save_file(base_model(layers), tmp_path / "adapter_model.safetensors")
        config = {"r": RANK, "lora_alpha": ALPHA, "init_lora_weights": start}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        file = tmp_path
    else:
        file = tmp_path / "l.safetensors"
        header = json.dumps({"unet.init_lora_weights": start, "unet.r": RANK})
        save_file(diffusers_peft(layers), file, {"lora_adapter_metadata": header})
    refused(run_main(SCRIPT, *ARGS, "--lora", file), tmp_path, start, "path_initial_model_for_weight_conversion")


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


@pytest.mark.parametrize("ends, alpha", [
    (("lora_A.weight", "lora_B.weight"), None), (("lora_down.weight", "lora_up.weight"), ALPHA),
], ids=["without alpha", "with alpha"])  # fmt: skip
def test_comfyui(tmp_path, saved, of_xl, ends, alpha):
    """Of SDXL, in the original names of the blocks, with dots: as the weights changed by hand."""
    shutil.copytree(saved(tiny.sdxl), tmp_path / "by_hand")
    path = tmp_path / "by_hand/unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    key = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    out, into = tensors[key].shape
    rng = torch.Generator().manual_seed(0)
    down, up = torch.randn(RANK, into, generator=rng), torch.randn(out, RANK, generator=rng)
    tensors[key] += (alpha or RANK) / RANK * up @ down
    save_file(tensors, path, {"format": "pt"})
    head = "diffusion_model.input_blocks.3.1.transformer_blocks.0.attn1.to_q"
    file = {f"{head}.{ends[0]}": down, f"{head}.{ends[1]}": up}
    save_file(file | ({f"{head}.alpha": torch.tensor(alpha)} if alpha else {}), tmp_path / "l.safetensors")
    card = read_card(saved(tiny.sdxl), 32, lora=str(tmp_path / "l.safetensors"))
    check_weights(card)
    found, wanted = answers(load_model(card)), answers(load_model(read_card(tmp_path / "by_hand", 32)))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert (found - of_xl[0]).abs().max() > 1e-3


def test_several_with_weights(tmp_path, model_folder, layers, wanted):
    """Half of each of two equal ones is one; a colon may be part of a name."""
    path = tmp_path / "a:0.5"
    save_file(kohya(unet_only(layers)), tmp_path / "b.safetensors")
    path.mkdir()
    shutil.copy(tmp_path / "b.safetensors", path / "lora.safetensors")
    card = read_card(str(model_folder), lora=[f"{path}:0.5", f"{tmp_path / 'b.safetensors'}:0.5"])
    fingerprints = check_weights(card)
    torch.testing.assert_close(answers(load_model(card)), wanted["unet"], rtol=1e-4, atol=1e-5)
    assert sum("weights of --lora" in key for key in fingerprints) == 2
    assert split_weight(str(path)) == (str(path), 1.0) and split_weight(f"{path}:-2") == (str(path), -2.0)
    assert split_weight("user/name") == ("user/name", 1.0) and split_weight("C:x") == ("C:x", 1.0)


EXTRA = {f"unet.extra.lora_{half}.weight": torch.ones(2, 2) for half in "AB"}
OTHERS = {f"base_model.model.model.layers.{k}.q.lora_A.weight": torch.ones(2, 2) for k in range(3)}
RUINED = {  # files that are not, or not only, a LoRA of this model, from kohya's and diffusers' of it
    "of nothing": lambda kohyas, plain: {"x": torch.zeros(2)},
    "half foreign": lambda kohyas, plain: renamed(plain, "attn1", "attn7"),
    "without an up": lambda kohyas, plain: dict(list(plain.items())[:-1]),
    "of another part": lambda kohyas, plain: renamed(plain, "unet.", "transformer."),
    "kohya's half foreign": lambda kohyas, plain: renamed(kohyas, "to_q", "to_x"),
    "kohya's of text encoder 2": lambda kohyas, plain: renamed(kohyas, "lora_unet", "lora_te2"),
    "an alpha of no module": lambda kohyas, plain: kohyas | {"lora_unet_x.alpha": torch.tensor(1.0)},
    "another width": lambda kohyas, plain: {k: v[:, :-1] if "lora_A" in k else v for k, v in plain.items()},
    "of zeros": lambda kohyas, plain: {k: torch.zeros_like(v) if "lora_B" in k else v for k, v in plain.items()},
    "DoRA": lambda kohyas, plain: kohyas | renamed(copied(kohyas), "lora_up.weight", "dora_scale"),
    "LoHa": lambda kohyas, plain: renamed(renamed(kohyas, "lora_down.weight", "hada_w1_a"), "lora_up", "hada_w1_b"),
    "one more": lambda kohyas, plain: plain | EXTRA,
    "peft's of another": lambda kohyas, plain: OTHERS,
    "empty": lambda kohyas, plain: {},
}


def copied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in tensors.items()}


def renamed(tensors: dict[str, torch.Tensor], old: str, new: str) -> dict[str, torch.Tensor]:
    return {key.replace(old, new): value for key, value in tensors.items()}


@pytest.mark.parametrize("name", RUINED)
def test_bad_files(tmp_path, layers, name):
    path = tmp_path / "lora.safetensors"
    tensors = RUINED[name](kohya(unet_only(layers)), diffusers_peft(layers))
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    with pytest.raises(InputError) as refused:
        check_weights(read_card("digits", lora=str(path)))
    assert refused.value.where == f"--lora {path}"
    if name == "one more":
        n = len(tensors)
        assert f"{n - 2} of its {n} tensors found their place" in refused.value.problem
        assert "unet.extra" in refused.value.problem


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
    encoded = []
    for name, token in embedding_files(tmp_path).items():
        card = read_card(str(model_folder), embeddings=[str(tmp_path / name)])
        fingerprints = check_weights(card)
        assert next(iter(fingerprints)) == f"weights of --embeddings {tmp_path / name}"
        encoded.append(load_model(card).conditions([f"a photo of a {token}."]))
    assert len({each.digest() for each in encoded}) == 1
    pipe = DiffusionPipeline.from_pretrained(model_folder, safety_checker=None, dtype=torch.float32)
    unknown = load_model(str(model_folder)).conditions(["a photo of a zorg."])
    assert (unknown["text"] - encoded[0]["text"]).abs().max() > 1e-3
    pipe.load_textual_inversion(str(tmp_path / "d.bin"))
    assert torch.equal(pipe.encode_prompt("a photo of a <thing>.", "cpu", 1, False)[0], encoded[0]["text"])


# ---- those of single prompts: columns of the csv ----


def write_csv(path, header: str, rows: list[str]):
    """Prompts of the ten digits, each with its own cells."""
    path.write_text(
        f"prompt,classname,classidx,{header}\n"
        + "".join(f"a photo of the number {k}.,{k},{k},{row}\n" for k, row in enumerate(rows))
    )
    return path


def cells(n: int = 10, **of_prompts: str) -> list[str]:
    return [of_prompts.get(f"_{k}", "") for k in range(n)]


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


@pytest.mark.slow
def test_loras_of_single_prompts(tmp_path, one_image, two):
    """Beside --lora, as runs of the whole model with --lora: the bits of arms without, else within the rounding of
    adding first.
    """
    beside, cell_of = "a.safetensors:-0.3", {3: "b.safetensors", 5: "a.safetensors b.safetensors:0.5"}
    path = write_csv(two / "p.csv", "lora", cells(**{f"_{k}": cell for k, cell in cell_of.items()}))
    plain_csv = write_csv(tmp_path / "plain.csv", "note", cells())
    ours = by_arm(record_of(tmp_path / "ours", one_image, "--lora", two / beside, "--prompt_path", path))
    for number, cell in enumerate(["", *cell_of.values()]):
        loras = [two / each for each in [beside, *cell.split()]]
        theirs = by_arm(record_of(tmp_path / str(number), one_image, "--lora", *loras, "--prompt_path", plain_csv))
        arms = [k for k, each in cell_of.items() if each == cell] or [k for k in range(10) if k not in cell_of]
        for arm in range(10):
            if arm not in arms:
                assert (ours[arm] - theirs[arm]).abs().max() > 1e-4  # so none was left on
            elif cell:
                torch.testing.assert_close(ours[arm], theirs[arm], rtol=3e-6, atol=0)
            else:
                assert torch.equal(ours[arm], theirs[arm])


def test_company_changes_no_bit_with_loras_of_prompts(two):
    """A race and a halving side by side, in calls of any size and in any order; NFE are the rows of the blocks."""
    images, spread = (0, 301), spread_sequence(8, 1000)
    a, b = str(two / "a.safetensors"), f"{two / 'b.safetensors'}:0.5"
    loras = [(), (a,), (b,), (a, b), ()]
    model = load_model(replace(read_card("digits"), prompt_loras=(a, b)))
    conditions = model.conditions([f"a photo of the number {k}." for k in range(5)], loras)
    points = Points(spread, noise_rows(spread, 1, True), None, np.ones(len(spread)))
    data, one = load_dataset("digits"), np.ones(5, dtype=int)
    x = {k: model.encode(centre_crop(data.open(k), 32)[None])[0] for k in images}
    starts = {0: lambda _: race(spread, one, 3.0), 301: lambda _: halving(5, [2, 6], [3, 1])}

    def image(k: int):
        question = Question(x[k], conditions, np.arange(5), starts[k], ImageNoise(0, k, (4, 8, 8)))
        return k, (yield from search_image(question, points, loss="l2"))

    found = []
    for order, how in (images, {"batch_size": 32}), (images[::-1], {"batch_size": 16, "in_flight": 1}):
        nfe = []
        found.append(dict(together(model, map(image, order), spent=nfe.append, **how)))
        assert sum(nfe) == sum(measured.nfe for measured in found[-1].values())
    for k in images:
        one, other = (each[k] for each in found)
        assert torch.equal(one.counts, other.counts) and torch.equal(one.errors, other.errors)


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
    save_file(EXTRA, tmp_path / "foreign.safetensors")
    save_file(RUINED["of zeros"]({}, diffusers_peft(layers)), tmp_path / "zero.safetensors")
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


def test_embeddings_of_single_prompts(tmp_path, one_image):
    """Everybody's token is called <thing>: each prompt has its own file's, as a run with --embeddings alone."""
    files = []
    for seed in range(2):
        vectors = torch.randn(1 + seed, 128, generator=torch.Generator().manual_seed(seed))
        files.append(tmp_path / f"{seed}.safetensors")
        save_file({"<thing>": vectors}, files[-1])
    text = "a photo of the number <thing>."
    rows = [text if k < 2 else f"a photo of the number {k}." for k in range(10)]
    path = tmp_path / "p.csv"
    lines = [f"{row},{k},{k},{'01'[k]}.safetensors\n" if k < 2 else f"{row},{k},{k},\n" for k, row in enumerate(rows)]
    path.write_text("prompt,classname,classidx,embedding\n" + "".join(lines))
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
    """Two classes of one text are distinguished by their LoRAs; without the column it warns."""
    from diffusion.data.prompts import duplicates, read_prompts

    for column, same in ("lora", 0), ("note", 1):
        rows = [f"a photo,{k},{k},{each}" for k, each in enumerate(["a.safetensors", "b.safetensors"])]
        (two / "same.csv").write_text("\n".join([f"prompt,classname,classidx,{column}", *rows]))
        assert len(duplicates(read_prompts(two / "same.csv", added=True))) == same
