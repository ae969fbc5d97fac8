"""Scans that are interrupted or killed, and checkpoints of other scans."""

from __future__ import annotations

import copy
import hashlib
import os
import random
import resource
import signal
import time
import traceback
import warnings
from pathlib import Path

import pytest
import torch
from conftest import random_sae
from stand_ins import assert_same

import saework
from saework import FeatureScan
from saework.analysis.scanning import checkpoint, run_scan, workers
from saework.core.errors import WeightsError


@pytest.fixture(scope="module")
def tokens(tiny):
    return tiny.tokens.repeat(20, 1)  # 120 rows


@pytest.fixture
def scan(tiny, tokens, monkeypatch):
    """A scan in parts of one row."""
    monkeypatch.setattr(run_scan, "PART", 20)
    return lambda **changes: saework.scan(
        **{
            "model": tiny.model,
            "sae": tiny.sae,
            "tokens": tokens,
            "batch_size": 1,
            "top_k": 5,
            "cofiring": [7],
            **changes,
        }
    )


@pytest.fixture
def interrupted(scan, tmp_path, monkeypatch):
    """``interrupted(**changes)``: the checkpoint of a scan that was interrupted after 50 parts."""

    def interrupted(**changes) -> Path:
        path = tmp_path / "half.safetensors"
        write = checkpoint.Checkpoint.write
        written = []

        def write_or_stop(self, scan):
            write(self, scan)
            written.append(scan)
            if len(written) == 50:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.Checkpoint, "write", write_or_stop)
            with pytest.raises(KeyboardInterrupt):
                scan(checkpoint=path, **changes)
        return path

    return interrupted


@pytest.fixture
def half_done(interrupted):
    return interrupted()


def counting_parts(monkeypatch) -> list:
    """The first row of each part that is scanned from now on."""
    first_rows = []
    collect = workers.Job.collect

    def counted(self, collector, model, encode, rows, *rest):
        first_rows.append(rows.first_row)
        return collect(self, collector, model, encode, rows, *rest)

    monkeypatch.setattr(workers.Job, "collect", counted)
    return first_rows


def test_an_interrupted_scan_continues_where_it_stopped(scan, half_done, monkeypatch):
    whole = scan()
    parts = counting_parts(monkeypatch)
    assert FeatureScan.load(half_done).rows == ((0, 50),)
    assert_same(scan(checkpoint=half_done), whole)
    assert parts == list(range(50, 120))
    assert_same(scan(checkpoint=half_done), whole)
    assert parts == list(range(50, 120)), "a finished scan is read from its file"


def test_a_first_row_and_a_mask(scan, tokens, interrupted, monkeypatch):
    changes = {"mask": tokens != 1, "first_row": 1000}
    whole, path = scan(**changes), interrupted(**changes)
    parts = counting_parts(monkeypatch)
    assert FeatureScan.load(path).rows == ((1000, 1050),)
    assert_same(scan(checkpoint=path, **changes), whole)
    assert_same(scan(checkpoint=path, **changes), whole)
    assert parts == list(range(1050, 1120))


def in_a_child(work) -> int:
    """A copy of this process that does some work; it exits with 0 only if the work got done."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_killed_at_any_moment_many_times(scan, tmp_path):
    """SIGKILL at random moments, until a call gets through; the result is as if left alone."""
    whole = scan()
    path = tmp_path / "killed.safetensors"
    rng = random.Random(0)
    kills = 0
    while True:
        child = in_a_child(lambda: scan(checkpoint=path, progress=False))
        time.sleep(rng.uniform(0.01, 0.12))
        os.kill(child, signal.SIGKILL)
        code = exit_code(child)
        assert code in {0, -signal.SIGKILL}
        if code == 0:
            break
        kills += 1
        if path.exists():  # whole parts, and never a damaged file
            assert FeatureScan.load(path).n_tokens % 20 == 0
        assert kills < 1000
    assert kills >= 5
    assert_same(scan(checkpoint=path), whole)


@pytest.mark.parametrize(("replaced", "rows_done"), [(False, 50), (True, 51)])
def test_killed_while_the_file_is_written(scan, half_done, replaced, rows_done):
    """Just before, and just after, the new file takes the place of the old one."""
    replace = Path.replace

    def replace_and_die(self, target):
        if replaced:
            replace(self, target)
        os.kill(os.getpid(), signal.SIGKILL)

    def work():
        Path.replace = replace_and_die  # in the child alone
        scan(checkpoint=half_done, progress=False)

    assert exit_code(in_a_child(work)) == -signal.SIGKILL
    assert FeatureScan.load(half_done).rows == ((0, rows_done),)
    assert_same(scan(checkpoint=half_done), scan())
    assert [path.name for path in half_done.parent.iterdir()] == [half_done.name], (
        "what the killed scan left is gone"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda t, tokens: dict(tokens=tokens.flip(0)),
        lambda t, tokens: dict(tokens=tokens[:60]),
        lambda t, tokens: dict(sae=random_sae(24, 48, t.hook, torch.Generator().manual_seed(9))),
        lambda t, tokens: dict(model=other_model(t.model)),
        lambda t, tokens: dict(top_k=4),
        lambda t, tokens: dict(cofiring=[8]),
        lambda t, tokens: dict(first_row=3),
        lambda t, tokens: dict(batch_size=2),
        lambda t, tokens: dict(mask=tokens != 1),
    ],
    ids=["order", "fewer", "sae", "model", "top_k", "cofiring", "first_row", "batch_size", "mask"],
)
def test_a_foreign_checkpoint_is_refused_and_kept(scan, tiny, tokens, half_done, change):
    before = half_done.read_bytes()
    words = (
        r"half.safetensors is of another scan: model, SAE, tokens, mask and settings must be the "
        "same; give another file"
    )
    with pytest.raises(WeightsError, match=words):
        scan(checkpoint=half_done, **change(tiny, tokens))
    assert half_done.read_bytes() == before


def test_parts_of_another_size_are_another_scan(scan, half_done, monkeypatch):
    """Their borders may not fall where this one stopped."""
    monkeypatch.setattr(run_scan, "PART", 60)
    with pytest.raises(WeightsError, match="is of another scan"):
        scan(checkpoint=half_done)


def other_model(model):
    model = copy.deepcopy(model)
    model.blocks[0].mlp.W_in += 0.01
    return model


def test_a_plain_scan_file_is_no_checkpoint(scan, tmp_path):
    path = scan().save(tmp_path / "scan.safetensors")
    with pytest.raises(WeightsError, match="is of another scan"):
        scan(checkpoint=path)


def test_a_damaged_checkpoint_is_refused(scan, half_done):
    content = half_done.read_bytes()
    flipped = bytearray(content)
    flipped[-9] ^= 1  # one bit of one number
    words = r"half.safetensors is not a feature scan, or is damaged .*scan again"
    for broken in (content[:-20], bytes(flipped), b"", b"not a scan"):
        half_done.write_bytes(broken)
        with pytest.raises(WeightsError, match=words):
            scan(checkpoint=half_done)
        assert half_done.read_bytes() == broken


def test_a_place_that_cannot_be_written_is_said_first(scan, tmp_path, monkeypatch):
    parts = counting_parts(monkeypatch)
    (tmp_path / "file").write_text("")
    words = (
        r"checkpoint .*c.safetensors cannot be written \((No such file|Not a) .*\); "
        "give a file in a folder that you may write to"
    )
    for folder in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(ValueError, match=words):
            scan(checkpoint=folder / "c.safetensors")
    assert parts == []


def test_a_disk_that_is_full_later_stops_nothing(scan, half_done):
    """The scan warns and continues, its result is right, and the last whole file stays."""
    whole, before = scan(), half_done.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limit[1]))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = scan(checkpoint=half_done)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    of_checkpoint = [warning for warning in caught if "checkpoint" in str(warning.message)]
    (words,) = {str(warning.message) for warning in of_checkpoint}
    assert "could not be written" in words
    # it points at the call of scan, not into a decorator
    assert {warning.filename for warning in of_checkpoint} == {__file__}
    assert_same(result, whole)
    assert half_done.read_bytes() == before
    assert [path.name for path in half_done.parent.iterdir()] == [half_done.name]


def test_the_fingerprint_of_an_sae(tiny):
    """Stored in each scan's file: it must never change."""
    expected = hashlib.sha256(tiny.hook.encode())
    for values in (tiny.sae.W_enc.flatten()[::97], tiny.sae.W_dec.flatten()[::97]):
        expected.update(values.numpy().tobytes())
    for values in (tiny.sae.b_enc, tiny.sae.b_dec):
        expected.update(values.numpy().tobytes())
    assert checkpoint.sae_fingerprint(tiny.sae, tiny.hook) == expected.hexdigest()[:16]


@pytest.mark.parametrize("sae_id", ["run1", "run2"])
def test_the_bundled_scans_are_of_the_bundled_saes(sae_id):
    book = saework.load("gelu-1l-mini", sae_id, n_tokens=2048, check=False)
    fingerprint = checkpoint.sae_fingerprint(book.sae, book.hook)
    assert book.recorded_scan().fingerprint == fingerprint


def test_the_fingerprint_of_a_model(tiny):
    expected = hashlib.sha256()
    for name, weights in sorted(tiny.model.named_parameters()):
        values = weights.flatten().numpy()
        if len(values) >= 2_000:
            values = values[:: len(values) // 1_000]
        expected.update(f"{name} {tuple(weights.shape)}".encode() + values.tobytes())
    assert checkpoint.model_fingerprint(tiny.model) == expected.hexdigest()[:16]
