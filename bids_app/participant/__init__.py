"""The participant level: what is to be done, what is there, and what is written."""
