"""The notebooks as a whole: run, record, export and replay them."""
