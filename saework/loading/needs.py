"""What a load and each notebook need of a machine: the one table of sizes.

Numbers of a model's weights are exact. What a notebook needs beside the weights was measured where
the table says so, and is estimated elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saework.core.errors import UnknownNameError
from saework.loading.cut_models import FULL, HOOK, IN_BLOCK, TEXT

if TYPE_CHECKING:
    from saework.loading.release import Release

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""By a dtype's name: bytes of a number."""


@dataclass(frozen=True)
class ModelSize:
    """How many numbers a model's weights consist of."""

    embedding: int
    """Of tokens and positions."""
    block: int
    n_blocks: int
    behind: int
    """The final norm; and the unembedding, where it is not the embedding."""
    stored_bytes: int
    """Of one number, as published."""
    float16: bool = True
    """Whether its residual stream stays below float16's largest number, 65,504."""

    def n_values(self, n_blocks: int | None = None) -> int:
        """Numbers of the whole model, or of its embedding and so many blocks."""
        if n_blocks is None:
            return self.embedding + self.n_blocks * self.block + self.behind
        return self.embedding + min(n_blocks, self.n_blocks) * self.block


GEMMA_2_2B, GEMMA_2B = "google/gemma-2-2b", "google/gemma-2b"
GEMMA_3_270M, GPT2 = "google/gemma-3-270m", "gpt2"
LLAMA_1B = "meta-llama/Llama-3.2-1B-Instruct"
GELU_1L = "NeelNanda/GELU_1L512W_C4_Code"
MODELS = {
    GEMMA_2_2B: ModelSize(589_824_000, 77_865_984, 26, 2_304, 4, float16=False),
    GEMMA_2B: ModelSize(524_288_000, 110_104_576, 18, 2_048, 2, float16=False),
    GEMMA_3_270M: ModelSize(167_772_160, 5_573_632, 18, 640, 2, float16=False),
    GPT2: ModelSize(39_383_808, 7_087_872, 12, 1_536, 4),
    LLAMA_1B: ModelSize(262_668_288, 60_821_504, 16, 2_048, 2),
    GELU_1L: ModelSize(25_234_432, 3_152_384, 1, 24_759_430, 4),
}
"""By the model's name on the Hub."""


@dataclass(frozen=True)
class Need:
    """What is held at one time."""

    work_gb: float
    """Python with its packages, and the largest tensors that are no weights."""
    sae_values: float
    """Numbers of the SAEs; NaN where their size is not known beforehand."""
    model_values: float
    """Numbers of the model; NaN where its size is not known beforehand."""
    download_mb: float
    """Of the model, where nothing of it is on this machine."""
    depth: str = FULL
    """``full``; ``hook``: the embedding and the first blocks; or ``text``: the first blocks.

    A text's rows of the embedding are some megabytes, known when its tokens are.
    """

    def memory_gb(self, item_bytes: int) -> float:
        """Where everything is on one device, with weights of so many bytes a number."""
        return self.work_gb + (self.model_values + self.sae_values) * item_bytes / 1e9


@dataclass(frozen=True)
class Work:
    """What a notebook holds beside the model's weights."""

    gb: float
    """Python with its packages, and the largest tensors that are no weights; float32."""
    n_saes: float = 1
    """SAEs at one time, counted in the size of its release's default."""
    depth: str = FULL


OF_A_LOAD = Work(1.0)
"""Python with its packages takes 0.7 GB of it."""
_GELU_WORK = {
    "00_start_here": Work(2.4),  # 2.5 GB held in all
    "01_train_an_sae": Work(5.5),  # 5.2 GB held in all
    "02_gelu_1l_reading_a_feature": Work(4.1, n_saes=2),  # 4.4 GB held in all
    "03_gelu_1l_reconstruction": Work(3.8, n_saes=2),  # 3.9 GB held in all
    "04_gelu_1l_rare_features": Work(4.2, n_saes=2),  # 4.2 GB held in all
}
WORK: dict[str, dict[str, Work]] = {
    "gelu-1l": _GELU_WORK,
    "gemma-scope-2b-pt-res": {
        "05_gemma_scope_validation": Work(0.9, depth=HOOK),  # 3.5 GB held in all
        # two SAEs of the narrow width, and two four times as wide; 8.8 GB held in bfloat16
        "06_gemma_scope_frontier": Work(2.9, n_saes=10),
    },
    # one narrow SAE of the release is its size here; the wide ones count four times
    "gemma-scope-2-270m-pt-res": {
        "02_gelu_1l_reading_a_feature": Work(4.0, n_saes=2),
        "03_gelu_1l_reconstruction": Work(4.5, n_saes=2),
        "05_gemma_scope_validation": Work(1.8, depth=HOOK),
        "06_gemma_scope_frontier": Work(3.4, n_saes=10),  # 5.2 GB held, up to section 5
        "08_llama_steering": Work(5.0),
    },
    "gpt2-small-res-jb": {
        "02_gelu_1l_reading_a_feature": Work(3.0),
        "03_gelu_1l_reconstruction": Work(3.5, n_saes=2),
        "05_gemma_scope_validation": Work(2.6, depth=HOOK),  # 2.8 GB held in all
        "08_llama_steering": Work(4.4),  # 3.1 GB held, of two prompts
    },
    # 7.7 GB held in bfloat16
    "gemma-2b-res-jb": {"07_gemma_2b_residual_saes": Work(3.2, n_saes=2)},
    # 5.2 GB held in bfloat16
    "llama-3.2-1b-qresearch": {"08_llama_steering": Work(3.2)},
}
"""By release and notebook, estimated; where none is given, a load's. On a mini it is enough."""


def need_of_notebook(release: Release, notebook: str) -> Need:
    """What one of a release's notebooks needs."""
    work = WORK.get(release.name, {}).get(notebook, OF_A_LOAD)
    return _need(release, None, work, work.depth)


def need_of_load(release: Release, sae_id: str | int | None, depth: str = FULL) -> Need:
    """What ``load`` needs, for an SAE of the release or of this machine."""
    return _need(release, sae_id, OF_A_LOAD, depth)


def _need(release: Release, sae_id: str | int | None, work: Work, depth: str) -> Need:
    try:
        sae = release.sae(sae_id)
        hook, n_values = sae.hook, sae.n_values or math.nan
    except UnknownNameError:  # an SAE on this machine: its size and hook are known later
        hook, n_values = "", 0
    model_values = download_mb = 0.0
    if not release.offline:
        model_values, stored_bytes = _model_values(release, hook, depth)
        download_mb = model_values * stored_bytes / 1e6
    return Need(
        work_gb=work.gb,
        sae_values=work.n_saes * n_values,
        model_values=model_values,
        download_mb=download_mb,
        depth=depth,
    )


def _model_values(release: Release, hook: str, depth: str) -> tuple[float, int]:
    """Numbers of the model to be held, and bytes of each as published; NaN where not known."""
    size = MODELS.get(release.repositories["model"].name)
    block = IN_BLOCK.match(hook)
    if size is None:
        return math.nan, 0
    if depth == FULL:
        return size.n_values(), size.stored_bytes
    if block is None:
        return math.nan, 0
    n_values = size.n_values(int(block[1]) + 1)
    if depth == TEXT:
        n_values -= size.embedding
    return n_values, size.stored_bytes


def memory_gb(release: Release, item_bytes: int = 4) -> float:
    """What the largest of a release's notebooks needs; of one without notebooks, a load."""
    needs = [need_of_notebook(release, name) for name in release.notebooks]
    needs = needs or [need_of_load(release, None)]
    return max(need.memory_gb(item_bytes) for need in needs)
