"""One page per feature, in a notebook, as text, or as a file that needs no network."""
