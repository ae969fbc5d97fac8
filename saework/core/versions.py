"""Which versions are installed, and whether the session runs on them."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

# What an install may replace under a running session; what then breaks is far from the cause.
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
NAMED = ("saework", "torch", "transformer_lens", "sae_lens", "transformers", "numpy")
"""Packages whose versions stand at the foot of a page."""


def installed_versions() -> list[str]:
    """What a page says that it was made with: packages, Python, and the machine's system."""
    packages = [f"{name} {version(name)}" for name in NAMED]
    return [*packages, f"Python {platform.python_version()}", platform.platform()]


def replaced_versions() -> list[str]:
    """Packages that an install replaced after the session began.

    Returns:
        One sentence for each package whose loaded version is not the installed one.
    """
    replaced = []
    for name in WATCHED:
        loaded = getattr(sys.modules.get(name), "__version__", None)
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue
        # 2.6.0+cu126 and 2.6.0 are two builds of one version
        if loaded is not None and _public(str(loaded)) != _public(installed):
            replaced.append(f"{name} {loaded} is loaded but {installed} is installed")
    return replaced


def _public(full_version: str) -> str:
    return full_version.partition("+")[0]


def check_versions() -> None:
    """Stop before anything is downloaded or computed, if packages were replaced.

    Raises:
        RuntimeError: the session runs on a version that is no longer installed.
    """
    replaced = replaced_versions()
    if replaced:
        raise RuntimeError(
            f"{'; '.join(replaced)}: an install replaced it after this session had begun; "
            "restart the session, and run all cells again"
        )
