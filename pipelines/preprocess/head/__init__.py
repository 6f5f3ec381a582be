"""The BOLD reference, and where the head is in each volume."""
