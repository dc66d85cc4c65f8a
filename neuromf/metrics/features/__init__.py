"""Feature extractors between whose outputs distances are computed."""
