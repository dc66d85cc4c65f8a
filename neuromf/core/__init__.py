"""Plumbing without domain knowledge: files, seeds, threads, hardware."""
