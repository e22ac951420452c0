"""Memory of a served model."""
