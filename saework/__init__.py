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
    "FeaturePage": "page_view",
    "FeatureScan": "feature_scan",
    "Ledger": "claims",
    "Preflight": "readiness",
    "RareFeatures": "rare",
    "ReconsScore": "scoring",
    "Steering": "steering",
    "TokenHeatmap": "heatmap",
    "Workbook": "shelf",
    "active_features": "features",
    "chat_tokens": "corpus",
    "claims_of": "shelf",
    "compare": "matching",
    "explore": "explorer",
    "feature_activations": "features",
    "feature_page": "pages",
    "feature_pages": "pages",
    "find_site": "quality",
    "load": "shelf",
    "logit_effect": "features",
    "permute_features": "permuting",
    "preflight": "readiness",
    "rare_features": "rare",
    "read_reference": "validation",
    "recons_score": "scoring",
    "reconstruction_metrics": "quality",
    "releases": "shelf",
    "rule_agreement": "metrics",
    "scan": "scanning",
    "select_features": "permuting",
    "show": "tables",
    "sparse_probe": "probing",
    "steer": "steering",
    "str_tokens": "tokens",
    "token_df": "tokens",
    "token_heatmap": "heatmap",
    "validate": "validation",
    "vocab_df": "tokens",
    "write_reference": "validation",
}
__all__ = sorted(_HOME)
_MODULES = ("saebench",)  # their names say what they are about: saework.saebench.read(...)

if TYPE_CHECKING:
    from saework.claims import Claim, Ledger
    from saework.corpus import chat_tokens
    from saework.explorer import explore
    from saework.feature_scan import FeatureScan
    from saework.features import active_features, feature_activations, logit_effect
    from saework.heatmap import TokenHeatmap, token_heatmap
    from saework.matching import compare
    from saework.metrics import rule_agreement
    from saework.page_view import FeaturePage
    from saework.pages import feature_page, feature_pages
    from saework.permuting import permute_features, select_features
    from saework.probing import sparse_probe
    from saework.quality import find_site, reconstruction_metrics
    from saework.rare import RareFeatures, rare_features
    from saework.readiness import Preflight, preflight
    from saework.scanning import scan
    from saework.scoring import ReconsScore, recons_score
    from saework.shelf import Workbook, claims_of, load, releases
    from saework.steering import Steering, steer
    from saework.tables import show
    from saework.tokens import str_tokens, token_df, vocab_df
    from saework.validation import read_reference, validate, write_reference


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"saework.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"saework.{name}")
    raise AttributeError(f"module 'saework' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, *_MODULES, "__version__"]
