"""The toy world of the quickstart: problems, and a tiny base model that gets half of them wrong."""
