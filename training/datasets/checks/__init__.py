"""What `training.validate_data` looks at, one file each: images, duplicates, leakage, texts, balance; and the page."""
