"""Scripts that run inside of the sandbox; nothing here imports anything of ours."""
