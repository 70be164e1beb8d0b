"""The bank of noise: the published numbers, whatever the size, and nothing half written."""

import errno
import os

import pytest
import torch

SCRIPT = "scripts/save_noise.py"


@pytest.mark.parametrize("size, latent", [(256, 32), (512, 64)])
def test_the_published_bank(run_main, tmp_path, monkeypatch, size, latent):
    """1024 draws after torch.manual_seed(42), under the published name."""
    monkeypatch.chdir(tmp_path)
    result = run_main(SCRIPT, "--img_size", size)
    assert result.code == 0 and not result.err
    assert result.out == f"noise_{size}.pt: [1024, 4, {latent}, {latent}], seed 42\n"
    assert os.listdir() == [f"noise_{size}.pt"]
    with torch.random.fork_rng():
        torch.manual_seed(42)
        wanted = torch.randn(1024, 4, latent, latent)
    bank = torch.load(f"noise_{size}.pt", weights_only=True)
    assert bank.dtype == torch.float32 and torch.equal(bank, wanted)


def test_it_leaves_the_global_generator_alone(run_main, tmp_path):
    before = torch.random.get_rng_state()
    assert run_main(SCRIPT, "--img_size", 8, "--out", tmp_path / "n.pt").code == 0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_other_latents(run_main, tmp_path):
    """Another seed is another bank; the folder and the name are the user's."""
    for seed in (1, 2):
        args = ["--latent", 3, 8, 6, "--n_draws", 5, "--seed", seed, "--out", tmp_path / f"{seed}.noise"]
        result = run_main(SCRIPT, *args)
        assert result.code == 0 and result.out == f"{tmp_path / f'{seed}.noise'}: [5, 3, 8, 6], seed {seed}\n"
    one, two = (torch.load(tmp_path / f"{seed}.noise") for seed in (1, 2))
    assert one.shape == (5, 3, 8, 6) and not torch.equal(one, two)
    assert torch.equal(one, torch.randn(5, 3, 8, 6, generator=torch.Generator().manual_seed(1)))


def test_the_default_is_512(run_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_main(SCRIPT, "--n_draws", 1).out == "noise_512.pt: [1, 4, 64, 64], seed 42\n"
    assert run_main(SCRIPT, "--n_draws", 1, "--latent", 4, 8, 8).out == "noise_4x8x8.pt: [1, 4, 8, 8], seed 42\n"


def test_a_bank_is_replaced_whole_or_not_at_all(run_main, tmp_path, monkeypatch):
    path = tmp_path / "n.pt"
    path.write_bytes(b"an older one")

    def disk_is_full(_, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", disk_is_full)
        assert run_main(SCRIPT, "--img_size", 8, "--out", path).code == 2
    assert path.read_bytes() == b"an older one" and os.listdir(tmp_path) == ["n.pt"]
    assert run_main(SCRIPT, "--img_size", 8, "--out", path).code == 0
    assert torch.load(path).shape == (1024, 4, 1, 1) and os.listdir(tmp_path) == ["n.pt"]
