"""Two investigations with machinery of their own."""
