"""Which versions are installed, and whether the session runs on them."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

# What an install may replace under a running session, and what then breaks far from its cause.
WATCHED = (
    "numpy",
    "torch",
    "pandas",
    "pyarrow",
    "transformers",
    "tokenizers",
    "huggingface_hub",
    "sae_lens",
)


def replaced_versions() -> list[str]:
    """Packages whose loaded version is not the installed one: an install replaced them after the session had begun."""
    found = []
    for name in WATCHED:
        loaded = getattr(sys.modules.get(name), "__version__", None)
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue
        if loaded is not None and str(loaded).partition("+")[0] != installed.partition("+")[0]:
            found.append(f"{name} {loaded} is loaded but {installed} is installed")
    return found


def check_versions() -> None:
    """Raise RuntimeError, before anything is downloaded or computed, if the session runs on packages that were replaced."""
    if found := replaced_versions():
        remedy = "an install replaced it after this session had begun; restart the session, and run all cells again"
        raise RuntimeError(f"{'; '.join(found)}: {remedy}")
