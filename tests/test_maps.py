"""Where in the image the winner won: maps against plain loops over the kernel's own, and their picture."""

import numpy as np
import pytest
import torch
from helpers import SCRIPT, WORDS, assert_same, csv_of, folder_of, race_options, records_of, subset
from PIL import Image

from diffusion.plots import maps, style
from diffusion.runs.records import load_record, read_run
from diffusion.runs.results import competitors
from diffusion.stats import metrics

PLOT, DIT = "scripts/plot_maps.py", "eval_prob_dit.py"
IMAGES = (3, 301)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return subset(tmp_path_factory.mktemp("few"), *IMAGES)


def split(record: dict, key: str) -> list[np.ndarray]:
    return [part.numpy().astype(float) for part in record[key].split(record["counts"].tolist())]


def test_a_map_is_the_difference_of_the_maps_of_the_best_two(run_main, few, dit_folder):
    """--spatial keeps every map; this one is their mean difference over the points that both were measured on."""
    args = ["--dataset", "digits", "--version", dit_folder, "--device", "cpu", *few]
    args += ["--to_keep", 4, 2, 1, "--n_samples", 2, 4, 8, "--randomize_noise"]
    every = records_of(run_main(DIT, *args, "--spatial"))
    mapped = records_of(run_main(DIT, *args, "--save_maps"))
    for index, record in mapped.items():
        full = every[index]
        assert torch.equal(full["errors"], record["errors"]) and full["pred"] == record["pred"]
        winner, rival = record["map_of"]
        assert winner == record["pred"] and record["counts"].sort().values[-2:].tolist() == [8, 8]
        assert record["counts"][rival] == 8 and rival != winner
        maps = split(full, "spatial")
        wanted = (maps[rival] - maps[winner]).mean(0)
        assert record["map"].dtype == torch.float16 and record["map"].shape == (8, 8)
        np.testing.assert_allclose(record["map"].numpy(), wanted, rtol=1e-3, atol=1e-6)


def test_the_mean_of_a_map_is_the_rivals_excess(run_main, tmp_path, few, model_folder):
    """Weighted; the rival was measured furthest beside the winner; several prompts of a class are their mean."""
    rows = [f"a photo of the number {word}.,{word},{k}" for k, word in enumerate(WORDS)]
    path = csv_of(tmp_path / "p.csv", *rows, "a photo of a red three.,three,3", "a photo of a blue zero.,zero,0")
    (tmp_path / "w.csv").write_text("level,weight\n100,1\n900,3\n")
    args = [*race_options(model_folder, "--max_samples", 12), *few]
    args += ["--prompt_path", path, "--weights", tmp_path / "w.csv"]
    plain, result = (run_main(SCRIPT, *args, *more) for more in ([], ["--save_maps"]))
    assert folder_of(result).name == folder_of(plain).name + "_maps"
    _, arm_class = competitors(read_run(folder_of(result)))
    for index, record in records_of(result).items():
        winner, rival = record["map_of"]
        assert winner == record["pred"]
        excess = metrics.excess(record, arm_class, winner, "l2")
        _, points = metrics.class_errors(record, arm_class, "l2")
        assert points[rival] == max(points[k] for k in range(10) if k != winner)
        assert record["map"].double().mean().item() == pytest.approx(excess[rival], rel=2e-3)
        rest = {key: value for key, value in record.items() if not key.startswith("map")}
        assert_same({index: rest}, {index: records_of(plain)[index]})


def test_plot_maps(run_main, tmp_path, few, model_folder):
    folder = folder_of(run_main(SCRIPT, *race_options(model_folder, "--max_samples", 12), *few, "--save_maps"))
    for more in ([], ["--images", 1]):
        result = run_main(PLOT, folder, tmp_path / "maps.png", *more)
        assert result.code == 0, result.err
        with Image.open(tmp_path / "maps.png") as picture:
            assert picture.format == "PNG" and picture.width > 600
    result = run_main(PLOT, folder, tmp_path / "wrong.png", "--wrong")
    assert result.code == 2 and "no wrong answer yet" in result.err and result.err.count("\n") == 1
    record = load_record(folder / "003.pt")
    record["pred"] = (record["pred"] + 1) % 10
    torch.save(record, folder / "003.pt")
    assert run_main(PLOT, folder, tmp_path / "wrong.png", "--wrong").code == 0
    record["map"] = torch.full((8, 8), torch.nan)
    torch.save(record, folder / "003.pt")
    result = run_main(PLOT, folder, tmp_path / "maps.png")
    assert result.code == 2 and "003.pt: no map there" in result.err and result.err.count("\n") == 1


def test_a_map_is_laid_over_where_it_belongs():
    """Blue where the rival is worse, orange where the winner is, grey where neither; the strongest is opaque."""
    field = np.zeros((4, 4), dtype=np.float32)
    field[0, 0], field[3, 3] = 2, -1
    shown = maps.laid_over(np.zeros((32, 32, 3)), field)
    blue, orange, grey = shown[:8, :8].mean((0, 1)), shown[24:, 24:].mean((0, 1)), shown[:8, 24:].mean((0, 1))
    assert blue[2] > blue[0] + 0.3 and orange[0] > orange[2] + 0.1 and np.ptp(grey) < 0.05
    assert maps.laid_over(np.ones((9, 9, 3)), np.zeros((4, 4), dtype=np.float32)).std() < 1e-9


def test_each_map_has_its_scale(tmp_path, monkeypatch):
    """Its largest difference stands below it; colours, and their meaning, below all."""
    drawn = []
    monkeypatch.setattr(style, "save", lambda figure, path: drawn.append(figure))
    fields = [np.array([[0.5, -0.25]], dtype=np.float32), np.array([[0.1, -3.0]], dtype=np.float32)]
    cells = [maps.Mapped(np.zeros((8, 8, 3)), field, "one", "two", None) for field in fields]
    maps.draw(cells, "heading", tmp_path / "a.png")
    labels = [axes.get_xlabel() for axes in drawn[0].axes]
    assert labels == ["", "±0.5", "", "±3", ""]
    assert [tick.get_text() for tick in drawn[0].axes[-1].get_xticklabels()] == ["−", "0", "+"]
