"""Programs; each runs from a checkout without being installed."""
