"""The job, and where it runs. One engine so far: this machine."""
