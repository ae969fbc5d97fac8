"""An SAE from a file or folder on this machine, known by what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from saework.core.errors import WeightsError
from saework.loading.catalogue import SAE_LAYOUTS

if TYPE_CHECKING:
    from sae_lens import SAE


def read_sae(path: str | Path, *, hook: str | None = None) -> SAE[Any]:
    """An SAE from a local file or folder of any layout of the catalogue.

    Args:
        path: a file or folder, such as ``params.npz`` or a folder with ``cfg.json``.
        hook: where it belongs, for layouts that do not say. Gemma Scope's residual SAEs say their
            layer in the folder (``layer_5/width_16k/...``: the layer's output), qresearch's in the
            file name (``...-l9.pt``: the layer's input), sae_lens's in ``cfg.json``.

    Raises:
        WeightsError: if it is of none of the layouts.
        HookError: if nothing says where it belongs.
    """
    path = Path(path).absolute()  # so that an error names more than a file of "."
    if not path.exists():
        raise WeightsError(f"{path} does not exist; check the path")
    # The first layout that finds its files decides: a .pt file without a config is qresearch's.
    for layout in SAE_LAYOUTS.values():
        files = layout.find(path)
        if files:
            hook = hook or layout.hook_named_by(files[-1])
            return layout.read(files, hook=hook)
    looks = [layout.looks_like for layout in SAE_LAYOUTS.values()]
    last = looks.pop()
    known = ", ".join(looks)
    raise WeightsError(f"{path} is of none of the known layouts: {known}, or {last}")
