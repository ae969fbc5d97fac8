"""Tensors from files: damaged files, and files that hold more than tensors."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import weights_error
from local_hub import write_gemma_scope, write_sae
from sae_files import Trap

from saework.core.errors import NotAvailableError
from saework.loading.weights_files import check_shapes, read_arrays, read_tensors


@pytest.fixture
def files(tmp_path):
    """An SAE of Neel Nanda's layout on disk, and the tensors that were written."""
    return SimpleNamespace(
        sae_config=tmp_path / "25_cfg.json",
        sae_weights=tmp_path / "25.pt",
        sae=write_sae(tmp_path, 25),
    )


def load_sae(files):
    return read_tensors(files.sae_weights)


def test_tensors_and_arrays_by_name(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "a.pt")
    assert torch.equal(read_tensors(tmp_path / "a.pt")["a"], torch.arange(3))
    np.savez(tmp_path / "a.npz", a=np.arange(3, dtype=np.float16))
    assert torch.equal(read_arrays(tmp_path / "a.npz")["a"], torch.arange(3).float())


def test_names_shapes_and_values_are_checked():
    state, shapes = {"a": torch.ones(2, 3), "b": torch.ones(1)}, {"a": (2, 3), "b": (1,)}
    check_shapes(state, shapes, "file")
    assert "missing: ['c']; unknown: ['b']" in weights_error(
        check_shapes, state, {"a": (2, 3), "c": (1,)}, "file"
    )
    assert "a has shape (2, 3), its config says (3, 2)" in weights_error(
        check_shapes, state, shapes | {"a": (3, 2)}, "file"
    )
    with pytest.raises(ValueError, match="file: b hold 1 NaN or infinite values"):
        check_shapes(state | {"b": torch.tensor([torch.nan])}, shapes, "file")


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.999])
def test_truncated_file(files, keep):
    whole = files.sae_weights.read_bytes()
    files.sae_weights.write_bytes(
        whole[: int(keep * len(whole)) if isinstance(keep, float) else keep]
    )
    text = weights_error(load_sae, files)
    assert (
        str(files.sae_weights) in text
        and "truncated or damaged" in text
        and "download it again" in text
    )


def test_page_saved_in_place_of_weights(files):
    files.sae_weights.write_bytes(b"<!doctype html><title>502 Bad Gateway</title>")
    text = weights_error(load_sae, files)
    assert str(files.sae_weights) in text and "damaged" in text and "download it again" in text


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "bare pickle"])
def test_code_in_a_file_is_not_run(files, tmp_path, legacy):
    witness = tmp_path / "witness"
    harmful = files.sae | {"W_enc": Trap(witness)}
    if legacy:
        files.sae_weights.write_bytes(pickle.dumps(harmful, protocol=2))
    else:
        torch.save(harmful, files.sae_weights)
    text = weights_error(load_sae, files)
    assert not witness.exists()
    assert (
        str(files.sae_weights) in text
        and "more than tensors" in text
        and "published repository" in text
    )
    torch.load(files.sae_weights, weights_only=False) if not legacy else pickle.loads(
        files.sae_weights.read_bytes()
    )
    assert witness.exists()  # the trap was a real one


@pytest.mark.parametrize(
    "content", [[torch.ones(2)], torch.ones(2), {"W_enc": 3.0}, {"state": {"W_enc": torch.ones(2)}}]
)
def test_tensors_without_names(tmp_path, content):
    torch.save(content, tmp_path / "25.pt")
    text = weights_error(read_tensors, tmp_path / "25.pt")
    assert str(tmp_path / "25.pt") in text and "named tensors" in text


@pytest.fixture
def npz(tmp_path):
    w = write_gemma_scope(tmp_path, "layer_5", d_in=8, d_sae=20)
    return SimpleNamespace(
        path=tmp_path / "layer_5" / "params.npz",
        arrays={name: value.numpy() for name, value in w.items()},
    )


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.999])
def test_truncated_params(npz, keep):
    whole = npz.path.read_bytes()
    npz.path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    text = weights_error(read_arrays, npz.path)
    assert str(npz.path) in text and "truncated or damaged" in text and "download it again" in text


def test_params_with_a_wrong_byte(npz):
    whole = bytearray(npz.path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    npz.path.write_bytes(whole)
    assert "truncated or damaged" in weights_error(read_arrays, npz.path)


@pytest.mark.parametrize("bare", [False, True], ids=["npz", "bare pickle"])
def test_code_in_params_is_not_run(npz, tmp_path, bare):
    witness = tmp_path / "witness"
    if bare:
        npz.path.write_bytes(pickle.dumps(Trap(witness)))
    else:
        np.savez(npz.path, **npz.arrays | {"b_dec": np.array([Trap(witness)], dtype=object)})
    text = weights_error(read_arrays, npz.path)
    assert not witness.exists()
    assert (
        str(npz.path) in text
        and "more than arrays" in text
        and "refused" in text
        and "published repository" in text
    )
    np.load(npz.path, allow_pickle=True)["b_dec"] if not bare else np.load(
        npz.path, allow_pickle=True
    )
    assert witness.exists()  # the trap was a real one


@pytest.mark.parametrize("dtype", [np.int64, bool, np.complex64])
def test_weights_are_floats(dtype, tmp_path):
    np.savez(tmp_path / "a.npz", a=np.ones(3, dtype))
    words = weights_error(read_arrays, tmp_path / "a.npz")
    assert "a.npz: a is torch." in words and "and weights are floats" in words


def test_a_zip_that_unpacks_to_far_more_is_not_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(1_000_000, np.float32))
    monkeypatch.setattr(np, "load", None)
    words = weights_error(read_arrays, tmp_path / "bomb.npz")
    assert "bomb.npz unpacks to 4,000," in words and "more than 100 times its size" in words


def test_a_file_is_not_blamed_for_too_little_memory(files, monkeypatch):
    def no_memory(*arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "load", no_memory)
    with pytest.raises(NotAvailableError, match="there is not enough memory to load this"):
        read_tensors(files.sae_weights)
