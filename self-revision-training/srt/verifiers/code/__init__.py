"""Code: programs run on tests in a sandbox."""
