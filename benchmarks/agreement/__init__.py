"""How many tokens each precision changes."""
