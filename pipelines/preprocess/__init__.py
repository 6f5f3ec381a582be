"""The preprocessing stage: a raw T1w and a raw BOLD series to fMRIPrep-like files."""
