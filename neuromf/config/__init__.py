"""The schema of config.yaml, one module per block."""
