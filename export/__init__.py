"""From a model folder to an archive that the server reads."""
