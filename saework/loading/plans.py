"""Plans: on which device, in which dtype, and how much of the model, on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saework.core.errors import NotAvailableError
from saework.loading.cut_models import DEPTHS
from saework.loading.needs import (
    FULL,
    ITEM_BYTES,
    MODELS,
    Need,
    need_of_load,
    need_of_notebook,
)

if TYPE_CHECKING:
    from saework.loading.release import Release

HOST_BESIDE_A_GPU_GB = 3.0
"""Python, the GPU's libraries, and one SAE on its way; the model's shards pass one by one."""
BY_ITSELF = ("float32", "bfloat16")
"""Dtypes that are chosen when none is asked for, in this order: tolerances hold in the first.

float16 is never chosen: Gemma's residual stream can pass its largest number.
"""


@dataclass(frozen=True)
class Gpu:
    """A CUDA device."""

    name: str
    free_gb: float
    has_bfloat16: bool
    """Whether it computes in bfloat16; torch emulates that on others (a T4, for example)."""


@dataclass(frozen=True)
class Machine:
    """What this machine has now."""

    memory_gb: float
    """Of the host, available."""
    gpu: Gpu | None = None
    has_bfloat16: bool = True
    """Whether its processor computes in it; others are slow."""

    def free_gb(self, device: str) -> float:
        """What a model on the device can take."""
        if device.startswith("cuda"):
            return self.gpu.free_gb if self.gpu else 0.0
        return self.memory_gb


@dataclass(frozen=True)
class Plan:
    """How a load or a notebook is run, and what that needs."""

    device: str
    dtype: str
    depth: str
    memory_gb: float
    """Needed on the device; NaN where it is not known beforehand."""

    @property
    def host_gb(self) -> float:
        """Needed of the machine's own memory."""
        return HOST_BESIDE_A_GPU_GB if self.device.startswith("cuda") else self.memory_gb

    def fits(self, machine: Machine) -> bool:
        """Whether the machine has it; what is not known beforehand is never refused."""
        is_too_large = self.memory_gb > machine.free_gb(self.device)
        return not (is_too_large or self.host_gb > machine.memory_gb)

    def __str__(self) -> str:
        return f"{self.device}, {self.dtype}, {self.depth}"


def this_machine(device: str | None = None) -> Machine:
    """What this machine has; of several GPUs, the one that is named."""
    import psutil
    import torch

    from saework.engine.products import has_fast_products

    memory_gb = psutil.virtual_memory().available / 1e9
    if not torch.cuda.is_available():
        return Machine(memory_gb, has_bfloat16=has_fast_products(torch.bfloat16))
    index = device if device and device.startswith("cuda") else "cuda"
    free, _ = torch.cuda.mem_get_info(index)
    gpu = Gpu(
        name=torch.cuda.get_device_name(index),
        free_gb=free / 1e9,
        has_bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
    )
    return Machine(memory_gb, gpu, has_fast_products(torch.bfloat16))


def candidates(
    need: Need,
    machine: Machine,
    *,
    device: str | None = None,
    dtypes: Iterable[str] = BY_ITSELF,
    item_bytes: int | None = None,
) -> list[Plan]:
    """All ways to run it, the best first: in float32, and on the GPU.

    Args:
        need: what is held.
        machine: where.
        device: the only one, if one is asked for.
        dtypes: in order of preference.
        item_bytes: of a dtype that is not in the table.
    """
    devices = [device] if device else (["cuda"] if machine.gpu else []) + ["cpu"]
    plans = []
    for dtype in dtypes:
        memory_gb = need.memory_gb(item_bytes or ITEM_BYTES[dtype])
        plans += [Plan(one, dtype, need.depth, memory_gb) for one in devices]
    return plans


def plan_notebook(
    release: Release,
    notebook: str,
    machine: Machine,
    *,
    device: str | None = None,
    dtype: str | None = None,
) -> tuple[Plan, bool]:
    """How a notebook of a release is run here, and whether it fits; else the smallest plan.

    Args:
        release: of the notebook.
        notebook: its name, such as ``05_gemma_scope_validation``.
        machine: where.
        device: asked for; else the best that fits.
        dtype: asked for, by name; else float32 if that fits, or bfloat16.
    """
    need = need_of_notebook(release, notebook)
    dtypes: tuple[str, ...] = BY_ITSELF[:1] if release.offline else BY_ITSELF
    if dtype:
        dtypes = (dtype,)
    plans = candidates(need, machine, device=device, dtypes=dtypes)
    for plan in plans:
        if plan.fits(machine):
            return plan, True
    return plans[-1], False


def plan_load(
    release: Release,
    sae_id: str | int | None,
    machine: Machine,
    *,
    device: str | None = None,
    dtype: str = "float32",
    item_bytes: int | None = None,
    depth: str = FULL,
) -> tuple[Plan, str]:
    """How a load is run here, and why that does not fit (empty if it does).

    Args:
        release: of the load.
        sae_id: as ``load`` takes it.
        machine: where.
        device: asked for; else a GPU if there is one that is large enough.
        dtype: its name.
        item_bytes: of a dtype that is not in the table.
        depth: as ``load`` takes it.
    """
    need = need_of_load(release, sae_id, depth)
    plans = candidates(need, machine, device=device, dtypes=[dtype], item_bytes=item_bytes)
    for plan in plans:
        if plan.fits(machine):
            return plan, ""
    plan = plans[-1]
    nearest = _nearest(release, sae_id, machine, plan)
    return plan, _refusal(release, plan, machine, nearest)


def _nearest(
    release: Release, sae_id: str | int | None, machine: Machine, refused: Plan
) -> list[Plan]:
    """Plans that fit, each nearer to what was asked for than the next; at most two."""
    depths = [refused.depth]
    if release.model_layout.can_be_cut:
        depths = list(DEPTHS[DEPTHS.index(refused.depth) :])
    dtypes = dict.fromkeys((refused.dtype, "bfloat16"))
    known = [dtype for dtype in dtypes if dtype in ITEM_BYTES]
    plans = []
    for depth in depths:
        need = need_of_load(release, sae_id, depth)
        plans += candidates(need, machine, dtypes=known)
    fitting = [plan for plan in plans if plan.fits(machine) and plan.memory_gb == plan.memory_gb]
    return fitting[:2]


def _refusal(release: Release, plan: Plan, machine: Machine, nearest: Iterable[Plan]) -> str:
    needed_gb, free_gb, asked = plan.memory_gb, machine.free_gb(plan.device), str(plan)
    if not needed_gb > free_gb:
        needed_gb, free_gb, asked = plan.host_gb, machine.memory_gb, f"the host, beside {plan}"
    parts = []
    for other in nearest:
        words = [f'device="{other.device}"'] if other.device != plan.device else []
        words += [f'dtype="{other.dtype}"'] if other.dtype != plan.dtype else []
        words += [f'depth="{other.depth}"'] if other.depth != plan.depth else []
        parts.append(f"{', '.join(words)} ({other.memory_gb:.1f} GB)")
    fitting = f"what fits: {' or '.join(parts)}; or " if parts else ""
    return (
        f"about {needed_gb:.1f} GB of memory needed but {free_gb:.1f} GB available ({asked}); "
        f"{fitting}close programs, use {release.family[0]}, or force it (force=True, --force)"
    )


def check_device(device: str | None, machine: Machine) -> None:
    """Refuse a GPU that is not there.

    Raises:
        NotAvailableError: which names what is.
    """
    if device is not None and device.startswith("cuda") and machine.gpu is None:
        raise NotAvailableError(
            f"device is {device!r}, and torch sees no CUDA GPU on this machine; give 'cpu', or "
            "install a torch for your GPU"
        )


def remark(release: Release, plan: Plan, machine: Machine) -> str:
    """What to know of a plan's dtype; empty if nothing."""
    size = MODELS.get(release.repositories["model"].name)
    if plan.dtype == "float16" and size is not None and not size.float16:
        return (
            "this model's residual stream can pass 65,504, the largest number of float16, and "
            "give NaN; bfloat16 takes as little memory"
        )
    on_gpu = plan.device.startswith("cuda")
    if plan.dtype == "bfloat16" and on_gpu and machine.gpu and not machine.gpu.has_bfloat16:
        return f"the {machine.gpu.name} has no bfloat16 of its own: torch emulates it, more slowly"
    if plan.dtype != "float32" and not on_gpu and not machine.has_bfloat16:
        return (
            f"this processor does not compute in {plan.dtype}: a model takes several times as "
            "long as in float32"
        )
    return ""
