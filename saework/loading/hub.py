"""One repository of the Hugging Face Hub at a pinned revision, or a folder in the same layout."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from saework.core.errors import NotAvailableError, WeightsError
from saework.core.files import PACKAGE

NEW_TOKEN = "make a new one in your account's settings, and set HF_TOKEN to it"


@dataclass(frozen=True)
class Repository:
    """Where files come from."""

    name: str
    """``owner/name`` on the Hub."""
    revision: str | None = None
    """A commit; None where the publisher's commit is not known, which takes ``main``."""
    kind: str = "model"
    """``model`` or ``dataset``."""
    folder: Path | None = None
    """A folder that holds the files instead."""
    sizes_mb: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.folder:
            packaged = PACKAGE in self.folder.resolve().parents
            return f"{self.name} ({'in this package' if packaged else 'on this machine'})"
        return f"{self.name} (revision {self.revision[:8] if self.revision else 'main'})"

    def size_mb(self, file: str) -> float:
        """Download size of a file, as published; 0 for a folder."""
        return 0 if self.folder else self.sizes_mb.get(file, 0)

    def fetch(self, file: str) -> Path:
        """A file's path on this machine, downloaded if need be.

        Raises: NotAvailableError, which says what to do; WeightsError if the download is cut short.
        """
        if self.folder:
            if not (self.folder / file).exists():
                raise NotAvailableError(
                    f"{self.folder / file} does not exist; reinstall saework, or build the mini again"
                )
            return self.folder / file
        from huggingface_hub import hf_hub_download

        return Path(
            self._with_revision(
                lambda revision: hf_hub_download(
                    self.name, file, repo_type=self.kind, revision=revision
                ),
                file,
            )
        )

    def fetch_folder(self, patterns: Sequence[str], *, also: Sequence[str] = ()) -> Path:
        """The folder with all files that match the patterns, and those of ``also`` that exist.

        Raises: NotAvailableError, also if nothing matches one of the patterns; WeightsError as ``fetch``.
        """
        root = self.folder
        if root is None:
            from huggingface_hub import snapshot_download

            allowed = [*patterns, *also]
            download = lambda revision: snapshot_download(
                self.name, repo_type=self.kind, revision=revision, allow_patterns=allowed
            )  # noqa: E731
            root = Path(self._with_revision(download, patterns[0]))
        for pattern in patterns:
            if not list(root.glob(pattern)):
                raise NotAvailableError(
                    f"{self.name} holds no {pattern}{'' if self.folder else ', or it is not in the cache and the Hub cannot be reached'}; "
                    + (
                        "reinstall saework, or build the mini again"
                        if self.folder
                        else "connect and load again, or see what it holds on the Hub"
                    )
                )
        return root

    def cached(self, file: str) -> bool:
        """Whether a file (or all of a pattern, as far as one can tell offline) is on this machine already."""
        if self.folder:
            return bool(list(self.folder.glob(file)))
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        for revision in dict.fromkeys((self.revision, None)):
            try:
                root = snapshot_download(
                    self.name,
                    repo_type=self.kind,
                    revision=revision,
                    local_files_only=True,
                    allow_patterns=[file],
                )
            except (LocalEntryNotFoundError, OSError):
                continue
            if list(Path(root).glob(file)):
                return True
        return False

    def access_problem(self, file: str) -> str | None:
        """Why a file (or the first of a pattern) could not be downloaded now, or None. Downloads nothing.

        A gated repository tells what it holds to everyone, so the file itself is asked for (its header only).
        """
        from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

        def ask(revision: str | None) -> None:
            names = [file]
            if "*" in file:
                names = fnmatch.filter(
                    HfApi().list_repo_files(self.name, repo_type=self.kind, revision=revision), file
                )
            for name in names[:1] or [file]:
                get_hf_file_metadata(
                    hf_hub_url(self.name, name, repo_type=self.kind, revision=revision)
                )

        try:
            self._with_revision(ask, file)
        except (NotAvailableError, WeightsError) as problem:
            return str(problem)
        return None

    def _with_revision(self, download, file: str) -> str:
        """Download at the pinned revision; where only another one is to be had, say so loudly."""
        from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError

        try:
            try:
                return download(self.revision)
            except (RevisionNotFoundError, LocalEntryNotFoundError):
                if self.revision is None:
                    raise
                found = download(None)
                warnings.warn(
                    f"revision {self.revision[:8]} of {self.name} is not to be had; took main instead",
                    stacklevel=4,
                )
                return found
        except Exception as error:
            raise explained(
                error, file, self.name, kind=self.kind
            ) from None  # the message says it all: spare the reader forty lines


def explained(error: Exception, file: str, name: str, *, kind: str = "model") -> Exception:
    """The error to raise in place of one of huggingface_hub's, which says what to do."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    kinds = {
        cls.__name__ for cls in type(error).__mro__
    }  # the HTTP library differs between versions of huggingface_hub
    unreachable = isinstance(error, (LocalEntryNotFoundError, ConnectionError)) or kinds & {
        "TransportError",
        "OfflineModeIsEnabled",
    }
    refused = isinstance(error, HfHubHTTPError) and error.response.status_code == 401
    if isinstance(error, GatedRepoError):
        return NotAvailableError(
            f"{name} is gated: accept its licence on its page on the Hub while logged in, then set the "
            "environment variable HF_TOKEN to a token of that account (never paste it into a notebook)"
        )
    if isinstance(error, RepositoryNotFoundError):
        return NotAvailableError(
            f"the Hub has no {kind} {name}, or this account may not see it; check the name, and HF_TOKEN if it is private"
        )
    if refused:
        return NotAvailableError(
            f"the Hub refuses the token that is set on this machine, so {name} cannot be had; {NEW_TOKEN}"
        )
    if unreachable:
        return NotAvailableError(
            f"{file} of {name} is not in the cache, and the Hub cannot be reached; connect once and load again "
            "(unset HF_HUB_OFFLINE if it is set), or use one of the minis, which need no network"
        )
    if isinstance(error, EntryNotFoundError):
        return NotAvailableError(
            f"{name} has no file {file} at this revision; check the id (a checkpoint's number, for one)"
        )
    if "onsistency check failed" in str(error):
        return WeightsError(
            f"the download of {file} from {name} was cut short; load again to repeat it"
        )
    return NotAvailableError(
        f"{file} of {name} could not be had ({type(error).__name__}: {error}); check the network and the disk, and try again"
    )
