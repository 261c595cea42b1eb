"""Claims about methods, answered by a stored study under a rule fixed before any number is seen."""
