"""The verbs of the second command, one module each."""
