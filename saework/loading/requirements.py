"""What a load will need, and whether this machine and account have it, before anything is downloaded."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass

from saework.core.errors import NotAvailableError
from saework.core.versions import check_versions
from saework.loading.catalogue import Release, release_named
from saework.loading.hub import NEW_TOKEN

_GATE = {True: "licence to accept on the Hub", False: "none", None: "not known beforehand"}


@dataclass(frozen=True)
class Preflight:
    """What a load will need, and whether this machine and account have it."""

    release: str
    download_mb: float
    """Still to be downloaded."""
    cached_mb: float
    """On this machine already."""
    disk_free_gb: float
    memory_gb: float
    """Needed, float32."""
    memory_free_gb: float
    """Available on this machine now."""
    licence: str
    gated: bool | None
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
        return (
            "present, "
            + {None: "not checked", True: "accepted", False: "refused"}[self.token_accepted]
        )

    def __repr__(self) -> str:
        memory = (
            "size not known beforehand"
            if math.isnan(self.memory_gb)
            else f"{self.memory_gb:.1f} GB needed"
        )
        lines = [
            f"{self.release}: {'ready' if self.ok else 'not ready'}",
            f"  download  {_megabytes(self.download_mb)} ({self.cached_mb:.0f} MB are here already)",
            f"  disk      {self.disk_free_gb:.1f} GB free",
            f"  memory    {memory}, {self.memory_free_gb:.1f} GB available",
            f"  licence   {self.licence}",
            f"  gate      {_GATE[self.gated]}; token {self._token()}",
        ]
        return "\n".join([*lines, *(f"  ! {problem}" for problem in self.problems)])


def _megabytes(size: float) -> str:
    return "size not known beforehand" if math.isnan(size) else f"{size:.0f} MB"


def preflight(name: str, sae_id: str | int | None = None, *more_ids: str | int) -> Preflight:
    """What ``load(name, sae_id)`` will need, and whether it can be had. Downloads no weights.

    Args: ``more_ids``: SAEs of the release that will be loaded as well.

    Asks the Hub only about what is not in the cache. Sizes of a release that is not a curated one are
    not known beforehand: NaN.
    Raises: UnknownNameError for a name or id that does not exist.
    """
    from huggingface_hub import get_token

    release = release_named(name)
    cached_mb = missing_mb = 0.0
    problems, refused = [], []
    for part, file, size_mb in dict.fromkeys(
        file for each in (sae_id, *more_ids) for file in release.files(each)
    ):
        repository = release.repositories[part]
        if repository.cached(file):
            cached_mb += size_mb
            continue
        missing_mb += size_mb
        if repository not in refused and (problem := repository.access_problem(file)):
            problems.append(problem)
            refused.append(repository)
    missing_mb = float("nan") if math.isnan(release.memory_gb) else missing_mb
    token, accepted = bool(get_token()), None
    if token and release.gated and missing_mb:
        accepted = _token_accepted()
        if accepted is False:
            problems.append(f"the Hub refuses the token that is set on this machine; {NEW_TOKEN}")
    return Preflight(
        release=name,
        download_mb=missing_mb,
        cached_mb=cached_mb,
        disk_free_gb=_disk_free_gb(),
        memory_gb=release.memory_gb,
        memory_free_gb=_memory_free_gb(),
        licence=release.licence,
        gated=release.gated,
        token=token,
        token_accepted=accepted,
        problems=(*problems, *resource_problems(release, missing_mb)),
    )


def resource_problems(release: Release, missing_mb: float) -> list[str]:
    """Why this machine's disk or memory would not do for a load, each with its remedy."""
    problems, disk_free, memory_free = [], _disk_free_gb(), _memory_free_gb()
    if missing_mb / 1e3 > disk_free:
        problems.append(
            f"{missing_mb / 1e3:.1f} GB to download but {disk_free:.1f} GB free in {_cache()}; make room, or set HF_HOME to another disk"
        )
    if release.memory_gb > memory_free:
        short = (
            f"about {release.memory_gb:.1f} GB of memory needed but {memory_free:.1f} GB available"
        )
        problems.append(f"{short}; close programs, or use {release.family[0]}")
    return problems


def check_resources(release: Release, sae_id: str | int | None, *, local: bool = False) -> None:
    """Raise, before anything is downloaded, if disk or memory will not do, or packages were replaced; ``local``: the SAE is here.

    Raises: NotAvailableError; RuntimeError for packages whose loaded version is not the installed one.
    """
    check_versions()
    files = [
        (part, file, size)
        for part, file, size in release.files(None if local else sae_id)
        if size and not (local and part == "sae")
    ]
    missing = [size for part, file, size in files if not release.repositories[part].cached(file)]
    if problems := resource_problems(release, sum(missing)):
        raise NotAvailableError("; ".join(problems))


def _token_accepted() -> bool | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().whoami()
    except HfHubHTTPError as error:
        return False if error.response.status_code in (401, 403) else None
    except Exception:  # no network, whichever way that shows
        return None
    return True


def _cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return HF_HUB_CACHE if os.path.isdir(HF_HUB_CACHE) else os.path.expanduser("~")


def _disk_free_gb() -> float:
    return shutil.disk_usage(_cache()).free / 1e9


def _memory_free_gb() -> float:
    import psutil

    return psutil.virtual_memory().available / 1e9
