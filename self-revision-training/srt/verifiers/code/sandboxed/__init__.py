"""Scripts that run inside the sandbox, into which their text is copied; they import nothing of ours."""
