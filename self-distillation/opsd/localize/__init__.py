"""Where the reviser disagrees: student and teacher token by token, on graded responses (scripts/localize.sh)."""
