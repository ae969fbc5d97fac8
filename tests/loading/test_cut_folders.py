"""Folders with a model's first blocks: what they hold and cost, and how they can go wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from local_hub import TRIED, LocalHub, hf_config, result_of, write_hf_model
from safetensors.torch import load_file

from saework.loading.hub import Repository

COMMIT = "7" * 40
WRONG = ("416", "short", "shifted", "moved", "changed", "long", "broken")
LOCK = ".blocks-1-of-4.lock"

CLIENT = (
    TRIED
    + """
import multiprocessing, os, shutil, time
from pathlib import Path
from types import SimpleNamespace
from saework.loading import cut_folders
from saework.loading.cut_cache import cut_cache
from saework.loading.cut_folders import config_folder, cut_folder
from saework.loading.cut_models import first_blocks
from saework.loading.hub import Repository

def filled(name, n_blocks=1):
    repository = Repository(name)
    hub_folder = config_folder(repository)
    return str(cut_folder(repository, hub_folder, first_blocks(hub_folder, n_blocks)))

def held(name):
    # all that is kept of a repository, with the hidden files
    root = cut_cache() / name.replace("/", "--")
    return sorted(path.relative_to(root).as_posix()[41:] for path in root.rglob("*"))

def asked(name, n_blocks=1):
    return tried(filled, name, n_blocks) | {"held": held(name)}

def slowly(name, queue):
    plain = cut_folders._Filling.write
    def write(self, partial):
        time.sleep(1)
        return plain(self, partial)
    cut_folders._Filling.write = write
    queue.put(filled(name))

def killed(name):
    def write(self, path, tensors):
        path.write_bytes(b"half of it")
        os._exit(9)
    cut_folders._Filling._write_weights = write
    filled(name)

fork = multiprocessing.get_context("fork")

def two_at_once(name):
    queue = fork.SimpleQueue()
    both = [fork.Process(target=slowly, args=(name, queue)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    return [queue.get(), queue.get()]

def one_killed(name):
    process = fork.Process(target=killed, args=(name,))
    process.start()
    process.join()
    return process.exitcode

def without_disk(name):
    plain = shutil.disk_usage
    shutil.disk_usage = lambda path: SimpleNamespace(free=100_000)
    try:
        return asked(name)
    finally:
        shutil.disk_usage = plain
"""
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A Gemma 2 in three shards, and copies of it with something wrong."""
    root = tmp_path_factory.mktemp("models")
    write_hf_model(root / "right", hf_config("gemma2", d_model=32, n_layers=4), shards=3)
    index_name = "model.safetensors.index.json"
    index = json.loads((root / "right" / index_name).read_text())
    norm = "model.layers.0.input_layernorm.weight"
    changes = {
        "outside": {norm: "../other.safetensors"},
        "elsewhere": dict.fromkeys(index["weight_map"], "model-00003-of-00003.safetensors"),
    }
    for name, change in changes.items():
        shutil.copytree(root / "right", root / name)
        weight_map = index["weight_map"] | change
        (root / name / index_name).write_text(json.dumps({"weight_map": weight_map}))
    shutil.copytree(root / "right", root / "no map")
    (root / "no map" / index_name).write_text("{}")
    shutil.copytree(root / "right", root / "other widths")
    write_hf_model(root / "wider", hf_config("gemma2", d_model=64, n_layers=4))
    shutil.copy(root / "wider" / "config.json", root / "other widths")
    return root


@pytest.fixture(scope="module")
def session(root, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    with LocalHub() as hub:
        for name in ("right", "outside", "elsewhere", "no map", "other widths"):
            hub.add(f"ours/{name.replace(' ', '-')}", root / name, commits=(COMMIT,))
        for name in ("twice", "killed", "cached", "disk"):
            hub.add(f"ours/{name}", root / "right", commits=(COMMIT,))
        hub.add("ours/gated", root / "right", commits=(COMMIT,), gated=401)
        second = ("model-00002-of-00003.safetensors",)
        hub.add("ours/locked", root / "right", commits=(COMMIT,), locked=second)
        for wrong in ("whole", *WRONG):
            hub.add(f"ours/{wrong}", root / "right", commits=(COMMIT,), ranges=wrong)
        answers = result_of(
            CLIENT
            + f"""
answers = {{name: asked("ours/" + name) for name in {("whole", "gated", *WRONG)!r}}}
answers["locked"] = asked("ours/locked", 4)
for name in ("outside", "elsewhere", "no-map", "other-widths"):
    answers[name] = asked("ours/" + name)
answers["one"] = asked("ours/right")
answers["one again"] = asked("ours/right")
answers["two"] = asked("ours/right", 2)
answers["twice"] = tried(two_at_once, "ours/twice")
answers["exit code"] = one_killed("ours/killed")
answers["left by it"] = held("ours/killed")
answers["after it"] = asked("ours/killed")
for shard in (1, 2, 3):
    Repository("ours/cached").fetch(f"model-0000{{shard}}-of-00003.safetensors")
answers["cached"] = asked("ours/cached", 4)
answers["disk"] = without_disk("ours/disk")
report(answers)
""",
            cache=cache,
            endpoint=hub.url,
        )
        offline = result_of(
            CLIENT + 'report({"here": asked("ours/right"), "not here": asked("ours/disk")})',
            cache=cache,
            endpoint=hub.url,
            offline=True,
        )
        return answers | offline, hub.requests, cache


def sent(session, name: str) -> list[tuple[str, int]]:
    """The shards asked for, and how many bytes each answer had."""
    _, requests, _ = session
    return [
        (request.path[-len("00001-of-00003.safetensors") :][:5], request.size)
        for request in requests
        if request.method == "GET" and f"/ours/{name}/" in request.path
        if request.path.endswith(".safetensors")
    ]


def same_as_published(folder: str, root: Path, n_blocks: int) -> bool:
    """Whether it holds the embedding and the first blocks, bit by bit, and nothing else."""
    stored = load_file(Path(folder) / "model.safetensors")
    published: dict[str, torch.Tensor] = {}
    for path in (root / "right").glob("*.safetensors"):
        published |= load_file(path)
    behind = tuple(f"model.layers.{layer}." for layer in range(n_blocks, 4))
    expected = {
        name: value
        for name, value in published.items()
        if not name.startswith((*behind, "model.norm."))
    }
    return stored.keys() == expected.keys() and all(
        torch.equal(stored[name], expected[name]) for name in expected
    )


def test_the_published_tensors_of_the_first_blocks(session, root):
    answers, _, cache = session
    folder = answers["one"]["value"]
    assert folder == str(cache / "saework" / "ours--right" / COMMIT / "blocks-1-of-4")
    assert same_as_published(folder, root, 1)
    assert answers["one"]["held"] == [
        "",
        LOCK,
        "blocks-1-of-4",
        *(f"blocks-1-of-4/{n}" for n in ("config.json", "model.safetensors", "saework.json")),
    ]
    shards = {shard for shard, _ in sent(session, "right")}
    assert shards == {"00001", "00002"}, "the last shard holds nothing of the first two blocks"


def test_it_is_an_ordinary_folder_of_transformers(session):
    from transformers import AutoModel

    model, report = AutoModel.from_pretrained(session[0]["two"]["value"], output_loading_info=True)
    assert len(model.layers) == 2
    assert set(report["missing_keys"]) == {"norm.weight"} and not report["unexpected_keys"]


def test_nothing_is_downloaded_twice(session, root):
    """The second folder takes from the first what that one has."""
    answers, _, _ = session
    assert answers["one again"]["value"] == answers["one"]["value"]
    assert same_as_published(answers["two"]["value"], root, 2)
    sizes = [size for _, size in sent(session, "right")]
    whole = load_file(Path(answers["two"]["value"]) / "model.safetensors")
    headers = 10_000
    assert sum(sizes) < sum(value.nbytes for value in whole.values()) + headers


def test_files_that_are_here_are_not_asked_for_again(session, root):
    assert same_as_published(session[0]["cached"]["value"], root, 4)
    assert len(sent(session, "cached")) == 3, "the three shards, by the Hub's own client"


def test_a_server_without_ranges(session, root):
    """Then the needed shards are downloaded whole, and once."""
    assert same_as_published(session[0]["whole"]["value"], root, 1)
    size = (root / "right" / "model-00001-of-00003.safetensors").stat().st_size
    # the first answer is the one to the request for a range: it is closed at its header
    assert sent(session, "whole") == [("00001", size)] * 2


def test_without_network(session):
    answers, _, _ = session
    assert answers["here"]["value"] == answers["one"]["value"]
    assert answers["not here"]["error"] == "NotAvailableError"
    assert "the Hub cannot be reached" in answers["not here"]["text"]


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_bytes_leave_nothing(session, wrong):
    answer = session[0][wrong]
    assert answer["error"] == "WeightsError" and "load again" in answer["text"]
    assert answer["held"] == ["", LOCK]


def test_a_gate(session):
    answer = session[0]["gated"]
    assert answer["error"] == "NotAvailableError"
    assert "ours/gated is gated: accept its licence" in answer["text"]
    assert answer["held"] == []


def test_a_gate_that_closes_in_the_middle(session):
    """The config and the first shard are open."""
    answer = session[0]["locked"]
    assert answer["error"] == "NotAvailableError"
    assert "ours/locked is gated: accept its licence" in answer["text"]
    assert answer["held"] == ["", LOCK.replace("1-of", "4-of")]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("outside", "input_layernorm.weight is in '../other.safetensors', which is no shard"),
        ("elsewhere", "in the file that its index names; it is not whole"),
        ("no-map", "has no weight_map; delete it and download it again"),
        ("other-widths", "has shape (4096, 32), its config says (4096, 64)"),
    ],
)
def test_files_that_contradict_each_other(session, case, words):
    answer = session[0][case]
    assert answer["error"] == "WeightsError", answer
    assert words in answer["text"]
    assert answer["held"] == ["", LOCK]


def test_too_small_a_disk(session):
    answer = session[0]["disk"]
    assert answer["error"] == "NotAvailableError"
    assert "0.0 GB free in" in answer["text"] and "set HF_HOME" in answer["text"]
    assert answer["held"] == ["", LOCK]


def test_two_processes_download_it_once(session, root):
    one, other = session[0]["twice"]["value"]
    assert one == other and same_as_published(one, root, 1)
    n_bytes = [size for _, size in sent(session, "twice")]
    assert len(n_bytes) == 3, "the length of the header, the header, the data"


def test_a_process_that_is_killed(session, root):
    answers, _, _ = session
    assert answers["exit code"] == 9
    assert any(name.endswith(".partial/model.safetensors") for name in answers["left by it"])
    assert same_as_published(answers["after it"]["value"], root, 1)
    assert not [name for name in answers["after it"]["held"] if "partial" in name]


def test_a_repository_that_is_a_folder_is_read_where_it_is(root):
    from saework.loading.cut_folders import config_folder, cut_folder
    from saework.loading.cut_models import first_blocks

    repository = Repository("ours/local", folder=root / "right")
    hub_folder = config_folder(repository)
    assert cut_folder(repository, hub_folder, first_blocks(hub_folder, 1)) == root / "right"
