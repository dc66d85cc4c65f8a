"""Model card and page of the growth system."""
