"""Words that every room speaks: errors, argument checks, files, tokens, formulas, the ledger.

Nothing here knows a model.
"""
