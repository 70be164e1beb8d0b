"""CLIP and timm's classifiers as baselines: their records, against plain loops over open_clip and timm."""

import json
import shutil

import layouts
import numpy as np
import pytest
import torch
from helpers import ROOT
from safetensors.torch import load_file, save_file

from diffusion.data import catalogue
from diffusion.data.datasets import class_arms, load_dataset
from diffusion.data.prompts import prompts_file, read_prompts
from diffusion.models import timm_classifier
from diffusion.runs.records import expected, load_record, read_run

SCRIPT = "scripts/baseline.py"
open_clip, timm = pytest.importorskip("open_clip"), pytest.importorskip("timm")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """`resnet(n) -> folder`: a small ResNet of n classes that has learned nothing, saved by timm."""

    def make(n_classes: int):
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("timm") / f"resnet{n_classes}"
        model = timm.create_model("resnet10t", num_classes=n_classes)
        for p in model.parameters():  # else its last layer says the same of every image
            p.data += 0.1 * torch.randn_like(p)
        timm.models.save_for_hf(model, folder, safe_serialization=True, data_config={"input_size": [3, 64, 64]})
        return folder

    return make


def records_in(folder) -> dict[int, dict]:
    paths = sorted(folder.rglob("*.pt"))
    return {int(path.stem): load_record(path, expected(read_run(path.parent))) for path in paths}


def few(tmp_path, *indices):
    np.save(tmp_path / "few.npy", np.array(indices))
    return "--subset_path", tmp_path / "few.npy"


def test_clip_agrees_with_a_plain_loop(run_main, tmp_path):
    done = run_main(
        SCRIPT, "--dataset", "digits", "--model", "clip:digits", *few(tmp_path, 0, 5, 77), "--device", "cpu"
    )
    assert done.code == 0, done.err
    folder = tmp_path / "data" / "digits" / "clip_digits"
    found = records_in(folder)
    assert list(found) == [0, 5, 77]
    prompts, data = read_prompts(ROOT / "prompts" / prompts_file("digits")), load_dataset("digits")
    name = f"local-dir:{ROOT / 'models' / 'digits-clip'}"
    model, preprocess = open_clip.create_model_from_pretrained(name)
    tokens = open_clip.get_tokenizer(name)(prompts.texts)
    model.eval()
    for k, record in found.items():
        with torch.no_grad():
            image = model.encode_image(preprocess(data.open(k))[None])
            wanted = [torch.cosine_similarity(image, model.encode_text(row[None])).item() for row in tokens]
        np.testing.assert_allclose(record["errors"][:, 0], 1 - np.array(wanted), rtol=0, atol=1e-6)
        assert record["pred"] == prompts.classes[int(np.argmax(wanted))] and record["label"] == data.labels[k]
        assert record["nfe"] == 1 and record["losses"] == ["cosine"] and record["counts"].tolist() == [1] * 10
    assert read_run(folder)["options"]["model"] == "clip:digits"


def test_a_class_of_several_prompts_is_their_mean(run_main, tmp_path):
    """Class 3 has a good prompt and a useless one; class 5 one: the mean is compared, not the best."""
    prompts = [("a photo of a red three.", "three", 3), ("zzz", "three", 3), ("a photo of the number five.", "five", 5)]
    rows = [*prompts, *((f"a photo of the number {c}.", str(c), c) for c in range(10) if c not in (3, 5))]
    (tmp_path / "p.csv").write_text("prompt,classname,classidx\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows))
    args = "--dataset", "digits", "--model", ROOT / "models" / "digits-clip", "--prompt_path", tmp_path / "p.csv"
    done = run_main(SCRIPT, *args, *few(tmp_path, *range(0, 12)), "--device", "cpu")
    assert done.code == 0, done.err
    classes = np.array([c for *_, c in rows])
    for record in records_in(tmp_path / "data").values():
        errors = record["errors"][:, 0].numpy()
        assert record["pred"] == min(range(10), key=lambda c: errors[classes == c].mean())


def test_timm_agrees_with_a_plain_loop(run_main, tmp_path, resnet):
    folder = resnet(10)
    done = run_main(SCRIPT, "--dataset", "digits", "--model", folder, *few(tmp_path, 0, 5, 77), "--device", "cpu")
    assert done.code == 0, done.err
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    data = load_dataset("digits")
    for k, record in records_in(tmp_path / "data").items():
        with torch.no_grad():
            p = model(transform(data.open(k))[None]).softmax(1)[0].double()
        np.testing.assert_allclose(record["errors"][:, 0], -p.log(), rtol=1e-5, atol=1e-6)
        assert record["pred"] == int(p.argmax()) and record["losses"] == ["nll"]
    run = read_run(tmp_path / "data" / "digits" / f"timm_{folder.name}")
    assert run["all_arms"] == "0-9" and run["options"]["loss"] == "nll"


@pytest.mark.parametrize(
    "dataset, n_arms", [("imagenet", 1000), ("imagenetv2", 1000), ("imagenetA", 200), ("objectnet", 4)]
)
def test_the_classes_of_the_data_compete(run_main, tmp_path, monkeypatch, resnet, dataset, n_arms):
    layouts.LAYOUTS[dataset](tmp_path / "datasets" / dataset, monkeypatch)
    monkeypatch.setattr(catalogue, "DATASET_ROOT", tmp_path / "datasets")
    done = run_main(SCRIPT, "--dataset", dataset, "--model", resnet(1000), "--device", "cpu")
    assert done.code == 0, done.err
    class_of = class_arms(dataset, 1000, catalogue.DATASET_ROOT)
    ids = sorted(class_of)
    found = records_in(tmp_path / "data")
    assert len(found) == 1 + (dataset != "imagenetA")
    for record in found.values():
        errors = record["errors"][:, 0].double()
        assert len(errors) == n_arms and (-errors).exp().sum().item() == pytest.approx(1, abs=1e-5)
        assert record["pred"] == class_of[ids[int(errors.argmin())]]


def test_resumed_and_shared_it_is_the_same(run_main, tmp_path):
    args = "--dataset", "digits", "--model", "clip:digits", *few(tmp_path, *range(0, 6)), "--device", "cpu"
    assert run_main(SCRIPT, *args).code == 0
    one = tmp_path / "data" / "digits" / "clip_digits"
    for worker in range(3):
        assert run_main(SCRIPT, *args, "--n_workers", 3, "--worker_idx", worker, log="shared").code == 0
    shared = tmp_path / "shared" / "digits" / "clip_digits"
    for path in one.glob("*.pt"):
        assert path.read_bytes() == (shared / path.name).read_bytes()
    (one / "003.pt").unlink()
    again = run_main(SCRIPT, *args)
    assert again.code == 0 and "5 done before" in again.out
    assert (one / "003.pt").read_bytes() == (shared / "003.pt").read_bytes()


def test_the_readers_of_runs_take_it(run_main, tmp_path, resnet):
    for model in ("clip:digits", resnet(10)):
        run_main(SCRIPT, "--dataset", "digits", "--model", model, *few(tmp_path, 1, 2), "--device", "cpu")
    for folder in (tmp_path / "data" / "digits").iterdir():
        done = run_main("scripts/print_acc.py", folder, "--confusion", tmp_path / "c.png")
        assert done.code == 0 and "2 of 2" in done.out
        assert run_main("scripts/plot_errors.py", folder, tmp_path / "e.png").code == 0
        assert (tmp_path / "c.png").stat().st_size > 5000 and (tmp_path / "e.png").stat().st_size > 5000


def test_bad_models(run_main, tmp_path, resnet):
    broken = tmp_path / "broken"
    shutil.copytree(resnet(10), broken)
    (broken / "model.safetensors").write_bytes(b"nonsense")
    no_timm = tmp_path / "no_timm"
    no_timm.mkdir()
    (no_timm / "config.json").write_text(json.dumps({"model_type": "bert"}))
    no_weights = tmp_path / "no_weights"
    shutil.copytree(resnet(10), no_weights, ignore=shutil.ignore_patterns("model.safetensors"))
    cases = {
        no_timm: "not timm's",
        no_weights: "model.safetensors",
        broken: "cannot load its weights",
    }
    for model, says in cases.items():
        done = run_main(SCRIPT, "--dataset", "digits", "--model", model, "--device", "cpu", *few(tmp_path, 0))
        assert done.code == 2 and says in done.err and done.err.count("\n") == 1, (model, done)
        assert not (tmp_path / "data").exists()
    done = run_main(SCRIPT, "--dataset", "digits", "--model", resnet(10), "--prompt_path", "p.csv", "--device", "cpu")
    assert done.code == 2 and "--prompt_path" in done.err


def test_other_weights_of_the_same_name(run_main, tmp_path, resnet):
    """Are another run; timm's own are known by their tag."""
    folder = shutil.copytree(resnet(10), tmp_path / "resnet")
    args = [SCRIPT, "--dataset", "digits", "--model", folder, "--device", "cpu", *few(tmp_path, 0)]
    assert run_main(*args).code == 0
    path = folder / "model.safetensors"
    save_file({key: value + 1e-3 for key, value in load_file(path).items()}, path)
    done = run_main(*args)
    assert done.code == 2 and "weights of the classifier was" in done.err and done.err.count("\n") == 1
    assert timm_classifier.timm_weights("resnet50") == {"weights of the classifier": "resnet50.a1_in1k"}
