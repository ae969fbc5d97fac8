"""Byte ranges of one file on the Hub, each answer checked: length, place, file and revision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from saework.core.errors import WeightsError
from saework.loading.hub import Repository, explained, is_unreachable
from saework.loading.hub_replies import without_tokens

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

ATTEMPTS = 5
TIMEOUT = 30.0  # seconds without a byte


class NoRangesError(Exception):
    """The server answers a request for a range with the whole file."""


class HubFile:
    """A file of a repository at one commit."""

    def __init__(self, repository: Repository, commit: str, file: str) -> None:
        """Ask for its size; nothing of its contents is sent yet.

        Raises:
            NotAvailableError: no access, no network, no such file.
            WeightsError: the Hub answers for another commit.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        self._repository = repository
        self._commit = commit
        self._file = file
        self._url = hf_hub_url(repository.name, file, repo_type=repository.kind, revision=commit)
        try:
            self._metadata: HfFileMetadata = get_hf_file_metadata(self._url)
        except Exception as error:
            raise explained(error, file, repository.name, kind=repository.kind) from None
        if self._metadata.commit_hash not in (None, commit):
            raise self._of_another_revision(self._metadata.commit_hash)
        if self._metadata.size is None:
            raise NoRangesError
        self.size: int = self._metadata.size

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self._file} of {self._repository.name}"

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``stop``; a connection that breaks off is taken up again.

        Raises:
            NotAvailableError: no access, or no network.
            WeightsError: the answer is cut short, or of other bytes than were asked for.
            NoRangesError: the server gives no ranges.
        """
        position = start
        for _ in range(ATTEMPTS):
            for chunk in self._answer(position, stop):
                position += len(chunk)
                if position > stop:
                    raise self._of_wrong_length(start, stop, "more")
                yield chunk
            if position == stop:
                return
        raise self._of_wrong_length(start, stop, "fewer")

    def _answer(self, start: int, stop: int) -> Iterator[bytes]:
        """What one request brings, which may end early."""
        from huggingface_hub.utils import build_hf_headers, http_stream_backoff

        headers = build_hf_headers()
        headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        try:
            with http_stream_backoff(
                "GET", self._url, headers=headers, follow_redirects=True, timeout=TIMEOUT
            ) as response:
                self._check(response, start, stop)
                try:
                    yield from response.iter_bytes()  # as it comes: nothing is lost at a break
                except Exception as error:
                    if not is_unreachable(error):
                        raise
        except (WeightsError, NoRangesError):
            raise
        except Exception as error:
            raise explained(error, self._file, self._repository.name) from None

    def _check(self, response: Any, start: int, stop: int) -> None:
        """Refuse an answer that is not of these bytes of this file at this commit."""
        from huggingface_hub.utils import hf_raise_for_status

        if response.status_code == 416:
            raise WeightsError(
                f"the Hub says that {self.name} has no bytes {start:,} to {stop:,}, though it is "
                f"{self.size:,} bytes long; load again"
            )
        hf_raise_for_status(response)
        for answer in (*response.history, response):
            commit = answer.headers.get("X-Repo-Commit", self._commit)
            if commit != self._commit:
                raise self._of_another_revision(commit)
        first = response.history[0] if response.history else response
        etag = first.headers.get("X-Linked-Etag") or first.headers.get("ETag")
        if etag and self._metadata.etag and _bare(etag) != self._metadata.etag:
            raise WeightsError(f"{self.name} changed while it was downloaded; load again")
        if response.status_code != 206:
            raise NoRangesError
        given = response.headers.get("Content-Range", "")
        unit, _, place = given.partition(" ")
        bounds, _, whole = place.partition("/")
        right_size = whole in ("*", str(self.size))
        if unit != "bytes" or bounds != f"{start}-{stop - 1}" or not right_size:
            raise WeightsError(
                f"asked for bytes {start}-{stop - 1}/{self.size} of {self.name}, the server "
                f"answered with {without_tokens(given) or 'bytes of no stated place'}; load again"
            )

    def _of_another_revision(self, commit: object) -> WeightsError:
        return WeightsError(
            f"asked for {self.name} at revision {self._commit[:8]}, the Hub answered for "
            f"{without_tokens(str(commit))[:8]}; load again"
        )

    def _of_wrong_length(self, start: int, stop: int, what: str) -> WeightsError:
        return WeightsError(
            f"asked for {stop - start:,} bytes of {self.name}, {what} came; load again"
        )


def _bare(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')
