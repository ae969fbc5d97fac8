"""Documents from parquet files; ``test_releases`` streams them from a Hub."""

from __future__ import annotations

import pyarrow
import pyarrow.parquet
import pytest

from saework.core.errors import NotAvailableError
from saework.loading import documents


def test_a_parquet_file_gives_its_documents(tmp_path):
    path = write_parquet(tmp_path / "text.parquet", text=["a\n", "é🙂", ""], meta=[1, 2, 3])
    assert documents.read_parquet(path) == ["a\n", "é🙂", ""]


def test_a_damaged_parquet_file(tmp_path):
    path = write_parquet(tmp_path / "text.parquet", text=["a"])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        ValueError, match=r"text.parquet is not a readable parquet file \(.*\); download it again"
    ):
        documents.read_parquet(path)


def test_a_parquet_file_of_another_layout(tmp_path):
    path = write_parquet(tmp_path / "text.parquet", body=["a"], n=[1])
    with pytest.raises(
        ValueError, match=r"text.parquet has no column 'text'; it has \['body', 'n'\]"
    ):
        documents.read_parquet(path)
    with pytest.raises(
        ValueError, match="column 'n' of .*text.parquet holds values that are not text"
    ):
        documents.read_parquet(path, column="n")


def write_parquet(path, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


class Hub:
    """A Hub with these files of one data set, by revision."""

    def __init__(self, files):
        self.files = files

    def list_repo_files(self, name, *, repo_type, revision):
        from huggingface_hub.errors import RevisionNotFoundError

        assert (name, repo_type) == ("owner/set", "dataset")
        if revision not in self.files:
            raise RevisionNotFoundError.__new__(RevisionNotFoundError)
        return self.files[revision]


@pytest.mark.parametrize(
    "files,expected",
    [
        (["b/train/1.parquet", "a/test/0.parquet", "b/train/0.parquet"], "b/train/0.parquet"),
        (["b.parquet", "a.parquet", "a.jsonl"], "a.parquet"),
        (["a.jsonl"], None),
    ],
)
def test_the_first_file_of_the_training_split_is_read(monkeypatch, files, expected):
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: Hub({"main": files}))
    assert documents._parquet_files("owner/set", "refs/convert/parquet") == []
    assert next(iter(documents._parquet_files("owner/set", "main")), None) == expected


def test_a_data_set_that_cannot_be_reached():
    with pytest.raises(NotAvailableError, match="the text of owner/set is not in the cache"):
        documents.streamed_texts("owner/set")
