"""What the ids of published suites mean: files, hooks, widths."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=None)
def registry() -> dict:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    return get_pretrained_saes_directory()
