"""One repository of the Hugging Face Hub at a pinned revision, or a folder in the same layout."""

from __future__ import annotations

import fnmatch
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from saework.core.errors import NotAvailableError, WeightsError
from saework.core.files import PACKAGE
from saework.loading.hub_replies import check_etags, without_tokens
from saework.loading.hub_watch import WATCH, watch_the_hub

NEW_TOKEN = "make a new one in your account's settings, and set HF_TOKEN to it"
T = TypeVar("T")


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
    """Of the large files, as published, so that ``releases()`` can say them without a network."""

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

        Raises:
            NotAvailableError: which says what to do.
            WeightsError: if the download is cut short.
        """
        if self.folder:
            path = self.folder / file
            if not path.exists():
                raise NotAvailableError(
                    f"{path} does not exist; reinstall saework, or build the mini again"
                )
            return path
        from huggingface_hub import hf_hub_download

        def download(revision: str | None) -> str:
            return hf_hub_download(self.name, file, repo_type=self.kind, revision=revision)

        return Path(self._with_revision(download, file))

    def fetch_all(self, files: Sequence[str]) -> list[Path]:
        """Paths of several files, all of one revision.

        Raises:
            NotAvailableError: as ``fetch``.
            WeightsError: as ``fetch``; or the repository changed from one file to the next.
        """
        paths = [self.fetch(file) for file in files]
        commits = {_commit_of(path) for path in paths}
        if self.folder is None and len(commits) > 1:
            raise WeightsError(
                f"{self.name} changed while its files were downloaded "
                f"(revisions {', '.join(sorted(commit[:8] for commit in commits))}); load again"
            )
        return paths

    def fetch_folder(self, patterns: Sequence[str], *, also: Sequence[str] = ()) -> Path:
        """The folder with all files that match the patterns, downloaded if need be.

        Args:
            patterns: such as ``data/*.parquet``; each must match a file.
            also: patterns that need not match.

        Raises:
            NotAvailableError: which says what to do; also if nothing matches one of the patterns.
            WeightsError: if a download is cut short.
        """
        root = self.folder
        if root is None:
            from huggingface_hub import snapshot_download

            def download(revision: str | None) -> str:
                return snapshot_download(
                    self.name,
                    repo_type=self.kind,
                    revision=revision,
                    allow_patterns=[*patterns, *also],
                )

            root = Path(self._with_revision(download, patterns[0]))
        for pattern in patterns:
            if not list(root.glob(pattern)):
                raise self._no_match(pattern)
        return root

    def _no_match(self, pattern: str) -> NotAvailableError:
        if self.folder:
            return NotAvailableError(
                f"{self.name} holds no {pattern}; reinstall saework, or build the mini again"
            )
        return NotAvailableError(
            f"{self.name} holds no {pattern}, or it is not in the cache and the Hub cannot be "
            "reached; connect and load again, or see what it holds on the Hub"
        )

    def cached(self, file: str) -> bool:
        """Whether a file is on this machine already; of a pattern, whether any match is."""
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
        """Why a file (or the first match of a pattern) could not be downloaded now, or None.

        Downloads nothing. A gated repository lists its files for everyone, so the file itself is
        asked for: its header only.
        """
        from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
        from huggingface_hub.errors import FileMetadataError

        def ask(revision: str | None) -> None:
            name = file
            if "*" in file:
                listed = HfApi().list_repo_files(self.name, repo_type=self.kind, revision=revision)
                # Without a match the pattern itself is asked for, and the Hub has no such file.
                name = next(iter(fnmatch.filter(listed, file)), file)
            url = hf_hub_url(self.name, name, repo_type=self.kind, revision=revision)
            metadata = get_hf_file_metadata(url)
            if metadata.etag is None or metadata.commit_hash is None:
                raise FileMetadataError("no ETag, or no commit")  # as hf_hub_download has it

        try:
            self._with_revision(ask, file)
        except (NotAvailableError, WeightsError) as problem:
            return str(problem)
        return None

    def _with_revision(self, call: Callable[[str | None], T], file: str) -> T:
        """Call with the pinned revision; if only ``main`` is available, take that, and warn."""
        from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError

        check_etags()
        watch_the_hub()
        try:
            with WATCH.call():
                try:
                    return call(self.revision)
                except (RevisionNotFoundError, LocalEntryNotFoundError):
                    if self.revision is None:
                        raise
                    result = call(None)
        except Exception as error:
            # The message says it all: "from None" spares the reader forty lines.
            raise explained(error, file, self.name, kind=self.kind) from None
        warnings.warn(
            f"revision {self.revision[:8]} of {self.name} is not available; took main instead",
            stacklevel=3,
        )
        return result


def _commit_of(path: Path) -> str:
    """The commit in a path of the Hub's cache: ``.../snapshots/COMMIT/file``."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else ""


def gated_words(name: str) -> str:
    """What to do for a gated repository."""
    return (
        f"{name} is gated: accept its licence on its page on the Hub while logged in, then set "
        "the environment variable HF_TOKEN to a token of that account (never paste it into a "
        "notebook)"
    )


def explained(error: Exception, file: str, name: str, *, kind: str = "model") -> Exception:
    """The error to raise in place of one of huggingface_hub's, which says what to do.

    Args:
        error: what huggingface_hub raised.
        file: what was asked for.
        name: of the repository.
        kind: ``model`` or ``dataset``.
    """
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    if isinstance(error, NotAvailableError):
        return error  # of ``hub_watch``, which has said it
    # The order matters: the Hub's errors are subclasses of one another.
    if isinstance(error, GatedRepoError):
        return NotAvailableError(gated_words(name))
    if isinstance(error, RepositoryNotFoundError):
        return NotAvailableError(
            f"the Hub has no {kind} {name}, or this account may not see it; check the name, "
            "and HF_TOKEN if it is private"
        )
    if _is_refused(error):
        return NotAvailableError(
            f"the Hub refuses the token that is set on this machine, so {name} cannot be "
            f"downloaded; {NEW_TOKEN}"
        )
    if isinstance(error, UnicodeEncodeError):
        return NotAvailableError(
            f"the token that is set on this machine has characters that no token has; {NEW_TOKEN}"
        )
    status = _status_behind(error)
    if is_unreachable(error) and status is not None:
        return NotAvailableError(
            f"{file} of {name} is not in the cache, and the Hub answers with status {status}; try "
            "again later, or use one of the minis, which need no network"
        )
    if _is_not_the_hubs(error):
        return NotAvailableError(
            f"{file} of {name} could not be downloaded: something answers, but not as the Hub does "
            f"({type(error.__cause__ or error).__name__}). This network may ask you to log in "
            "first: open a page in a browser; or HF_ENDPOINT may name another server"
        )
    if is_unreachable(error):
        return NotAvailableError(
            f"{file} of {name} is not in the cache, and the Hub cannot be reached; connect once "
            "and load again (unset HF_HUB_OFFLINE if it is set), or use one of the minis, which "
            "need no network"
        )
    if isinstance(error, EntryNotFoundError):
        return NotAvailableError(
            f"{name} has no file {file} at this revision; "
            "check the id (a checkpoint's number, for example)"
        )
    if "onsistency check failed" in str(error):
        return WeightsError(
            f"the download of {file} from {name} was cut short; load again to repeat it"
        )
    return NotAvailableError(
        f"{file} of {name} could not be downloaded "
        f"({type(error).__name__}: {without_tokens(str(error))}); "
        "check the network and the disk, and try again"
    )


def _is_refused(error: Exception) -> bool:
    from huggingface_hub.errors import HfHubHTTPError

    return isinstance(error, HfHubHTTPError) and error.response.status_code == 401


def _is_not_the_hubs(error: Exception) -> bool:
    """Whether an answer came that huggingface_hub could not read: a page, a list of something."""
    from huggingface_hub.errors import FileMetadataError

    cause = error.__cause__ or error
    unread = (json.JSONDecodeError, RecursionError, TypeError, KeyError, AttributeError)
    return isinstance(cause, (FileMetadataError, *unread))


def _status_behind(error: BaseException) -> int | None:
    """The status of the server's answer that led to an error, if one did."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if response is not None:
            return int(response.status_code)
        cause = cause.__cause__
    return None


def is_unreachable(error: Exception) -> bool:
    from huggingface_hub.errors import LocalEntryNotFoundError

    if isinstance(error, (LocalEntryNotFoundError, ConnectionError)):
        return True
    # The HTTP library differs between versions of huggingface_hub, so its classes go by name.
    names = {cls.__name__ for cls in type(error).__mro__}
    return not names.isdisjoint({"TransportError", "OfflineModeIsEnabled"})
