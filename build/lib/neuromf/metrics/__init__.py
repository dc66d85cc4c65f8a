"""Distances between sets of volumes: arrays in, numbers or table rows out."""
