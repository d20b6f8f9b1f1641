"""Training scripts for benchmarks/diagnosis.py: five healthy ones, and the faults that are put into them."""
