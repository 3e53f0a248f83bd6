"""What is known about rows and scores besides the predictions."""
