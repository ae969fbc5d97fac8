"""Published SAE layouts, one file each: which files, how they are read, how they are written.

To add a layout:

1. Write ``layouts/NAME.py`` with one object of a subclass of ``SaeLayout`` (see ``sae_layout.py``
   for the methods, and ``gemma_scope.py`` for the shortest example).
2. Add the object to ``SAE_LAYOUTS`` in ``catalogue.py``, and a release that uses it to the table.
3. For a mini in that layout, add its recipe to ``tools/minis/recipes.py``.

Its tests go to ``tests/loading/layouts/test_NAME.py``: equality with the publisher's own formula,
what a damaged file gets, and a round trip (write, read, same weights).
"""
