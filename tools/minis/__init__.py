"""How the offline minis were made: ``python -m tools.minis.build build NAME``."""
