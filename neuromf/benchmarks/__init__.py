"""Measured costs: seconds and memory of training steps, autoencoders and generation."""
