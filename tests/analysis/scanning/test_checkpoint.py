"""Scans that are interrupted or killed, and checkpoints of other scans."""

from __future__ import annotations

import copy
import os
import random
import resource
import select
import signal
import time
import traceback
import warnings
from pathlib import Path

import pytest
import torch
from conftest import random_sae
from stand_ins import assert_same, top_k_sae

import saework
from saework import FeatureScan
from saework.analysis.scanning import checkpoint, run_scan, workers
from saework.core.errors import WeightsError
from saework.engine.digests import hooks_on


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


def test_a_gpu_that_is_lost_costs_one_part(scan, tiny, tmp_path, monkeypatch):
    """Torch raises then, at whatever it computes next; no hook stays on, and the rest is kept."""
    whole, path = scan(), tmp_path / "lost.safetensors"
    forward = type(tiny.model).forward
    runs = []

    def lost(self, *arguments, **options):
        runs.append(self)
        if len(runs) > 50:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return forward(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(tiny.model), "forward", lost)
        with pytest.raises(RuntimeError, match="CUDA error"):
            scan(checkpoint=path)
    assert hooks_on(tiny.model) == []
    ((first, last),) = FeatureScan.load(path).rows
    assert first == 0 and last == len(runs) - 1
    assert_same(scan(checkpoint=path), whole)


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


def test_killed_at_any_moment_many_times(scan, tmp_path, monkeypatch):
    """SIGKILL at random steps, until a call gets through; the result is as if left alone.

    A step is a part that begins, or a file that begins to be written. The kill comes right after
    it, wherever the scan then is: what was reached decides, and no clock.
    """
    whole = scan()
    path = tmp_path / "killed.safetensors"
    steps_out, steps_in = os.pipe()

    def announced(function):
        def announcing(*arguments):
            os.write(steps_in, b".")
            return function(*arguments)

        return announcing

    monkeypatch.setattr(workers.Job, "collect", announced(workers.Job.collect))
    monkeypatch.setattr(checkpoint.Checkpoint, "write", announced(checkpoint.Checkpoint.write))
    rng = random.Random(0)
    kills = 0
    while True:
        child = in_a_child(lambda: scan(checkpoint=path, progress=False))
        for _ in range(rng.randint(1, 60)):
            while not select.select([steps_out], [], [], 0.1)[0] and running(child):
                pass
            if not running(child):
                break
            os.read(steps_out, 1)
        os.kill(child, signal.SIGKILL)
        code = exit_code(child)
        assert code in {0, -signal.SIGKILL}
        if code == 0:
            break
        kills += 1
        while select.select([steps_out], [], [], 0)[0]:  # steps that nobody waited for
            os.read(steps_out, 4096)
        if path.exists():  # whole parts, and never a damaged file
            assert FeatureScan.load(path).n_tokens % 20 == 0
        assert kills < 1000
    assert kills >= 5
    assert_same(scan(checkpoint=path), whole)


def running(child: int) -> bool:
    """Whether a child has not ended; one that has stays to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


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
    an_hour_ago = time.time() - 3601
    for left in half_done.parent.glob(".*.partial"):
        os.utime(left, (an_hour_ago, an_hour_ago))
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


class Shifted:
    """An own SAE with a threshold, and no config."""

    def __init__(self, sae, threshold):
        self.W_enc, self.W_dec, self.threshold = sae.W_enc, sae.W_dec, threshold

    def encode(self, x):
        before = x @ self.W_enc
        return before * (before > self.threshold)

    def decode(self, features):
        return features @ self.W_dec


def top_k(k):
    sae = top_k_sae()
    sae.cfg.k = sae.activation_fn.k = k
    return sae


def another_weight(sae):
    """Another SAE in one number of its 2,376, for an input that is large."""
    sae = copy.deepcopy(sae)
    sae.W_enc[5, 6] += 50.0
    return sae


def b_dec_subtracted(sae):
    sae = copy.deepcopy(sae)
    sae.cfg.apply_b_dec_to_input = not sae.cfg.apply_b_dec_to_input
    return sae


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda t: top_k(4), lambda t: top_k(16)),
        (lambda t: Shifted(t.sae, 0.0), lambda t: Shifted(t.sae, 0.5)),
        (lambda t: t.sae, lambda t: another_weight(t.sae)),
        (lambda t: t.sae, lambda t: b_dec_subtracted(t.sae)),
    ],
    ids=["k", "threshold", "weight", "b_dec"],
)
def test_another_sae_of_the_same_width(scan, tiny, interrupted, first, second):
    """Neither its checkpoint nor its scan is taken for this one's."""
    one, other = first(tiny), second(tiny)
    path = interrupted(sae=one, hook=tiny.hook)
    with pytest.raises(WeightsError, match="is of another scan"):
        scan(checkpoint=path, sae=other, hook=tiny.hook)
    whole = scan(sae=one, hook=tiny.hook)
    later = scan(sae=other, hook=tiny.hook, first_row=1000)
    assert not torch.equal(whole.count, later.count)
    with pytest.raises(ValueError, match="scans are of different SAEs or hooks; .* settings"):
        whole + later
    assert whole.is_of(one, tiny.hook) and not whole.is_of(other, tiny.hook)
    assert not whole.is_of(one, "blocks.0.hook_resid_post")


def test_another_dtype(scan, tiny, interrupted):
    def in_bfloat16():
        model = copy.deepcopy(tiny.model).to(torch.bfloat16)
        return {"model": model, "sae": copy.deepcopy(tiny.sae).to(dtype=torch.bfloat16)}

    path = interrupted(**in_bfloat16())
    with pytest.raises(WeightsError, match="is of another scan"):
        scan(checkpoint=path)
    assert_same(scan(checkpoint=path, **in_bfloat16()), scan(**in_bfloat16()))


def test_one_weight_of_the_model(scan, tiny, half_done):
    model = copy.deepcopy(tiny.model)
    model.blocks[0].mlp.W_in[3, 7] += 1.0
    with pytest.raises(WeightsError, match="is of another scan"):
        scan(checkpoint=half_done, model=model)


def test_a_model_with_a_hook_has_no_checkpoint(scan, tiny, half_done):
    model = copy.deepcopy(tiny.model)
    model.add_perma_hook(tiny.hook, lambda value, hook: 2 * value)
    with pytest.raises(ValueError, match="the model has a function on at blocks.0.mlp.hook_post"):
        scan(checkpoint=half_done, model=model)
    assert not torch.equal(scan(model=model).count, scan().count), "without one it is scanned"


@pytest.mark.parametrize(
    ("name", "sae_id"),
    [
        ("gelu-1l-mini", "run1"),
        ("gelu-1l-mini", "run2"),
        ("gemma-mini", "blocks.0.hook_resid_post"),
        ("gemma-mini", "blocks.2.hook_resid_post"),
        ("llama-mini", "l2"),
    ],
)
def test_the_bundled_scans_are_of_the_bundled_saes(name, sae_id):
    book = saework.load(name, sae_id, n_tokens=2048, check=False)
    assert book.recorded_scan().is_of(book.sae, book.hook)
    book.sae.W_enc[5, 7] += 1e-3
    words = "recorded scan is of the SAE as it is stored, in float32, and this one's weights, dtype"
    with pytest.raises(ValueError, match=words):
        book.recorded_scan()
