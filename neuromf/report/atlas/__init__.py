"""Pages and demonstrations of the atlas."""
