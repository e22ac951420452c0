"""Scores of systems and their baselines."""
