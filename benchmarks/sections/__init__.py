"""The parts of ``make bench-train``; each returns its records."""
