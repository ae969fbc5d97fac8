"""What a worker process imports to make its model and SAE."""

import os


def gelu_mini():
    """The bundled model and SAE."""
    import saework

    workbook = saework.load("gelu-1l-mini", check=False)
    return workbook.model, workbook.sae


def dies():
    """What a process does that runs out of memory."""
    os._exit(1)
