"""Launching a training: workers on this machine, by ssh or in Spark, and what keeps them going."""
