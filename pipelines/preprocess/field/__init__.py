"""The unevenness of the magnetic field: how it is told, and what it does to a BOLD image."""
