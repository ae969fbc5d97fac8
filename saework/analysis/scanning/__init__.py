"""One streaming pass over many tokens: what each feature does."""
