"""Words that every room speaks: errors, argument checks, files, tokens as text, formulas, the ledger. Knows no model."""
