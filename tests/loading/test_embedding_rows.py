"""Some rows of an embedding: the right ones, in few requests, and kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from local_hub import TRIED, LocalHub, hf_config, result_of, write_hf_model
from safetensors.torch import load_file

from saework.core.errors import WeightsError
from saework.loading.cut_folders import config_folder
from saework.loading.cut_models import first_blocks
from saework.loading.embedding_rows import MAX_GAP, MAX_REQUESTS, embedding_rows, requests
from saework.loading.hub import Repository

COMMIT = "7" * 40
TOKENS = (3, 2, 2, 4, 700, 4095, 701, 1500)
OTHERS = (3, 2, 2, 4, 700, 4095, 701, 1501)
N_REQUESTS = 4  # 2 to 4; 700 and 701; 1500; 4095
WRONG = ("416", "short", "shifted", "moved", "changed")
EMBEDDING = "model.embed_tokens.weight"

CLIENT = (
    TRIED
    + """
import json, multiprocessing
from pathlib import Path
from saework.loading import embedding_rows as rows
from saework.loading.cut_cache import cut_cache
from saework.loading.cut_folders import config_folder, cut_folder
from saework.loading.cut_models import first_blocks
from saework.loading.hub import Repository

rows.MAX_GAP = 1024  # eight rows of this model
TOKENS = (3, 2, 2, 4, 700, 4095, 701, 1500)

def cut(name):
    repository = Repository(name)
    hub_folder = config_folder(repository)
    return repository, hub_folder, first_blocks(hub_folder, 1)

def filled(name, tokens=TOKENS):
    repository, hub_folder, blocks = cut(name)
    found = rows.embedding_rows(repository, hub_folder, blocks, tokens)
    return [list(found.token_ids), found.values.tolist(), found.d_vocab]

def folders(name):
    root = cut_cache() / name.replace("/", "--")
    return sorted(str(path) for path in root.glob("*/[rb]*"))

def asked(name, tokens=TOKENS):
    return tried(filled, name, tokens) | {"folders": folders(name)}

fork = multiprocessing.get_context("fork")

def two_at_once(name):
    queue = fork.SimpleQueue()
    both = [fork.Process(target=lambda: queue.put(tried(filled, name))) for _ in range(2)]
    for process in both:
        process.start()
    answers = [queue.get(), queue.get()]
    for process in both:
        process.join()
    return answers

def tampered(name, change):
    filled(name)
    (folder,) = folders(name)
    change(Path(folder))
    return tried(filled, name)

def other_tokens(folder):
    path = folder / "saework.json"
    record = json.loads(path.read_text())
    record["tokens"][0] += 1
    path.write_text(json.dumps(record))

def cut_off(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
"""
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A Gemma 2 in three shards, and a smaller vocabulary than a text may have."""
    root = tmp_path_factory.mktemp("models")
    write_hf_model(root / "right", hf_config("gemma2", d_model=32, n_layers=4), shards=3)
    return root


@pytest.fixture(scope="module")
def matrix(root):
    stored: dict[str, torch.Tensor] = {}
    for path in (root / "right").glob("*.safetensors"):
        stored |= load_file(path)
    return stored[EMBEDDING]


@pytest.fixture(scope="module")
def session(root, tmp_path_factory):
    with LocalHub() as hub:
        for name in ("right", "twice", "after blocks", "record", "cut off"):
            hub.add(f"ours/{name.replace(' ', '-')}", root / "right", commits=(COMMIT,))
        for wrong in ("whole", *WRONG):
            hub.add(f"ours/{wrong}", root / "right", commits=(COMMIT,), ranges=wrong)
        answers = result_of(
            CLIENT
            + f"""
answers = {{name: asked("ours/" + name) for name in {("whole", *WRONG)!r}}}
answers["one"] = asked("ours/right")
answers["again"] = asked("ours/right")
answers["others"] = asked("ours/right", {OTHERS!r})
answers["twice"] = two_at_once("ours/twice")
cut_folder(*cut("ours/after-blocks"))
answers["after blocks"] = asked("ours/after-blocks")
answers["record"] = tampered("ours/record", other_tokens)
answers["cut off"] = tampered("ours/cut-off", cut_off)
report(answers)
""",
            cache=tmp_path_factory.mktemp("cache"),
            endpoint=hub.url,
        )
        return answers, hub.requests


def sizes(session, name: str) -> list[int]:
    """The bytes of each answer of the shards."""
    return [
        request.size
        for request in session[1]
        if request.method == "GET" and f"/ours/{name}/" in request.path
        if request.path.endswith(".safetensors")
    ]


def is_right(value: list, matrix: torch.Tensor, tokens: tuple[int, ...] = TOKENS) -> bool:
    ids, rows, d_vocab = value
    expected = matrix[sorted(set(tokens))]
    return (
        ids == sorted(set(tokens))
        and d_vocab == len(matrix)
        and torch.equal(torch.tensor(rows), expected)
    )


def test_the_rows_of_the_tokens(session, matrix):
    answers, _ = session
    assert is_right(answers["one"]["value"], matrix)
    assert is_right(answers["others"]["value"], matrix, OTHERS)
    one, other = answers["others"]["folders"]
    assert one != other, "one folder for each set of tokens"


def test_what_they_cost(session):
    """Both sets of tokens together; the first is read once."""
    length, header, *data = sizes(session, "right")[: 2 + N_REQUESTS]
    assert length == 8 and header < 4_000
    assert sum(data) == 7 * 128 and len(data) == N_REQUESTS
    assert len(sizes(session, "right")) == 2 * (2 + N_REQUESTS)


def test_a_server_without_ranges(session, matrix, root):
    """Then the shard with the embedding is downloaded whole, and once."""
    assert is_right(session[0]["whole"]["value"], matrix)
    size = (root / "right" / "model-00001-of-00003.safetensors").stat().st_size
    assert sizes(session, "whole") == [size] * 2  # the first is closed at its header


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_bytes_leave_nothing(session, wrong):
    answer = session[0][wrong]
    assert answer["error"] == "WeightsError" and "load again" in answer["text"]
    assert not [name for name in answer["folders"] if "/rows-" in name]


def test_two_processes_download_them_once(session, matrix):
    for answer in session[0]["twice"]:
        assert is_right(answer["value"], matrix)
    assert len(sizes(session, "twice")) == 2 + N_REQUESTS


def test_an_embedding_that_is_here_is_read_here(session, matrix):
    assert is_right(session[0]["after blocks"]["value"], matrix)
    assert len(sizes(session, "after-blocks")) == 3, "what the blocks took"


def test_a_folder_of_other_tokens(session):
    answer = session[0]["record"]
    assert answer["error"] == "WeightsError"
    assert "saework.json names other tokens; delete " in answer["text"]


def test_a_folder_that_was_cut_off(session):
    answer = session[0]["cut off"]
    assert answer["error"] == "WeightsError"
    assert "model.safetensors is not what was written there; delete " in answer["text"]


def local_rows(folder: Path, tokens):
    repository = Repository("ours/local", folder=folder)
    hub_folder = config_folder(repository)
    return embedding_rows(repository, hub_folder, first_blocks(hub_folder, 1), tokens)


def test_of_a_folder_on_this_machine(root, matrix):
    found = local_rows(root / "right", TOKENS)
    assert is_right([list(found.token_ids), found.values.tolist(), found.d_vocab], matrix)
    everything = local_rows(root / "right", range(len(matrix)))
    assert torch.equal(everything.values, matrix)


def test_rows_in_bfloat16_stay_as_they_are(tmp_path):
    config = hf_config("gemma2", d_model=32, n_layers=2)
    write_hf_model(tmp_path / "half", config, dtype=torch.bfloat16)
    found = local_rows(tmp_path / "half", [5, 9])
    stored = load_file(tmp_path / "half" / "model.safetensors")[EMBEDDING]
    assert found.values.dtype == torch.bfloat16 and torch.equal(found.values, stored[[5, 9]])


def test_a_tokenizer_of_another_model(root):
    words = r"token 4096, and the embedding of ours/local has 4096 rows, from 0: the tokenizer"
    with pytest.raises(WeightsError, match=words):
        local_rows(root / "right", [5, 4096])


def test_a_folder_that_lacks_a_shard(root, tmp_path):
    shutil.copytree(root / "right", tmp_path / "part")
    index = json.loads((tmp_path / "part" / "model.safetensors.index.json").read_text())
    (tmp_path / "part" / index["weight_map"][EMBEDDING]).unlink()
    with pytest.raises(OSError, match="model-0000"):
        local_rows(tmp_path / "part", [5])


def test_near_rows_are_one_request():
    gap = MAX_GAP // 1000
    assert requests([1, 1 + gap, 2 + 2 * gap], 1000) == [[1, 1 + gap], [2 + 2 * gap]]
    assert requests([7], 1000) == [[7]]
    assert requests([1, 2, 900], MAX_GAP + 1) == [[1], [2], [900]], "rows as long as a gap"


@given(st.sets(st.integers(0, 300_000), min_size=1, max_size=400), st.integers(1, 100_000))
def test_there_are_few_requests_and_no_row_is_lost(rows, row_bytes):
    groups = requests(sorted(rows), row_bytes)
    assert len(groups) <= MAX_REQUESTS
    assert [row for group in groups for row in group] == sorted(rows)
