"""From an event to the exact request: pages, dry run and dispatcher use the same pure functions."""
