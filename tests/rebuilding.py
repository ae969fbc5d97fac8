"""What a worker process imports to make its model and SAE."""

import os


def gelu_mini():
    import saework

    workbook = saework.load("gelu-1l-mini", check=False)
    return workbook.model, workbook.sae


def dies():
    os._exit(1)
