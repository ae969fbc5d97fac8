"""What a load needs, and whether this machine and account have it, before any download."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from saework.core.errors import NotAvailableError
from saework.core.versions import check_versions
from saework.loading.catalogue import release_named
from saework.loading.hub import NEW_TOKEN, Repository
from saework.loading.needs import FULL, HOOK, memory_gb, need_of_load
from saework.loading.release import Release

_GATE = {True: "licence to accept on the Hub", False: "none", None: "not known beforehand"}


@dataclass(frozen=True)
class Preflight:
    """What a load needs, and whether this machine and account have it."""

    release: str
    """Its name."""
    download_mb: float
    """Still to be downloaded."""
    cached_mb: float
    """On this machine already."""
    disk_free_gb: float
    """Where the Hub's cache is."""
    memory_gb: float
    """Needed, float32."""
    memory_free_gb: float
    """Available on this machine now."""
    licence: str
    """Of model and SAEs."""
    gated: bool | None
    """Whether the licence has to be accepted on the Hub; None if not known beforehand."""
    token: bool
    """Whether a Hub token is set on this machine (it is never shown)."""
    token_accepted: bool | None
    """Whether the Hub accepts it; None if it was not asked (no token, no gate, or no network)."""
    problems: tuple[str, ...]
    """What would stop the load, each with its remedy; empty if nothing would."""

    @property
    def ok(self) -> bool:
        """Whether the load can go ahead."""
        return not self.problems

    def _token(self) -> str:
        if not self.token:
            return "absent"
        verdicts = {None: "not checked", True: "accepted", False: "refused"}
        return f"present, {verdicts[self.token_accepted]}"

    def __repr__(self) -> str:
        download, memory = f"{self.download_mb:.0f} MB", f"{self.memory_gb:.1f} GB needed"
        lines = [
            f"{self.release}: {'ready' if self.ok else 'not ready'}",
            f"  download  {_unless_unknown(download)} ({self.cached_mb:.0f} MB are here already)",
            f"  disk      {self.disk_free_gb:.1f} GB free",
            f"  memory    {_unless_unknown(memory)}, {self.memory_free_gb:.1f} GB available",
            f"  licence   {self.licence}",
            f"  gate      {_GATE[self.gated]}; token {self._token()}",
        ]
        return "\n".join([*lines, *(f"  ! {problem}" for problem in self.problems)])


def _unless_unknown(size: str) -> str:
    return "size not known beforehand" if size.startswith("nan") else size


def preflight(name: str, sae_id: str | int | None = None, *more_ids: str | int) -> Preflight:
    """What ``load(name, sae_id)`` needs, and what stands in its way; downloads no weights.

    Asks the Hub only about what is not in the cache. Sizes of a release that is not a curated one
    are not known beforehand: NaN.

    Args:
        name: of a release.
        sae_id: as ``load`` takes it.
        more_ids: SAEs of the release that will be loaded as well.

    Raises:
        UnknownNameError: for a name or id that does not exist.

    >>> preflight("gelu-1l-mini").download_mb
    0.0
    """
    from huggingface_hub import get_token

    release = release_named(name)
    cached_mb, missing_mb, problems = _availability(release, (sae_id, *more_ids))
    if math.isnan(memory_gb(release)):
        missing_mb = math.nan
    token = bool(get_token())
    accepted = _token_accepted() if token and release.gated and missing_mb else None
    if accepted is False:
        problems.append(f"the Hub refuses the token that is set on this machine; {NEW_TOKEN}")
    return Preflight(
        release=name,
        download_mb=missing_mb,
        cached_mb=cached_mb,
        disk_free_gb=_disk_free_gb(),
        memory_gb=memory_gb(release),
        memory_free_gb=_memory_free_gb(),
        licence=release.licence,
        gated=release.gated,
        token=token,
        token_accepted=accepted,
        problems=(*problems, *resource_problems(release, missing_mb, memory_gb(release))),
    )


def _availability(
    release: Release, sae_ids: Iterable[str | int | None]
) -> tuple[float, float, list[str]]:
    """MB in the cache, MB to download, and what stands in the way, once per repository."""
    files = dict.fromkeys(file for sae_id in sae_ids for file in release.files(sae_id))
    cached_mb = missing_mb = 0.0
    problems: list[str] = []
    refused: list[Repository] = []
    for part, file, size_mb in files:
        repository = release.repositories[part]
        if repository.cached(file):
            cached_mb += size_mb
            continue
        missing_mb += size_mb
        if repository in refused:
            continue
        problem = repository.access_problem(file)
        if problem:
            problems.append(problem)
            refused.append(repository)
    return cached_mb, missing_mb, problems


def resource_problems(release: Release, missing_mb: float, memory_needed: float) -> list[str]:
    """Why this machine's disk or memory would not do for a load, each with its remedy."""
    problems = []
    missing_gb = missing_mb / 1e3
    disk_free, memory_free = _disk_free_gb(), _memory_free_gb()
    if missing_gb > disk_free:
        problems.append(
            f"{missing_gb:.1f} GB to download but {disk_free:.1f} GB free in {_cache()}; "
            "make room, or set HF_HOME to another disk"
        )
    if memory_needed > memory_free:
        problems.append(
            f"about {memory_needed:.1f} GB of memory needed but {memory_free:.1f} GB "
            f"available; close programs, or use {release.family[0]}"
        )
    return problems


def check_resources(
    release: Release, sae_id: str | int | None, *, local: bool = False, depth: str = FULL
) -> None:
    """Refuse a load, before any download, for which disk or memory is too small.

    Args:
        release: what is to be loaded.
        sae_id: which of its SAEs.
        local: the SAE is on this machine, so it is not counted.
        depth: of ``"hook"`` the model is not counted: what it needs is known later.

    Raises:
        NotAvailableError: for too small a disk or memory.
        RuntimeError: for packages whose loaded version is not the installed one.
    """
    check_versions()
    missing_mb = 0.0
    for part, file, size_mb in release.files(None if local else sae_id):
        left_out = (local and part == "sae") or (depth == HOOK and part == "model")
        counted = size_mb and not left_out
        if counted and not release.repositories[part].cached(file):
            missing_mb += size_mb
    need = need_of_load(release, sae_id, depth)
    problems = resource_problems(release, missing_mb, need.memory_gb(4))
    if problems:
        raise NotAvailableError("; ".join(problems))


def check_memory(n_bytes: int) -> None:
    """Refuse a model, before it is downloaded, whose weights do not fit in this machine's memory.

    Args:
        n_bytes: of its weights, as they will be held.

    Raises:
        NotAvailableError: which says how much is needed.
    """
    needed, free = n_bytes / 1e9, _memory_free_gb()
    if needed > free:
        raise NotAvailableError(
            f"the model's blocks up to the SAE's hook need {needed:.1f} GB of memory but "
            f"{free:.1f} GB available; close programs, or give a smaller dtype"
        )


def _token_accepted() -> bool | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().whoami()
    except HfHubHTTPError as error:
        return False if error.response.status_code in (401, 403) else None
    except Exception:
        # No network, whichever way that shows.
        return None
    return True


def _cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return HF_HUB_CACHE if os.path.isdir(HF_HUB_CACHE) else os.path.expanduser("~")


def _disk_free_gb() -> float:
    folder = Path(_cache())
    while not folder.exists():  # a home that is not there, as in some containers
        folder = folder.parent
    return shutil.disk_usage(folder).free / 1e9


def _memory_free_gb() -> float:
    import psutil

    return psutil.virtual_memory().available / 1e9
