"""What a report says, as clinical labels, by rules: for evaluation, and for records that must not have its text."""
