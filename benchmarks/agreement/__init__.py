"""Number of tokens that each precision changes."""
