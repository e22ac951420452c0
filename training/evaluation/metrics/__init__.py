"""What a report is worth beside its reference: each module gives measures, and says whose protocol it follows."""
