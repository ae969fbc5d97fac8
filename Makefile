.PHONY: check format

check:
	ruff format --check .
	ruff check .
	mypy
	HF_HUB_OFFLINE=1 pytest

format:
	ruff format .
	ruff check --fix .
