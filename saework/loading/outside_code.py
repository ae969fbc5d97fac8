"""What a published repository may not do here: run code of its own, or have programs started."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saework.core.errors import WeightsError
from saework.core.files import read_json

_BOOTING = threading.Lock()  # one guard at a time, so that each puts back what it found


def refuse_own_code(file: Path, auto_classes: tuple[str, ...]) -> dict[str, Any]:
    """The contents of a config that names no Python code of its repository.

    Args:
        file: a JSON file of transformers; one that does not exist is empty.
        auto_classes: what must not be custom, such as ``AutoTokenizer``.

    Raises:
        WeightsError: for damaged files, and for those that name such code (``auto_map``).
    """
    config = read_json(file) if file.exists() else {}
    auto_map = config.get("auto_map") or {}
    if isinstance(auto_map, dict):
        custom = [name for name in auto_classes if name in auto_map]
    else:
        custom = [str(auto_map)]  # older tokenizers list their classes
    if custom:
        raise WeightsError(
            f"{file} asks for Python code of its own repository (auto_map: {', '.join(custom)}), "
            "and saework never runs such code; read the code, load this model yourself if you "
            "trust it, and build a saework.Workbook(...) of it"
        )
    return config


@contextmanager
def no_programs_started() -> Iterator[None]:
    """Let no program be started from this thread, as by TransformerLens's ``pip install``.

    TransformerLens installs torchvision when a model's image processor cannot be read. That can
    replace torch. The failed attempt is an ``OSError``, which TransformerLens passes over.
    """
    this_thread = threading.get_ident()

    with _BOOTING:
        original: Any = subprocess.Popen.__init__

        def start(self: Any, *args: Any, **options: Any) -> None:
            if threading.get_ident() == this_thread:
                raise PermissionError("saework starts no program while it loads a model")
            original(self, *args, **options)

        popen: Any = subprocess.Popen
        popen.__init__ = start
        try:
            yield
        finally:
            popen.__init__ = original
