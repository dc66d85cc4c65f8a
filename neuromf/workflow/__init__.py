"""What the Snakefile needs: digests, listing, runs, gates. Never imports torch."""
