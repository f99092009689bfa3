"""What people run: one thin file per job."""
