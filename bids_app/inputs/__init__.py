"""What is read: BIDS datasets and derivatives, their names, sidecars and field maps."""
