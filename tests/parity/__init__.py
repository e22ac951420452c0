"""Compares our systems with recorded outputs of the five original implementations.

    python -m tests.parity tests/parity/fixtures/*.gz

A fixture is a JSON file with outputs of an original implementation, and rules that generate its weights and inputs
from their names. This code contains no values of a fixture.
"""
