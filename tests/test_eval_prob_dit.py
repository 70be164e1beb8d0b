"""The real script on the embedded DiT: against the oracle, then against itself run otherwise, then what it refuses."""

import json
import os
import re
import shutil
from argparse import Namespace
from pathlib import Path

import layouts
import numpy as np
import oracle
import pytest
import torch
from diffusers import DDIMScheduler
from helpers import ROOT, assert_same, blocks, folder_of, import_script, records_of, subset
from PIL import Image
from safetensors.torch import load_file

from diffusion.core.constants import LOSSES
from diffusion.core.losses import variational_bound
from diffusion.core.noise import ImageNoise
from diffusion.core.process import Process
from diffusion.core.search import spread_sequence
from diffusion.data import catalogue
from diffusion.data.datasets import class_arms, load_dataset
from diffusion.data.images import adm_crop
from diffusion.evaluate.config import RunConfig
from diffusion.io import wording
from diffusion.models.loading import Card
from diffusion.runs import naming
from diffusion.runs.records import read_run
from diffusion.stats import metrics

SCRIPT = "eval_prob_dit.py"
LATENT = (4, 8, 8)
GRID = list(range(25, 1000, 50))  # --t_interval 50, as published: range(I // 2, 1000, I)


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Path:
    """40 draws: enough for the 20 levels of GRID twice."""
    path = tmp_path_factory.mktemp("bank") / "noise.pt"
    torch.save(torch.randn(40, *LATENT, generator=torch.Generator().manual_seed(3)), path)
    return path


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> list:
    return subset(tmp_path_factory.mktemp("subset"), 0, 3, 301)


def options(version, *more) -> list:
    return ["--dataset", "digits", "--version", version, "--device", "cpu", *more]


@pytest.fixture(scope="module")
def grid(dit_folder, bank) -> list:
    """All classes at every level of GRID, each with its own draw of the bank, and the bound."""
    return options(dit_folder, "--noise_path", bank, "--randomize_noise", "--t_interval", 50, "--save_vb")


def in_level_order(record: dict) -> dict[int, np.ndarray]:
    """Arm -> its errors [points, losses] by ascending level, then draw; arms that were measured at every point."""
    order = np.lexsort((record["noise"].numpy(), record["levels"].numpy()))
    return {arm: block[order] for arm, block in enumerate(blocks(record)) if len(block) == len(order)}


def image_of(index: int) -> torch.Tensor:
    return adm_crop(load_dataset("digits").open(index), 32)


# ---- against the oracle ----


@pytest.mark.parametrize("with_bank, randomize, trials", [(True, True, 1), (False, True, 2), (False, False, 2)])
def test_errors_agree_with_the_oracle(run_main, tmp_path, dit_folder, bank, with_bank, randomize, trials):
    """All four columns to 1e-5 relative, the bound too: it is reduced from the same float32 answers as the losses."""
    args = options(dit_folder, "--t_interval", 250, "--n_trials", trials, "--save_vb", *subset(tmp_path, 301))
    args += ["--noise_path", bank] * with_bank + ["--randomize_noise"] * randomize
    records = records_of(run_main(SCRIPT, *args))
    assert list(records) == [301]
    levels = [level for level in (125, 375, 625, 875) for _ in range(trials)]
    rows = list(range(4 * trials)) if randomize else list(range(trials)) * 4
    for index, record in records.items():
        assert record["levels"].tolist() == levels and record["noise"].tolist() == rows
        assert record["losses"] == [*LOSSES, "vb"] and record["counts"].tolist() == [4 * trials] * 10
        draws = torch.load(bank) if with_bank else ImageNoise(0, index, LATENT)[range(8)]
        wanted = oracle.class_errors(dit_folder, image_of(index), [0, 3, 9], levels, draws[rows])
        np.testing.assert_allclose(np.array(blocks(record))[[0, 3, 9]], wanted, rtol=1e-5)


def test_every_level_with_cls(run_main, tmp_path, dit_folder):
    """Level 0, whose term of the bound is a likelihood, is there with --t_interval 1 only. One class: one column."""
    args = options(dit_folder, "--cls", 3, "--t_interval", 1, "--save_vb", "--randomize_noise", *subset(tmp_path, 7))
    (record,) = records_of(run_main(SCRIPT, *args)).values()
    assert record["levels"].tolist() == list(range(1000)) and record["nfe"] == 1000
    at = [0, 1, 2, 10, 500, 998, 999]
    noise = ImageNoise(0, 7, LATENT)[range(1000)]
    wanted = oracle.class_errors(dit_folder, image_of(7), [3], at, noise[at])
    np.testing.assert_allclose(record["errors"][at], wanted[0], rtol=1e-5)


# ---- a result depends on its options alone ----


def test_parts_of_the_classes_are_what_all_classes_are(run_once, run_main, grid, three):
    """--cls only picks the arms: the same bits, in rectangles of every width; the same levels as without."""
    whole = records_of(run_once(SCRIPT, *grid, *three))
    for words in (["6", "4", "4"], ["7-8", "9"]):
        part = records_of(run_main(SCRIPT, *grid, *three, "--cls", *words))
        chosen = wording.numbers(words)
        for index, record in part.items():
            assert record["levels"].tolist() == GRID and record["nfe"] == 20 * len(chosen)
            for block, arm in zip(blocks(record), chosen, strict=True):
                assert np.array_equal(block, blocks(whole[index])[arm]), (index, arm)
            assert "pred" not in record and record["label"] == whole[index]["label"]


def test_batch_size_changes_no_bit_of_one_draw_for_all_levels(run_main, tmp_path, dit_folder, two_threads):
    """Where the published scores do change with it. Three classes, by two threads."""
    args = options(dit_folder, "--t_interval", 250, "--cls", "2-4", "--n_trials", 2, *subset(tmp_path, 5))
    one, many = (records_of(run_main(SCRIPT, *args, "-b", b, log=f"b{b}")) for b in (1, 64))
    assert one[5]["noise"].tolist() == [0, 1] * 4
    assert_same(one, many)


def test_workers_batches_and_resume_change_no_bit(run_once, run_main, grid, three):
    whole = records_of(run_once(SCRIPT, *grid, *three))
    for worker, batch_size in ((1, 7), (0, 64)):
        result = run_main(SCRIPT, *grid, *three, "--n_workers", 2, "--worker_idx", worker, "-b", batch_size)
    assert_same(records_of(result), whole)
    folder = folder_of(result)
    (folder / "003.pt").unlink()
    (folder / ".003.pt.elsewhere-1").write_bytes(b"half")  # as a writer that died leaves it
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.pt")}
    resumed = run_main(SCRIPT, *grid, *three)
    assert "3 images, 2 done before, 200 NFE each in 0.0 MB, 200 NFE to do" in resumed.out
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_same(records_of(resumed), whole)


def test_finished_runs_load_no_model(run_once, grid, three, monkeypatch):
    first = run_once(SCRIPT, *grid, *three)
    module = import_script(SCRIPT)
    monkeypatch.setattr("diffusion.models.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    monkeypatch.setattr(naming, "LOG_DIR", folder_of(first).parents[2])
    assert module.main(list(map(str, [*grid, *three]))) == 0


def test_imgs_to_eval_takes_the_first(run_main, tmp_path, dit_folder):
    args = options(dit_folder, "--t_interval", 500, "--cls", 1, "--imgs_to_eval", 2)
    assert list(records_of(run_main(SCRIPT, *args))) == [0, 1]
    assert list(records_of(run_main(SCRIPT, *args, *subset(tmp_path, 9, 4, 300), log="subset"))) == [4, 9]


# ---- the race ----


@pytest.fixture(scope="module")
def raced(bank, dit_folder) -> list:
    return options(dit_folder, "--noise_path", bank, "--randomize_noise", "--search", "race", "--max_samples", 20)


def test_a_race_sees_what_the_full_grid_sees(run_main, grid, raced, three):
    """Of the grid's levels, which are its own, the same bits; the same answer, for less. What is kept beside, too."""
    args = [word for word in grid if word not in ("--save_vb", "--t_interval", 50)]
    args += ["--t_interval", 30, "--levels", "0.2-0.8"]  # a race's own
    whole, records = (records_of(run_main(SCRIPT, *each, *three, "--save_eps")) for each in (args, raced))
    for index, record in records.items():
        seen = len(record["levels"])
        assert record["levels"].tolist() == (200 + spread_sequence(20, 600))[:seen].tolist()
        assert record["noise"].tolist() == [(level - 215) // 30 for level in record["levels"].tolist()]
        place = [arm * 20 + row for arm, n in enumerate(record["counts"]) for row in record["noise"].tolist()[:n]]
        for key in ("errors", "eps"):
            assert torch.equal(record[key], whole[index][key][place])
        assert record["nfe"] == int(record["counts"].sum()) == len(record["errors"])
        assert record["decided"] and record["pred"] == whole[index]["pred"]
    assert sum(record["nfe"] for record in records.values()) < 0.5 * 3 * 200


def test_the_other_scripts_read_a_race(run_once, run_main, tmp_path, raced, three):
    """print_dit_acc.py gives the accuracy that the run itself and print_acc.py give, and its NFE."""
    result = run_once(SCRIPT, *raced, *three)
    folder = folder_of(result)
    printed = run_main("scripts/print_acc.py", folder)
    assert printed.code == 0 and printed.out.splitlines()[3:] == result.out.splitlines()[2:]
    drawn = run_main("scripts/plot_errors.py", folder, tmp_path / "errors.png")
    assert drawn.code == 0 and Image.open(tmp_path / "errors.png").format == "PNG", drawn.err
    by_loss = run_main("scripts/print_dit_acc.py", folder.parents[1], "--dataset", "digits")
    assert by_loss.code == 0, by_loss.err
    right = re.search(r"top-1 accuracy +(.*)", printed.out)[1]
    assert re.search(r"L2 +(.*)", by_loss.out)[1] == right and "10 of 10" in by_loss.out
    nfe = re.compile(r"NFE per image +(.*)")
    assert nfe.search(by_loss.out)[1] == nfe.search(printed.out)[1]


# ---- records, folders, decisions ----


def test_a_record_holds_what_it_says(run_main, tmp_path, dit_folder):
    args = options(dit_folder, "--to_keep", 3, 1, "--n_samples", 5, 20, "--loss", "l1", *subset(tmp_path, 5))
    result = run_main(SCRIPT, *args)
    (record,) = records_of(result).values()
    keys = {"index", "label", "pred", "nfe", "decided", "margin", "losses", "levels", "noise", "counts", "errors"}
    assert record.keys() == keys | {"run"}
    assert record["index"] == 5 and record["label"] == load_dataset("digits").labels[5]
    assert record["losses"] == list(LOSSES) and record["noise"].tolist() == [0] * 20
    assert (
        record["nfe"] == 10 * 5 + 3 * 15 == len(record["errors"])
        and "1 image, 0 done before, 95 NFE each" in result.out
    )
    column = LOSSES.index("l1")
    stage = [block[:5, column].mean(dtype=np.float64) for block in blocks(record)]
    last = {arm: block[:, column].mean(dtype=np.float64) for arm, block in in_level_order(record).items()}
    assert set(last) == set(np.argsort(stage)[:3]) and record["pred"] == min(last, key=last.get)
    run = read_run(folder_of(result))
    assert run["arms"] == [[k, name, k] for k, name in enumerate(load_dataset("digits").classes)]
    assert run["all_arms"] == "0-9" and run["images"] == 1


def test_run_json_of_a_part_says_which(run_main, tmp_path, dit_folder):
    args = options(dit_folder, "--t_interval", 500, "--cls", "7", "2-3", *subset(tmp_path, 0))
    result = run_main(SCRIPT, *args)
    assert result.code == 0 and "accuracy" not in result.out + result.err
    run = read_run(folder_of(result))
    assert run["arms"] == [[2, "two", 2], [3, "three", 3], [7, "seven", 7]] and run["all_arms"] == "0-9"
    assert run["options"]["cls"] == "2-3 7" and run["options"]["n_samples"] == [2]


@pytest.mark.parametrize(
    "change, n_samples, to_keep, name",
    [
        ({"cls": ["7"], "randomize_noise": True}, [200], [1], "imagenet/DiT256x256_cls7_t5_1trials_randnoise/test"),
        ({"cls": ["0-99", "7"]}, [250], [1], "imagenet/DiT256x256_cls0-99_7_t4_1trials/test"),
        ({"save": "save_vb", "n_trials": 2}, [1000], [1], "imagenet/DiT256x256_t1_2trials/test"),
        ({"save": "save_eps_and_var", "randomize_noise": True}, [200], [1],
         "imagenet/DiT256x256_t5_1trials_randnoise_epsvar/test"),
        ({"loss": "l1"}, [25, 250], [50, 1], "imagenet/DiT256x256_1trials_50_1keep_25_250samples_l1/test"),
        ({}, [300], [1], "imagenet/DiT256x256_1trials_1keep_300samples/test"),
        ({"version": "me/my dit", "extra": "x", "split": "train"}, [200], [1],
         "imagenet_x/DiT256x256-my_dit_t5_1trials/train"),
        ({"search": "race", "z": 2.5, "max_samples": 500, "budget": 9000, "save": "spatial", "randomize_noise": True,
          "loss": "l1"}, [], [], "imagenet/DiT256x256_1trials_race_2.5z_500samples_9000NFE_randnoise_l1_spatial/test"),
    ],
)  # fmt: skip
def test_name_of_the_folder(change, n_samples, to_keep, name, monkeypatch):
    module = import_script(SCRIPT)
    save = change.pop("save", None)
    stages = {"n_samples": n_samples or None, "to_keep": to_keep or None, "device": "cpu"}
    args = Namespace(**vars(module.parser().parse_args([])) | stages | change)
    monkeypatch.setattr(naming, "LOG_DIR", Path("data"))
    config = RunConfig.from_args(args, {})
    card = Card("facebook/DiT-XL-2-256", "DiTPipeline", {}, 1000, (4, 32, 32), 256, 1000, True)
    schedule = module.schedule_of(args, config, np.ones(1000, dtype=int), np.arange(1000), np.ones(1000), None)
    run_name = module.run_name(args, config, card, schedule, "", save)
    assert str(naming.run_folder(config.dataset, config.extra, run_name) / config.split) == f"data/{name}"


@pytest.mark.parametrize(
    "given, n_arms, wanted",
    [
        ({}, 1000, ([25, 250], [50, 1])),
        ({}, 10, ([25, 250], [5, 1])),
        ({}, 2, ([250], [1])),
        ({"cls": ["3"]}, 1, ([200], [1])),
        ({"cls": ["3"], "t_interval": 4}, 1, ([250], [1])),
        ({"t_interval": 1}, 1000, ([1000], [1])),
        ({"to_keep": [2, 1], "n_samples": [3, 9]}, 10, ([3, 9], [2, 1])),
        ({"to_keep": [2, 1], "n_samples": [3, 9], "cls": ["0-4"]}, 5, ([3, 9], [2, 1])),
    ],
)
def test_schedule(given, n_arms, wanted):
    args = Namespace(**{"to_keep": None, "n_samples": None, "t_interval": None, "cls": None} | given)
    assert import_script(SCRIPT).stages_of(args, n_arms, 1000) == wanted


def test_most_digits_are_right(run_main, tmp_path, dit_folder):
    """The one test of the embedded model's quality: by chance 4 of 6 come once in eight hundred."""
    images = [0, 99, 198, 297, 396, 495]
    args = options(dit_folder, "--to_keep", 3, 1, "--n_samples", 5, 25, *subset(tmp_path, *images))
    records = records_of(run_main(SCRIPT, *args)).values()
    assert sum(record["pred"] == record["label"] for record in records) >= 4


# ---- what is kept beside the losses ----


@pytest.mark.parametrize(
    "flag, key, shape", [("spatial", "spatial", (8, 8)), ("save_eps", "eps", LATENT),
                         ("save_eps_and_var", "eps_and_var", (8, 8, 8))],
)  # fmt: skip
def test_what_is_kept(run_once, run_main, tmp_path, dit_folder, bank, flag, key, shape):
    """A row for each row of `errors`, which are those without the flag; each row gives its loss back."""
    args = options(dit_folder, "--noise_path", bank, "--randomize_noise", "--to_keep", 2, 1, "--n_samples", 2, 4)
    args += ["--imgs_to_eval", 1]
    plain, bound = (records_of(run_once(SCRIPT, *args, *more))[0] for more in ([], ["--save_vb"]))
    result = run_main(SCRIPT, *args, f"--{flag}")
    assert folder_of(result).parent.name.endswith(f"_{key.replace('_and_', '')}")
    (record,) = records_of(result).values()
    kept = record.pop(key)
    assert_same({0: record}, {0: plain})
    assert kept.shape == (10 * 2 + 2 * 2, *shape) and kept.dtype == torch.float32
    # the file holds no more than that: a view would be saved with what it is a view of
    assert next(folder_of(result).glob("*.pt")).stat().st_size < 4 * kept.numel() + 8000
    if key == "spatial":
        torch.testing.assert_close(kept.mean((1, 2)), record["errors"][:, 0], rtol=1e-6, atol=0)
        return
    point = torch.cat([torch.arange(n) for n in record["counts"].tolist()])
    levels, noise = record["levels"][point], torch.load(bank)[record["noise"]][point]
    torch.testing.assert_close(((kept[:, :4] - noise) ** 2).mean((1, 2, 3)), record["errors"][:, 0], rtol=1e-6, atol=0)
    if key == "eps_and_var":  # above level 0 the bound does not depend on the image
        process = Process.from_scheduler(DDIMScheduler.from_pretrained(dit_folder, subfolder="scheduler"))
        bits = variational_bound(process, torch.zeros_like(noise), noise, levels, kept[:, :4], kept[:, 4:])
        torch.testing.assert_close(bits, bound["errors"][:, 3], rtol=1e-6, atol=0)


def test_save_vb_changes_nothing_else(run_once, dit_folder, bank):
    args = options(dit_folder, "--noise_path", bank, "--randomize_noise", "--to_keep", 2, 1, "--n_samples", 2, 4)
    args += ["--imgs_to_eval", 1]
    plain, bound = (records_of(run_once(SCRIPT, *args, *more))[0] for more in ([], ["--save_vb"]))
    assert bound["losses"] == [*plain["losses"], "vb"] and torch.equal(bound["errors"][:, :3], plain["errors"])
    assert (bound["errors"][:, 3] > 0).all()


# ---- models as they come ----


def hub_layout(dit_folder, folder: Path) -> Path:
    """As facebook/DiT-XL-2-256 lies on the hub: an older class name, class names, old names in the VAE, only .bin."""
    shutil.copytree(dit_folder, folder)
    for name, change in {
        "model_index.json": {
            "transformer": ["diffusers", "Transformer2DModel"],
            "id2label": {str(k): f"{word}, {word}th" for k, word in enumerate(load_dataset("digits").classes)},
        },
        "transformer/config.json": {
            "_class_name": "Transformer2DModel",
            "cross_attention_dim": None,
            "num_vector_embeds": None,
            "only_cross_attention": False,
            "use_linear_projection": False,
        },
    }.items():
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(config | change))
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for part in ("transformer", "vae"):
        path = folder / part / "diffusion_pytorch_model.safetensors"
        weights = load_file(path)
        if part == "vae":
            weights = {re.sub("|".join(old), lambda m: old[m[0]], name): w for name, w in weights.items()}
            assert sum(".query." in name for name in weights) == 4
        torch.save(weights, path.with_suffix(".bin"))
        path.unlink()
    return folder


def test_the_layout_of_the_hub(run_main, tmp_path, dit_folder):
    """The same bits as from safetensors; nothing is said beside the bar and the table, which print_acc.py prints."""
    args = ["--t_interval", 500, "--imgs_to_eval", 2]
    hub = hub_layout(dit_folder, tmp_path / "hub")
    result = run_main(SCRIPT, *options(hub, *args, "--extra", "x"))
    assert result.code == 0, result.err
    folder = tmp_path / "data/digits_x/DiT32x32-hub_t500_1trials/test"
    assert sorted(os.listdir(folder)) == [".index", "000.pt", "001.pt", "results.json", "run.json"]
    assert folder_of(result) == folder
    assert_same(records_of(result), records_of(run_main(SCRIPT, *options(dit_folder, *args))))
    head, _, *table = result.out.splitlines()
    assert head == f"digits, test split: 2 images, 0 done before, 20 NFE each in 0.0 MB, 40 NFE to do -> {folder}"
    assert run_main("scripts/print_acc.py", folder).out.splitlines()[3:] == table
    said = [line for line in re.split(r"[\r\n]+", result.err) if line]
    assert all(" left" in line or "NFE each" in line for line in said)  # the bar


def test_a_vae_of_ones_own(run_main, tmp_path, dit_folder):
    """The VAE that the embedded models share gives the same bits; another's scale changes them, and is another run."""
    args = ["--t_interval", 500, "--imgs_to_eval", 1]
    default = records_of(run_main(SCRIPT, *options(dit_folder, *args)))
    shutil.copytree(ROOT / "models/digits-sd/vae", tmp_path / "vae")
    given = [*options(dit_folder, *args), "--vae", tmp_path / "vae"]
    assert_same(records_of(run_main(SCRIPT, *given, log="given")), default)
    refused = run_main(SCRIPT, *given)
    assert refused.code == 2 and f"vae was None, now '{tmp_path / 'vae'}'" in refused.err
    config = tmp_path / "vae/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.5}))
    refused = run_main(SCRIPT, *given, log="given")
    assert refused.code == 2 and "configuration was" in refused.err
    scaled = records_of(run_main(SCRIPT, *given, log="scaled"))
    assert not torch.equal(scaled[0]["errors"], default[0]["errors"])


# ---- ImageNet and its relatives, in miniature ----


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """The miniatures of layouts.py under DATASET_ROOT."""
    for name in ("imagenet", "imagenetv2", "imagenetA", "objectnet"):
        layouts.LAYOUTS[name](tmp_path / "datasets" / name, monkeypatch)
    monkeypatch.setattr(catalogue, "DATASET_ROOT", tmp_path / "datasets")


@pytest.mark.parametrize(
    "dataset, labels, n_arms",
    [("imagenetv2", [2, 10], 1000), ("imagenetA", [6], 200), ("objectnet", [0, 2], 4)],
)
def test_imagenet_and_its_relatives(run_main, roots, imagenet_dit, dataset, labels, n_arms):
    """The arms are the classes that the data can have; the answer is a class of the data."""
    args = ["--dataset", dataset, "--version", imagenet_dit, "--device", "cpu", "--to_keep", 3, 1, "--n_samples", 1, 2]
    result = run_main(SCRIPT, *args, "--save_vb")
    assert result.code == 0, result.err
    class_of = class_arms(dataset, 1000, catalogue.DATASET_ROOT)
    arms = sorted(class_of)
    assert len(arms) == n_arms
    run = read_run(folder_of(result))
    called = load_dataset(dataset, "test", catalogue.DATASET_ROOT).classes
    assert run["arms"] == [[arm, called[class_of[arm]], class_of[arm]] for arm in arms]
    assert wording.numbers(run["all_arms"].split()) == arms
    records = records_of(result)
    assert [record["label"] for record in records.values()] == labels
    for path, record in zip(sorted(folder_of(result).glob("*.pt")), records.values(), strict=True):
        assert len(record["counts"]) == n_arms and record["nfe"] == n_arms + 3
        whole = in_level_order(record)
        best = min(whole, key=lambda arm: whole[arm][:, 0].mean(dtype=np.float64))
        assert record["pred"] == class_of[arms[best]]
        torch.save(record | {"label": record["pred"]}, path)  # so that print_dit_acc.py finds all right
    printed = run_main("scripts/print_dit_acc.py", folder_of(result).parents[1], "--dataset", dataset)
    assert printed.code == 0, printed.err
    table = {line[:16].strip(): line[16:] for line in printed.out.splitlines()}
    assert table["images"] == f"{len(labels)} of {len(labels)}" and table["classes"] == f"{n_arms} of {n_arms}"
    assert table["L2"].startswith("100.00%")


def test_several_imagenet_classes_are_one_of_objectnet(run_main, roots, imagenet_dit):
    """By hand: its classes are 0 = {409, 530}, 1 = {769}, 2 = {610}; --cls is told ImageNet's ids."""
    args = ["--dataset", "objectnet", "--version", imagenet_dit, "--device", "cpu", "--t_interval", 500]
    whole = records_of(run_main(SCRIPT, *args))
    for arms, classes in (((409, 530), (0, 0)), ((610, 769), (2, 1))):
        part = run_main(SCRIPT, *args, "--cls", *arms, log="parts")
        found = read_run(folder_of(part))["arms"]
        assert [(arm, k) for arm, _, k in found] == list(zip(arms, classes, strict=True))
        assert records_of(part).keys() == whole.keys()
    for record in whole.values():
        best = int(np.argmin([block[:, 0].mean(dtype=np.float64) for block in blocks(record)]))
        assert record["pred"] == (0, 0, 2, 1)[best]
    printed = run_main("scripts/print_dit_acc.py", folder_of(part).parents[1])
    assert "classes         4 of 4" in printed.out and printed.code == 0
    right = np.mean([record["pred"] == record["label"] for record in whole.values()])
    assert f"L2              {100 * right:.2f}%" in printed.out


@pytest.mark.parametrize("words, where, values", [
    ("imagenetA --cls 5-12", "--cls 5-12", ["5 7-10 12", "200 classes"]),
    ("objectnet --cls 409 1", "--cls 409 1", ["1", "4 classes"]),
    ("imagenetA --cls 1000", "--cls 1000", ["0..999"]),
    ("imagenetv2 --split train", "dataset 'imagenetv2'", ["no split 'train'"]),
    ("digits", "--dataset digits", ["10 classes", "1000"]),
])  # fmt: skip
def test_classes_that_the_data_does_not_have(run_main, roots, imagenet_dit, words, where, values):
    error = run_main(SCRIPT, "--version", imagenet_dit, "--device", "cpu", "--dataset", *words.split()).error
    assert error.where == where and all(value in error.problem for value in values)


# ---- own data ----


def test_own_data_named_by_class_ids(run_main, tmp_path, dit_folder):
    for name in ("fine/3", "fine/7"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (40, 33)).save(tmp_path / name / "1.png")
    args = ["--version", dit_folder, "--device", "cpu", "--t_interval", 500]
    records = records_of(run_main(SCRIPT, "--dataset", tmp_path / "fine", *args))
    assert [record["label"] for record in records.values()] == [3, 7]
    assert all(len(record["counts"]) == 10 for record in records.values())


def test_pairs_after_an_odd_stage(run_main, tmp_path, dit_folder):
    """The last point of a stage of five is alone; pairs are the points that share a draw, with eps and -eps."""
    args = options(dit_folder, "--noise", "antithetic", "--randomize_noise", "--to_keep", 3, 1, "--n_samples", 5, 41)
    for record in records_of(run_main(SCRIPT, *args, *subset(tmp_path, 2, 40))).values():
        signs, draws, levels = (record[key].tolist() for key in ("signs", "noise", "levels"))
        partner = {}
        for k, draw in enumerate(draws):
            partner.setdefault(draw, []).append(k)
        pairs = [pair for pair in partner.values() if len(pair) == 2]
        assert len(pairs) == 20 and all(signs[a] == -signs[b] == 1 and b == a + 1 for a, b in pairs)
        _, points = metrics.class_errors(record, np.arange(10), "l2")
        winner = record["pred"]
        errors = metrics.arm_errors(record, "l2")
        order = np.lexsort((metrics.excess(record, np.arange(10), winner, "l2"), -points))
        rival = next(k for k in order if k != winner)
        n = points[rival]
        shared = [k for pair in pairs for k in pair if pair[1] < n]
        difference = (errors[rival][:n] - errors[winner][:n])[shared]
        wanted = metrics.pair_squares(difference, np.array(levels)[shared])
        assert (record["between_pairs"], record["within_pairs"]) == pytest.approx(wanted)
