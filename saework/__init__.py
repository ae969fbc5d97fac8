"""saework: published sparse-autoencoder analyses, reproduced in notebooks.

The names below are the package; everything else is how they are made. Importing costs no torch:
each name is fetched when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "Claim": "claims",
    "FeatureScan": "scanning",
    "Ledger": "claims",
    "Preflight": "shelf",
    "RareFeatures": "rare",
    "ReconsScore": "run",
    "TokenHeatmap": "heatmap",
    "Workbook": "shelf",
    "active_features": "run",
    "claims_of": "shelf",
    "compare": "matching",
    "explore": "explorer",
    "feature_activations": "run",
    "load": "shelf",
    "logit_effect": "run",
    "preflight": "shelf",
    "rare_features": "rare",
    "recons_score": "run",
    "releases": "shelf",
    "rule_agreement": "metrics",
    "scan": "scanning",
    "show": "tables",
    "str_tokens": "tokens",
    "token_df": "tokens",
    "token_heatmap": "heatmap",
    "vocab_df": "tokens",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from saework.claims import Claim, Ledger
    from saework.explorer import explore
    from saework.heatmap import TokenHeatmap, token_heatmap
    from saework.matching import compare
    from saework.metrics import rule_agreement
    from saework.rare import RareFeatures, rare_features
    from saework.run import ReconsScore, active_features, feature_activations, logit_effect, recons_score
    from saework.scanning import FeatureScan, scan
    from saework.shelf import Preflight, Workbook, claims_of, load, preflight, releases
    from saework.tables import show
    from saework.tokens import str_tokens, token_df, vocab_df


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"saework.{_HOME[name]}"), name)
    raise AttributeError(f"module 'saework' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
