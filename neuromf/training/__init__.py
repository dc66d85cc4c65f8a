"""Lightning wiring that every training shares."""
