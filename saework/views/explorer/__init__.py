"""A widget to look at one feature on any text."""
