"""Where documents come from: parquet files on this machine, and data sets on the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from saework.core.errors import NotAvailableError
from saework.loading.hub import explained

if TYPE_CHECKING:
    import pyarrow.parquet


def read_parquet(path: str | Path, *, column: str = "text") -> list[str]:
    """The documents of a parquet file in the layout of ``NeelNanda/c4-code-20k``.

    Raises:
        ValueError: if the file has no such column, or holds anything but text.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path} is not a readable parquet file ({error}); download it again"
        ) from error
    if column not in table.column_names:
        raise ValueError(f"{path} has no column {column!r}; it has {table.column_names}")
    texts = table.column(column).to_pylist()
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"column {column!r} of {path} holds values that are not text")
    return texts


def streamed_texts(name: str, *, column: str = "text") -> tuple[Iterator[str], str]:
    """The documents of a data set on the Hub, read piece by piece, and its commit.

    Reads the first parquet file of its training split, from the Hub's own parquet copy
    (``refs/convert/parquet``) if there is one, so that data sets in any format can be read.

    Raises:
        NotAvailableError: if it cannot be reached, or has no parquet.
        ValueError: if it has no such column.
    """
    try:
        file, commit = _open_parquet(name)
    except NotAvailableError:
        raise
    except Exception as error:
        raise explained(error, "the text", name, kind="dataset") from None
    columns = file.schema_arrow.names
    if column not in columns:
        raise ValueError(
            f"the data set {name} has no column {column!r} (it has {columns}); give text= instead"
        )

    def texts() -> Iterator[str]:
        try:
            for batch in file.iter_batches(batch_size=16, columns=[column]):
                yield from batch.column(0).to_pylist()
        except Exception as error:
            raise explained(error, "the text", name, kind="dataset") from None

    return texts(), commit


def _open_parquet(name: str) -> tuple[pyarrow.parquet.ParquetFile, str]:
    """The first parquet file of a data set, not yet read, and the data set's commit."""
    import pyarrow.parquet as parquet
    from huggingface_hub import HfApi, HfFileSystem

    for revision in ("refs/convert/parquet", "main"):
        files = _parquet_files(name, revision)
        if files:
            commit = str(HfApi().dataset_info(name, revision=revision).sha)
            path = f"datasets/{name}@{commit}/{files[0]}"
            opened = HfFileSystem().open(path, block_size=2**22)
            # Buffering would fetch the whole column first.
            return parquet.ParquetFile(opened, pre_buffer=False), commit
    raise NotAvailableError(
        f"the data set {name} has no parquet file on the Hub; give text= instead"
    )


def _parquet_files(name: str, revision: str) -> list[str]:
    """The parquet files of the training split, or all if no name says which split it is of."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        files = HfApi().list_repo_files(name, repo_type="dataset", revision=revision)
    except RevisionNotFoundError:
        return []
    parquet_files = sorted(file for file in files if file.endswith(".parquet"))
    return [file for file in parquet_files if "train" in file] or parquet_files
