"""What provenance costs, measured: ``python -m benchmarks`` prints a report."""
