"""Scores of a report against its reference: each module gives measures, and says whose protocol it follows."""
