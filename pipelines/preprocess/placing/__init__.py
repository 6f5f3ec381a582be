"""The BOLD reference on the T1w image."""
