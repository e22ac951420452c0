"""Whether our systems compute what the five original implementations computed.

    python -m tests.parity tests/parity/fixtures/*.gz

A fixture is a JSON file of outputs of an original implementation, with the rules by which its weights and inputs
are made from names alone. Nothing here knows a fixture's numbers.
"""
