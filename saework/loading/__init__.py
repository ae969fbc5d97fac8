"""From a release's name to a Workbook: what is published, where it is, and how it is laid out."""
