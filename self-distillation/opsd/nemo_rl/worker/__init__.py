"""What runs in the worker processes, one for each GPU."""
