"""saework: published sparse-autoencoder analyses, reproduced in notebooks.

The names below are the package; everything else is how they are made. Importing costs no torch:
each name is fetched when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from saework.analysis import probing, steering
    from saework.analysis.features import active_features, feature_activations, logit_effect
    from saework.analysis.probing import sparse_probe
    from saework.analysis.rare import RareFeatures, rare_features
    from saework.analysis.reconstruction import (
        ReconsScore,
        recons_score,
        reconstruction_metrics,
    )
    from saework.analysis.reference import (
        claims_of_reference,
        read_reference,
        validate,
        write_reference,
    )
    from saework.analysis.renumbering import permute_features, select_features
    from saework.analysis.scanning.feature_scan import FeatureScan
    from saework.analysis.scanning.run_scan import scan
    from saework.analysis.similarity import compare
    from saework.analysis.sites import find_site
    from saework.analysis.steering import Steering, steer
    from saework.core import formulas
    from saework.core.errors import HookError, NotAvailableError, UnknownNameError, WeightsError
    from saework.core.formulas import rule_agreement
    from saework.core.ledger import Claim, Ledger
    from saework.core.tokens import str_tokens, token_df, vocab_df
    from saework.engine.forward import activations, token_losses
    from saework.loading import corpus
    from saework.loading.catalogue import claims_of, release_named, releases
    from saework.loading.corpus import chat_tokens
    from saework.loading.requirements import Preflight, preflight
    from saework.loading.workbook import Workbook, load
    from saework.studies import feature_ordering, saebench
    from saework.views import plots
    from saework.views.explorer.explorer import explore, text_heatmap
    from saework.views.feature_page.page import FeaturePage
    from saework.views.feature_page.write import feature_page, feature_pages
    from saework.views.heatmap import TokenHeatmap, token_heatmap
    from saework.views.tables import show, versions

_HOME = {
    "Claim": "core.ledger",
    "FeaturePage": "views.feature_page.page",
    "FeatureScan": "analysis.scanning.feature_scan",
    "HookError": "core.errors",
    "Ledger": "core.ledger",
    "NotAvailableError": "core.errors",
    "Preflight": "loading.requirements",
    "RareFeatures": "analysis.rare",
    "ReconsScore": "analysis.reconstruction",
    "Steering": "analysis.steering",
    "TokenHeatmap": "views.heatmap",
    "UnknownNameError": "core.errors",
    "WeightsError": "core.errors",
    "Workbook": "loading.workbook",
    "active_features": "analysis.features",
    "activations": "engine.forward",
    "chat_tokens": "loading.corpus",
    "claims_of": "loading.catalogue",
    "claims_of_reference": "analysis.reference",
    "compare": "analysis.similarity",
    "explore": "views.explorer.explorer",
    "feature_activations": "analysis.features",
    "feature_page": "views.feature_page.write",
    "feature_pages": "views.feature_page.write",
    "find_site": "analysis.sites",
    "load": "loading.workbook",
    "logit_effect": "analysis.features",
    "permute_features": "analysis.renumbering",
    "preflight": "loading.requirements",
    "rare_features": "analysis.rare",
    "read_reference": "analysis.reference",
    "recons_score": "analysis.reconstruction",
    "reconstruction_metrics": "analysis.reconstruction",
    "release_named": "loading.catalogue",
    "releases": "loading.catalogue",
    "rule_agreement": "core.formulas",
    "scan": "analysis.scanning.run_scan",
    "select_features": "analysis.renumbering",
    "show": "views.tables",
    "sparse_probe": "analysis.probing",
    "steer": "analysis.steering",
    "str_tokens": "core.tokens",
    "text_heatmap": "views.explorer.explorer",
    "token_df": "core.tokens",
    "token_heatmap": "views.heatmap",
    "token_losses": "engine.forward",
    "validate": "analysis.reference",
    "versions": "views.tables",
    "vocab_df": "core.tokens",
    "write_reference": "analysis.reference",
}
__all__ = sorted(_HOME)
_MODULES = {  # their names say what they are about: saework.saebench.read(...)
    "corpus": "loading.corpus",
    "feature_ordering": "studies.feature_ordering",
    "formulas": "core.formulas",
    "plots": "views.plots",
    "probing": "analysis.probing",
    "saebench": "studies.saebench",
    "steering": "analysis.steering",
}


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"saework.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"saework.{_MODULES[name]}")
    raise AttributeError(f"module 'saework' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, *_MODULES, "__version__"]
