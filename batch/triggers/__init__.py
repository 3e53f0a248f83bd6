"""What starts a run besides a person."""
