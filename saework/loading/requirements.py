"""What a load needs, and whether this machine and account have it, before any download."""

from __future__ import annotations

import math
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from saework.core.errors import NotAvailableError
from saework.core.lines import problem_lines, wrapped
from saework.core.versions import check_versions
from saework.loading.catalogue import is_curated, release_named
from saework.loading.hub import NEW_TOKEN, Repository, gated_words
from saework.loading.hub_patience import GLANCE_S, Patience, access_problems, is_public_hub
from saework.loading.needs import FULL, need_of_load
from saework.loading.plans import (
    Machine,
    Plan,
    check_device,
    plan_load,
    plan_notebook,
    remark,
    this_machine,
)
from saework.loading.release import Release

if TYPE_CHECKING:
    import torch

FORCE = "SAEWORK_FORCE"
"""The environment variable by which ``saework reproduce --force`` reaches its notebooks."""
_GATE = {True: "licence to accept on the Hub", False: "none", None: "not known beforehand"}


@dataclass(frozen=True)
class Preflight:
    """What a load needs, and whether this machine and account have it."""

    release: str
    """Its name."""
    download_mb: float
    """Still to be downloaded; for the notebooks alone, where the load does not fit and they do."""
    cached_mb: float
    """On this machine already."""
    disk_free_gb: float
    """Where the Hub's cache is."""
    memory_gb: float
    """Needed by ``plan``."""
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
    access_problems: tuple[str, ...]
    """What would stop the download, the disk's size included, each with its remedy."""
    memory_problem: str
    """Why the load does not fit, and what would; empty if it does."""
    plan: Plan
    """How ``load`` would run: device, dtype, depth."""
    notebook_plans: dict[str, Plan]
    """How each of the release's notebooks would run here; the smallest plan, if none fits."""
    too_large: tuple[str, ...]
    """The notebooks that do not fit."""
    notes: tuple[str, ...] = ()
    """What to know of these plans."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What would stop the load, each with its remedy; empty if nothing would."""
        return (*self.access_problems, *filter(None, [self.memory_problem]))

    @property
    def problems_of_notebooks(self) -> tuple[str, ...]:
        """What would stop all of the release's notebooks; empty if one can be run."""
        if self.notebook_plans and len(self.too_large) < len(self.notebook_plans):
            return self.access_problems
        return self.problems

    @property
    def ok(self) -> bool:
        """Whether the load can go ahead."""
        return not self.problems

    def _notebook_line(self, name: str) -> str:
        plan = self.notebook_plans[name]
        verdict = "  too large" if name in self.too_large else ""
        return f"  {name:28} {plan}: {plan.memory_gb:.1f} GB{verdict}"

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
            f"  plan      {self.plan}",
            f"  licence   {self.licence}",
            f"  gate      {_GATE[self.gated]}; token {self._token()}",
            *(self._notebook_line(name) for name in self.notebook_plans),
            *(wrapped(note, first="  note      ", rest=" " * 12) for note in self.notes),
        ]
        return "\n".join([*lines, *problem_lines(self.problems)])


def _unless_unknown(size: str) -> str:
    return "size not known beforehand" if size.startswith("nan") else size


def preflight(
    name: str,
    sae_id: str | int | None = None,
    *more_ids: str | int,
    device: str | None = None,
    dtype: str | None = None,
    depth: str = FULL,
    force: bool = False,
    wait_s: float | None = None,
) -> Preflight:
    """What ``load(name, sae_id)`` needs, and what stands in its way; downloads no weights.

    Asks the Hub only about what is not in the cache. Sizes of a release that is not a curated one
    are not known beforehand: NaN.

    Args:
        name: of a release.
        sae_id: as ``load`` takes it.
        more_ids: SAEs of the release that will be loaded as well.
        device: as ``load`` takes it, in words.
        dtype: its name; for the notebooks float32 by default, or bfloat16 where that alone fits.
        depth: as ``load`` takes it.
        force: too small a disk or memory is a note, and no problem.
        wait_s: for the Hub's answers, at most; by default 1.5 seconds for a curated release, and 10
            for any other.

    Raises:
        UnknownNameError: for a name or id that does not exist.
        NotAvailableError: for a device that is not there.

    >>> preflight("gelu-1l-mini").download_mb
    0.0
    """
    from huggingface_hub import get_token

    release = release_named(name)
    machine = this_machine(device)
    check_device(device, machine)
    plan, memory_problem = plan_load(
        release, sae_id, machine, device=device, dtype=dtype or "float32", depth=depth
    )
    plans_and_fits = {
        notebook: plan_notebook(release, notebook, machine, device=device, dtype=dtype)
        for notebook in release.notebooks
    }
    notebook_plans = {notebook: planned for notebook, (planned, _) in plans_and_fits.items()}
    if wait_s is None and is_curated(name):
        wait_s = GLANCE_S
    token, patience = bool(get_token()), Patience(limit_s=wait_s)
    sae_ids, note = (sae_id, *more_ids), ""
    fitting = [planned for planned, fits in plans_and_fits.values() if fits]
    if memory_problem and not force and fitting and all(one.depth != FULL for one in fitting):
        sae_ids, depth = sae_ids[:1], fitting[0].depth
        note = "the download is that of the notebooks that fit: first blocks, and one SAE"
    cached_mb, missing_mb, problems = _availability(release, sae_ids, depth, token, patience)
    is_asked = token and release.gated and missing_mb and not patience.is_over
    accepted = _token_accepted(patience) if is_asked else None
    if accepted is False:
        problems.append(f"the Hub refuses the token that is set on this machine; {NEW_TOKEN}")
    plans = [plan, *notebook_plans.values()]
    notes = [*(remark(release, one, machine) for one in plans), note]
    too_large = tuple(name for name, (_, fits) in plans_and_fits.items() if not fits)
    disk_problems = _disk_problems(missing_mb)
    if force:
        notes += [*disk_problems, memory_problem]
        disk_problems, memory_problem, too_large = [], "", ()
    return Preflight(
        release=name,
        download_mb=missing_mb,
        cached_mb=cached_mb,
        disk_free_gb=_disk_free_gb(),
        memory_gb=plan.memory_gb,
        memory_free_gb=machine.free_gb(plan.device),
        licence=release.licence,
        gated=release.gated,
        token=token,
        token_accepted=accepted,
        access_problems=(*problems, *disk_problems),
        memory_problem=memory_problem,
        plan=plan,
        notebook_plans=notebook_plans,
        too_large=too_large,
        notes=tuple(dict.fromkeys(filter(None, notes))),
    )


def _availability(
    release: Release,
    sae_ids: Iterable[str | int | None],
    depth: str,
    token: bool,
    patience: Patience,
) -> tuple[float, float, list[str]]:
    """MB in the cache, MB to download, and what stands in the way, once per repository."""
    files = dict.fromkeys(file for sae_id in sae_ids for file in release.files(sae_id))
    cached_mb = missing_mb = 0.0
    locked: dict[str, str] = {}
    missing: list[tuple[Repository, str]] = []
    for part, file, size_mb in files:
        repository = release.repositories[part]
        if repository.cached(file):
            cached_mb += size_mb
            continue
        if depth != FULL and part == "model" and size_mb:
            size_mb = need_of_load(release, None, depth).download_mb
        missing_mb += size_mb
        missing.append((repository, file))
        if release.gated and part == "model" and not token and is_public_hub():
            locked[repository.name] = gated_words(repository.name)
    if math.isnan(need_of_load(release, None).memory_gb(4)):
        missing_mb = math.nan
    return cached_mb, missing_mb, access_problems(missing, locked, patience)


def _disk_problems(missing_mb: float) -> list[str]:
    """Why this machine's disk would not do for a download, with the remedy."""
    missing_gb, free_gb = missing_mb / 1e3, _disk_free_gb()
    if not missing_gb > free_gb:
        return []
    return [
        f"{missing_gb:.1f} GB to download but {free_gb:.1f} GB free in {_cache()}; "
        "make room, or set HF_HOME to another disk"
    ]


def plan_of_load(
    release: Release,
    sae_id: str | int | None,
    *,
    local: bool = False,
    device: torch.device | None = None,
    dtype: torch.dtype,
    depth: str = FULL,
    force: bool = False,
) -> Plan:
    """How a load runs here; refused, before any download, if disk or memory is too small.

    Args:
        release: what is to be loaded.
        sae_id: which of its SAEs.
        local: the SAE is on this machine, so it is not counted.
        device: asked for; else a GPU if there is one that is large enough.
        dtype: of the weights.
        depth: as ``load`` takes it.
        force: warn instead of refusing.

    Raises:
        NotAvailableError: for too small a disk or memory, or a device that is not there.
        RuntimeError: for packages whose loaded version is not the installed one.
    """
    check_versions()
    asked = None if device is None else str(device)
    machine = this_machine(asked)
    check_device(asked, machine)
    plan, memory_problem = plan_load(
        release,
        sae_id,
        machine,
        device=asked,
        dtype=str(dtype).removeprefix("torch."),
        item_bytes=dtype.itemsize,
        depth=depth,
    )
    missing_mb = 0.0
    for part, file, size_mb in release.files(None if local else sae_id):
        left_out = (local and part == "sae") or (depth != FULL and part == "model")
        counted = size_mb and not left_out
        if counted and not release.repositories[part].cached(file):
            missing_mb += size_mb
    problems = [*_disk_problems(missing_mb), *filter(None, [memory_problem])]
    force = force or bool(os.environ.get(FORCE))
    if problems and not force:
        raise NotAvailableError("; ".join(problems))
    for warning in (*problems, remark(release, plan, machine), _not_on_gpu(plan, machine, asked)):
        if warning:
            warnings.warn(warning, stacklevel=3)
    return plan


@contextmanager
def forced(force: bool) -> Iterator[None]:
    """Whether the loads of processes that are started inside go ahead where a plan does not fit."""
    if not force:
        yield
        return
    os.environ[FORCE] = "1"
    try:
        yield
    finally:
        del os.environ[FORCE]


def _not_on_gpu(plan: Plan, machine: Machine, asked: str | None) -> str:
    """Why a load does not run on the GPU that is there; empty if it does, or was not to."""
    if asked or machine.gpu is None or plan.device != "cpu":
        return ""
    return (
        f"{plan.memory_gb:.1f} GB are needed and the {machine.gpu.name} has "
        f'{machine.gpu.free_gb:.1f} GB free, so it runs on the CPU; dtype="bfloat16" takes half'
    )


def check_memory(n_bytes: int, device: str = "cpu") -> None:
    """Refuse a model, before it is downloaded, whose weights do not fit where they will be held.

    Args:
        n_bytes: of its weights, as they will be held.
        device: where.

    Raises:
        NotAvailableError: which says how much is needed.
    """
    needed, free = n_bytes / 1e9, this_machine().free_gb(device)
    if needed > free:
        raise NotAvailableError(
            f"the model's blocks up to the SAE's hook need {needed:.1f} GB of memory but "
            f"{free:.1f} GB available ({device}); close programs, or give a smaller dtype"
        )


def _token_accepted(patience: Patience) -> bool | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        patience.ask(HfApi().whoami)
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
