"""Plumbing without domain knowledge: files, random generators, threads, hardware."""
