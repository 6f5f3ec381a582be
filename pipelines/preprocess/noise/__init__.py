"""What disturbs a series: confounds, faults, and the verdict on a run."""
