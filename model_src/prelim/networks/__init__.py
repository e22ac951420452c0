"""Networks for import, training and export; not part of an archive."""
