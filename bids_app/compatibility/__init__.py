"""Which tools can go on from a derivative, and what each of them lacks by name."""
