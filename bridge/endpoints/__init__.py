"""The HTTP addresses that the bridge answers: studies announced by a PACS, documents of a draft."""
