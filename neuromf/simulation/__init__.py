"""Simulated participants whose ground truth is known."""
