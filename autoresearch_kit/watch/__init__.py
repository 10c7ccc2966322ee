"""A run while it goes on: what there is to see, and where it is shown."""
