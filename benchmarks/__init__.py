"""Real data and measurements."""
