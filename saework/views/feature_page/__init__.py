"""One page per feature, as a file that needs no network."""
