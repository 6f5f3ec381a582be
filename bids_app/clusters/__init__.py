"""Where the work is done besides this process: Dask workers and SLURM jobs."""
